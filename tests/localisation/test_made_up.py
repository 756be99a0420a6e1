"""Digits with boxes: the box is that of the ink, and an image depends only on seed, split and number."""

import numpy as np
import pytest

from synthetic import refusal
from verydeep.localisation.made_up import digits_with_boxes


def test_the_ink_fills_the_box_and_only_the_box():
    found = digits_with_boxes(20, side=48)
    for pixels, (box,) in zip(found.dataset.photographs, found.boxes, strict=True):
        x0, y0, x1, y1 = box.astype(int)
        height, width = pixels.shape[:2]
        assert (min(width, height), 0 <= x0 < x1 <= width, 0 <= y0 < y1 <= height) == (48, True, True)
        outside = np.ones((height, width), bool)
        outside[y0:y1, x0:x1] = False
        brightest = pixels.min(2)
        assert brightest[y0:y1, x0:x1].max() > 160
        assert np.percentile(brightest[outside], 99) < 150


def test_images_depend_on_seed_split_and_number_alone():
    one, longer = digits_with_boxes(3), digits_with_boxes(5)
    other, val = digits_with_boxes(3, seed=1), digits_with_boxes(3, split="val")
    for number in range(3):
        assert np.array_equal(one.dataset.photographs[number], longer.dataset.photographs[number])
        for different in (other, val):
            assert not np.array_equal(one.boxes[number], different.boxes[number])
    assert set(digits_with_boxes(100).dataset.labels) == set(range(10))


@pytest.mark.parametrize(("images", "side"), [(0, 64), (3, 8)])
def test_sizes_out_of_range_are_refused(images, side):
    assert "give 1 or more" in refusal(digits_with_boxes, images, side)
