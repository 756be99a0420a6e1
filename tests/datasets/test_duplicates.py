"""Photographs that two data sets share."""

import numpy as np

from synthetic import memory, pixels, write
from verydeep.datasets.dataset import Dataset, open_dataset
from verydeep.datasets.duplicates import same_content


def test_the_same_content_is_found_under_whatever_name(folder):
    train, val = (open_dataset(folder, split) for split in ("train", "val"))
    assert same_content(train, val) == ()
    copy = (folder / "train/cat/b.png").read_bytes()
    for name in ("val/Dog/a copy.png", "val/Dog/d.png", "train/cat/z.png"):
        (folder / name).write_bytes(copy)
    train, val = (open_dataset(folder, split) for split in ("train", "val"))
    found = [(train.photographs[one].name, val.photographs[other].name) for one, other in same_content(train, val)]
    assert found == [("b.png", "a copy.png"), ("b.png", "d.png")]


def test_one_byte_makes_another_content(folder):
    path = write(folder / "train/cat/large.png", 1, 90, 90)
    data = path.read_bytes()
    assert len(data) > 10_000
    for at in (0, 5000, -1):
        other = bytearray(data)
        other[at] ^= 1
        (folder / "val/cat/large.png").write_bytes(other)
        assert same_content(open_dataset(folder, "train"), open_dataset(folder, "val")) == ()


def test_what_cannot_be_read_is_passed_over(folder):
    (folder / "train/cat/gone.jpg").symlink_to(folder / "gone.jpg")
    (folder / "val/cat/gone.jpg").symlink_to(folder / "gone.jpg")
    assert same_content(open_dataset(folder, "train"), open_dataset(folder, "val")) == ()


def test_pixels_in_memory_are_compared_too():
    one, other = memory(5), memory(3)
    assert same_content(one, other) == ((0, 0), (1, 1), (2, 2))
    turned = Dataset("turned", ("a",), (pixels(0, 7, 5),), np.zeros(1, np.int64))
    assert same_content(one, turned) == ()
