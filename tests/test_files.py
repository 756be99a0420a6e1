"""Files that are complete or absent."""

import hashlib
import os
from pathlib import Path

import pytest

from synthetic import refusal
from verydeep import weights
from verydeep.files import digest, exists, is_file, is_folder, written_aside


@pytest.mark.parametrize("content", [b"", b"weights" * 100_000])
def test_a_digest_is_sha_256(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_a_path_names(tmp_path):
    (tmp_path / "file").write_text("")
    os.symlink("file", tmp_path / "link")
    os.symlink("nothing", tmp_path / "broken")
    kinds = dict.fromkeys(("file", "link"), (exists, is_file)) | {".": (exists, is_folder)}
    for name in ("file", "link", ".", "broken", "none", "file/below"):
        said = tuple(ask for ask in (exists, is_file, is_folder) if ask(tmp_path / name))
        assert said == kinds.get(name, ())


@pytest.mark.parametrize("ask", [exists, is_file, is_folder, weights.load, weights.read_card])
def test_what_the_system_does_not_say_is_refused_in_a_line(tmp_path, ask):
    os.symlink("loop", tmp_path / "loop")
    assert "links" in refusal(ask, tmp_path / "loop")
    assert "too long" in refusal(ask, tmp_path / ("x" * 300))
    assert "null" in refusal(ask, tmp_path / "a\0b")


def written(path):
    with written_aside(path) as aside:
        aside.write_text("")


def test_a_name_that_no_file_can_have_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    assert "cannot write xxx" in refusal(written, Path("x" * 300))
    assert "cannot write loop/a: " in refusal(written, Path("loop/a"))
    assert "give the name of a file" in refusal(written, Path("."))
    assert os.listdir() == ["loop"]
