"""Files that contain a digest of their own content."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from verydeep.sealed import Damaged, SealingWriter, check_arrays, check_last_line, read_arrays, write_arrays

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "b": RANDOM.random((3, 5), np.float32),
    "a": RANDOM.integers(0, 9, 7),
    "odd": RANDOM.integers(0, 255, 3, np.uint8),
    "half": RANDOM.random(5).astype(np.float16),
    "short": RANDOM.integers(0, 999, (2, 2), np.uint16),
    "none": np.zeros((0, 4), np.float32),
    "one": np.array(1.5),
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "a.safetensors"
    write_arrays(path, ARRAYS, {"verydeep": '{"names": ["über"]}'})
    return path


@pytest.fixture(scope="module")
def lined(tmp_path_factory):
    path = tmp_path_factory.mktemp("lined") / "a"
    write_lined(path, b"some content\n" * 30)
    return path


def write_lined(path, content):
    with path.open("wb") as file:
        writer = SealingWriter(file)
        writer.write(content[:5])
        writer.write(memoryview(content[5:]))
        writer.seal()


def test_safetensors_reads_what_is_written(sealed):
    found = load_file(sealed)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with safe_open(sealed, "np") as file:
        assert file.metadata().keys() == {"sha256", "verydeep"}
    assert check_arrays(sealed) == {"verydeep": '{"names": ["über"]}'}


def test_equal_content_gives_equal_bytes(sealed, tmp_path):
    write_arrays(tmp_path / "b", dict(reversed(ARRAYS.items())), {"verydeep": '{"names": ["über"]}'})
    assert (tmp_path / "b").read_bytes() == sealed.read_bytes()


@settings(max_examples=60)
@given(at=st.integers(0, 1200), flip=st.integers(1, 255))
def test_a_changed_byte_of_arrays_is_found(sealed, tmp_path_factory, at, flip):
    whole = bytearray(sealed.read_bytes())
    whole[at % len(whole)] ^= flip
    changed = tmp_path_factory.getbasetemp() / "changed"
    changed.write_bytes(whole)
    with pytest.raises(Damaged, match="changed"):
        check_arrays(changed, known=("verydeep", "format"))


@settings(max_examples=30)
@given(at=st.integers(0, 600), flip=st.integers(1, 255))
def test_a_changed_byte_before_a_last_line_is_found(lined, tmp_path_factory, at, flip):
    whole = bytearray(lined.read_bytes())
    whole[at % len(whole)] ^= flip
    changed = tmp_path_factory.getbasetemp() / "changed"
    changed.write_bytes(whole)
    try:
        assert not check_last_line(changed)  # the line is no longer recognised as a digest
        assert whole[:390] == lined.read_bytes()[:390]
    except Damaged:
        pass


def test_a_last_line_is_known(lined, tmp_path):
    assert check_last_line(lined)
    write_lined(tmp_path / "empty", b"")
    assert check_last_line(tmp_path / "empty")
    (tmp_path / "short").write_bytes(b"abc")
    assert not check_last_line(tmp_path / "short")


@pytest.mark.parametrize("cut", [0, 5, 12, 60, 300, 700])
def test_a_file_that_is_cut_is_found(sealed, tmp_path, cut):
    (tmp_path / "part").write_bytes(sealed.read_bytes()[:cut])
    with pytest.raises(Damaged):
        check_arrays(tmp_path / "part")


def test_files_from_before_there_were_digests_are_read(tmp_path):
    save_file(ARRAYS, tmp_path / "old")
    np.testing.assert_array_equal(read_arrays(tmp_path / "old")["b"], ARRAYS["b"])
    save_file(ARRAYS, tmp_path / "old", {"verydeep": "{}", "format": "pt"})
    assert check_arrays(tmp_path / "old", known=("verydeep", "format")) == {"verydeep": "{}", "format": "pt"}
    with pytest.raises(Damaged, match="'format'"):
        check_arrays(tmp_path / "old", known=("verydeep",))


def test_a_file_that_another_program_wrote_anew_is_refused(sealed, tmp_path):
    """The digest was copied with the other metadata, and is no longer valid."""
    with safe_open(sealed, "np") as file:
        save_file(load_file(sealed), tmp_path / "again", file.metadata() | {"a": "b"})
    with pytest.raises(Damaged):
        check_arrays(tmp_path / "again", known=("verydeep", "a"))
