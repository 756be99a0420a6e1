"""Boxes: worked examples by hand, and what holds for any boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from box_strategies import boxes, some_boxes
from verydeep.localisation.boxes import (
    area,
    boxes_of,
    clipped,
    cropped,
    intersection,
    mirrored,
    overlap,
    regression_targets,
    rescaled,
    visible,
)


def test_areas_and_overlaps_by_hand():
    square, half, beside = [0, 0, 2, 2], [0, 0, 2, 1], [2, 0, 4, 2]
    assert area(boxes(square, half, [3, 3, 1, 5])).tolist() == [4, 2, 0]
    assert intersection(boxes(square), boxes(half, beside, [1, 1, 5, 5])).tolist() == [[2, 0, 1]]
    assert overlap(boxes(square), boxes(square, half, beside, [1, 1, 3, 3])).tolist() == [[1, 0.5, 0, 1 / 7]]


def test_a_box_of_no_area_overlaps_nothing():
    point = boxes([1, 1, 1, 1])
    assert overlap(point, point).tolist() == [[0]]
    assert visible(point, 5, 5).tolist() == [0]


def test_targets_by_hand():
    """A box in the right half of a crop of 100 pixels."""
    found = regression_targets(boxes([50, 0, 100, 100]), 100)
    assert found.tolist() == [[0.25, 0.0, 0.5, 1.0]]
    assert boxes_of(found, np.array([[10.0, 20.0]]), 100).tolist() == [[60, 20, 110, 120]]


def test_a_negative_size_is_no_area():
    assert area(boxes_of(np.array([[0, 0, -1.0, 0.5]]), np.zeros((1, 2)), 32)).tolist() == [0]


def test_a_box_follows_an_image():
    box = boxes([10, 20, 30, 60])
    assert rescaled(box, (100, 200), (50, 400)).tolist() == [[5, 40, 15, 120]]
    assert cropped(box, 8, 16).tolist() == [[2, 4, 22, 44]]
    assert mirrored(box, 100).tolist() == [[70, 20, 90, 60]]
    assert clipped(box, 20, 50).tolist() == [[10, 20, 20, 50]]
    assert visible(box, 20, 40).tolist() == [0.25]


@given(some_boxes(), some_boxes())
def test_overlap_is_symmetric_and_between_0_and_1(one, other):
    found = overlap(one, other)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert found == pytest.approx(overlap(other, one).T)


@given(some_boxes())
def test_a_box_overlaps_itself_entirely(one):
    own = np.diag(overlap(one, one))
    assert own[area(one) > 1e-6] == pytest.approx(1)


@given(some_boxes(), st.integers(1, 600))
def test_mirroring_twice_changes_nothing_and_keeps_overlaps(one, width):
    twice = mirrored(mirrored(one, width), width)
    assert twice == pytest.approx(one, abs=1e-9)
    assert overlap(mirrored(one, width), mirrored(one, width)) == pytest.approx(overlap(one, one), abs=1e-6)


@given(some_boxes(), st.integers(32, 512), st.integers(0, 300), st.integers(0, 300))
def test_targets_and_boxes_are_inverse(one, crop, left, top):
    outputs = regression_targets(cropped(one, left, top), crop)
    assert boxes_of(outputs, np.tile([float(left), top], (len(one), 1)), crop) == pytest.approx(one, abs=1e-6)


@given(some_boxes(), st.integers(1, 400), st.integers(1, 400))
def test_what_is_clipped_is_inside_and_no_larger(one, width, height):
    inside = clipped(one, width, height)
    assert (area(inside) <= area(one) + 1e-9).all()
    assert (inside >= 0).all()
    assert (inside <= [width, height, width, height]).all()
    assert ((visible(one, width, height) >= 0) & (visible(one, width, height) <= 1 + 1e-9)).all()
