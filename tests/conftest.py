"""While tests run, every shape and type that a signature of verydeep states is checked."""

import os

import pytest
from jaxtyping import install_import_hook

# Test processes share the cores, and threads that wait for one another by spinning would slow all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook("verydeep", "beartype.beartype")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """No test writes to the user's own cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two classes, two training images each and one for validation."""
    from synthetic import write  # imports verydeep, which has to be hooked first

    root = tmp_path / "pets"
    for seed, name in enumerate(("train/cat/b.png", "train/cat/a.JPG", "train/Dog/1.jpeg", "train/Dog/2.WebP")):
        write(root / name, seed)
    write(root / "val/cat/c.png", 7)
    write(root / "val/Dog/d.png", 8)
    return root
