"""Matrices of posteriors on disk."""

import numpy as np

from synthetic import refusal
from verydeep.evaluation import store
from verydeep.evaluation.posteriors import Pass

MATRIX = np.random.default_rng(0).random((6, 4), np.float32)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    path = tmp_path / "posteriors" / "a.safetensors"
    rows = np.array([5, 1])
    store.save(path, {"posteriors": MATRIX[::2].T, "rows": rows})  # not contiguous
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
    """Or what earlier versions stored would be computed again; that a net is bicubic is in its weights' digest."""
    assert store.key("weights", "data", Pass("dense", 256, True), "fp32") == "ca040c522ed5decd"
