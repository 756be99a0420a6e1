"""Check every shape and type in the signatures of verydeep while tests run."""

import os
import sys
from importlib.machinery import PathFinder

import pytest
from jaxtyping import install_import_hook

# Test processes share the cores: threads that spin while they wait would slow all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook("verydeep", "beartype.beartype")


class Uncompiled(PathFinder):
    """Finds the module that no types are checked in: its functions are Triton's source, not Python's."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, path, target) if name == "verydeep.engine.kernels" else None


sys.meta_path.insert(0, Uncompiled)


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU on a machine without one."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of its own for each test, so that none writes to the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def verydeep(monkeypatch, capsys, tmp_path):
    """A function that runs a command in an empty folder; returns exit code, standard output and standard error."""
    from verydeep import cli  # must come after the hook

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["verydeep", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def folder(tmp_path):
    """A data set of two classes, each with two training images and one for validation."""
    from synthetic import write  # imports verydeep, so it must come after the hook

    root = tmp_path / "pets"
    for seed, name in enumerate(("train/cat/b.png", "train/cat/a.JPG", "train/Dog/1.jpeg", "train/Dog/2.WebP")):
        write(root / name, seed)
    write(root / "val/cat/c.png", 7)
    write(root / "val/Dog/d.png", 8)
    return root
