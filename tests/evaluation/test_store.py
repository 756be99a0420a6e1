"""Matrices of posteriors on disk."""

import os
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from synthetic import refusal
from verydeep.evaluation import store
from verydeep.evaluation.protocols import Pass

MATRIX = np.random.default_rng(0).random((6, 4), np.float32)
POSTERIORS = MATRIX / MATRIX.sum(1, keepdims=True)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    path = tmp_path / "posteriors" / "a.safetensors"
    rows = np.array([5, 1])
    store.save(path, {"posteriors": MATRIX[::2].T, "rows": rows})  # not contiguous in memory
    found = store.load(path)
    assert found.keys() == {"posteriors", "rows"}
    np.testing.assert_array_equal(found["posteriors"], MATRIX[::2].T)
    np.testing.assert_array_equal(found["rows"], rows)
    assert (found["posteriors"].dtype, found["rows"].dtype) == (np.float32, np.int64)
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


def test_a_loaded_matrix_can_be_written_into_without_changing_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    store.save(path, {"posteriors": MATRIX})
    store.load(path)["posteriors"][:] = 0
    np.testing.assert_array_equal(store.load(path)["posteriors"], MATRIX)


def test_nothing_is_found_where_there_is_nothing_or_a_part(tmp_path):
    path = tmp_path / "a.safetensors"
    assert store.load(path) is None
    store.save(path, {"posteriors": MATRIX})
    whole = path.read_bytes()
    for part in (b"", whole[:5], whole[:-1], b"\xff" * 100):
        path.write_bytes(part)
        assert store.load(path) is None
    assert store.load(tmp_path) is None


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    message = refusal(store.save, tmp_path / "file" / "a.safetensors", {"posteriors": MATRIX})
    assert str(tmp_path / "file" / "a.safetensors") in message


def test_a_key_follows_from_all_of_its_parts_and_their_order():
    assert store.key("a", 1) == store.key("a", 1)
    assert len({store.key(*parts) for parts in [("a", 1), (1, "a"), ("a", "1"), ("a",), ("a", 1, None)]}) == 5
    assert store.key("a").isalnum()


def test_a_pass_keeps_its_key():
    """Otherwise, results stored by earlier versions would be computed again.

    Bicubic rescaling is not part of the key, since the digest of the weights covers it.
    """
    assert store.key("weights", "data", Pass("dense", 256, True), "fp32") == "ca040c522ed5decd"


def with_value(value):
    changed = POSTERIORS.copy()
    changed[2, 1] = value
    return changed


def test_posteriors_are_probabilities(tmp_path):
    path = tmp_path / "a.safetensors"
    store.save(path, {"posteriors": POSTERIORS})
    np.testing.assert_array_equal(store.matrix(path, 6, 4), POSTERIORS)
    wrong = [MATRIX, with_value(-0.1), with_value(np.nan), with_value(0.9), POSTERIORS[:5], POSTERIORS[:, :3],
             POSTERIORS.astype(np.float64)]  # fmt: skip
    for each in wrong:
        store.save(path, {"posteriors": each})
        assert store.matrix(path, 6, 4) is None
    store.save(path, {"others": POSTERIORS})
    assert store.matrix(path, 6, 4) is None


def test_a_matrix_of_versions_without_digests_is_read(tmp_path):
    save_file({"posteriors": POSTERIORS}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(store.matrix(tmp_path / "a.safetensors", 6, 4), POSTERIORS)


def test_a_bit_that_has_changed_is_found(tmp_path):
    """Many of these changes leave valid probabilities, or rows that are in range: only the digest shows them."""
    store.save(tmp_path / "a", {"posteriors": POSTERIORS})
    store.save(tmp_path / "b", {"posteriors": POSTERIORS, "rows": np.arange(6)})
    for name, read in (
        ("a", lambda path: store.matrix(path, 6, 4)),
        ("b", lambda path: store.part(path, range(6), 4)),
    ):
        whole = (tmp_path / name).read_bytes()
        for at in range(0, len(whole), 3):
            changed = bytearray(whole)
            changed[at] ^= 1
            (tmp_path / "changed").write_bytes(changed)
            assert read(tmp_path / "changed") is None


def test_a_part_gives_the_rows_that_are_of_use(tmp_path):
    store.save(tmp_path / "a", {"posteriors": POSTERIORS[:3], "rows": np.array([7, 2, 5])})
    rows, found = store.part(tmp_path / "a", range(6), 4)
    assert rows.tolist() == [2, 5]
    np.testing.assert_array_equal(found, POSTERIORS[1:3])


@pytest.mark.parametrize(
    "arrays",
    [
        {"posteriors": POSTERIORS[:3]},
        {"rows": np.arange(3)},
        {"posteriors": POSTERIORS[:3], "rows": np.array([1, 1, 2])},
        {"posteriors": POSTERIORS[:3], "rows": np.array([1, 2])},
        {"posteriors": POSTERIORS[:3], "rows": np.arange(3.0)},
        {"posteriors": POSTERIORS[:3], "rows": np.arange(3)[None]},
        {"posteriors": MATRIX[:3], "rows": np.arange(3)},
    ],
)
def test_a_part_that_is_none_is_not_taken(tmp_path, arrays):
    save_file(arrays, tmp_path / "old")  # without a digest, which would hide what is tested here
    store.save(tmp_path / "a", arrays)
    assert store.part(tmp_path / "a", range(6), 4) is store.part(tmp_path / "old", range(6), 4) is None


def test_rows_out_of_range_are_of_no_use(tmp_path):
    store.save(tmp_path / "a", {"posteriors": POSTERIORS[:3], "rows": np.array([-1, 6, 2**40])})
    rows, found = store.part(tmp_path / "a", range(6), 4)
    assert (len(rows), found.shape) == (0, (0, 4))


def test_a_run_that_was_removed_is_not_made_anew(tmp_path):
    path = tmp_path / "run" / "posteriors" / "a.safetensors"
    assert "run is gone" in refusal(store.save, path, {"posteriors": POSTERIORS}, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "run").mkdir()
    store.save(path, {"posteriors": POSTERIORS}, tmp_path / "run")
    assert path.exists()


def test_what_killed_tests_have_left_is_removed(tmp_path):
    weights, folder, now = tmp_path / "weights", tmp_path / "posteriors", time.time()
    folder.mkdir()
    for path, age in (
        (weights, 100), (folder / "of-earlier-weights.0-of-1.unfinished", 200),
        (folder / "resumable.0-of-1.unfinished", 50), (folder / ".a.7.part", 8000), (folder / ".tmpA1b2C3", 8000),
        (folder / ".being-written.8.part", 5), (folder / "a.safetensors", 8000),
    ):  # fmt: skip
        path.write_text("")
        os.utime(path, (now - age, now - age))
    store.remove_leftovers(folder, weights)
    assert {path.name for path in folder.iterdir()} == {
        "resumable.0-of-1.unfinished", ".being-written.8.part", "a.safetensors"
    }  # fmt: skip
