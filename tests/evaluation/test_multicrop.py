"""Sect. 3.2: a regular grid of crops, and the mean of their posteriors."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verydeep.evaluation.multicrop import GRID, crop_posteriors, grid_crops

LARGEST = np.stack([*np.mgrid[:256, :256], np.full((256, 256), 7)], -1).astype(np.uint8)


def coordinates(height, width):
    """An image whose pixel (y, x) is the colour (y, x, 7)."""
    return LARGEST[:height, :width]


def places(crops):
    """Where each crop was taken, after a check that it is a piece of such an image."""
    side = crops.shape[1]
    for crop in crops:
        top, left = map(int, crop[0, 0, :2])
        np.testing.assert_array_equal(crop, LARGEST[top : top + side, left : left + side])
        yield top, left


SIZES = st.integers(1, 256).flatmap(
    lambda crop: st.tuples(st.just(crop), st.integers(crop, 256), st.integers(crop, 256))
)


@given(SIZES)
def test_25_crops_lie_on_a_regular_grid_from_border_to_border(sizes):
    crop, height, width = sizes
    crops = grid_crops(coordinates(height, width), crop, 5)
    assert crops.shape == (25, crop, crop, 3)
    assert crops.dtype == np.uint8

    def offsets(side):
        return [floor(Fraction(i * (side - crop), 4) + Fraction(1, 2)) for i in range(5)]

    assert list(places(crops)) == [(top, left) for top in offsets(height) for left in offsets(width)]
    covered = np.zeros((height, width), bool)
    for top, left in places(crops):
        covered[top : top + crop, left : left + crop] = True
    assert covered[0, 0]
    assert covered[0, -1]
    assert covered[-1, 0]
    assert covered[-1, -1]


def test_an_image_of_one_crop_gives_that_crop_25_times():
    image = coordinates(32, 32)
    assert (grid_crops(image, 32, GRID) == image).all()


@given(SIZES)
def test_the_centre_crop_is_the_middle_one_of_the_grid(sizes):
    crop, height, width = sizes
    image = coordinates(height, width)
    centre = grid_crops(image, crop, 1)
    assert centre.shape == (1, crop, crop, 3)
    np.testing.assert_array_equal(centre[0], grid_crops(image, crop, 5)[12])
    ((top, left),) = places(centre)
    assert 0 <= top - (height - crop - top) <= 1  # as far from either border, to a pixel
    assert 0 <= left - (width - crop - left) <= 1


@pytest.mark.parametrize("flip", [True, False])
def test_posteriors_are_the_mean_over_50_crops_after_the_soft_max(net, scene, softmax, flip):
    images = [scene(1, 50, 90), scene(2, 64, 33)]
    found = crops_of(net, images, flip)
    for image, posteriors in zip(images, found, strict=True):
        views = [view for crop in grid_crops(image, 32, 5) for view in ([crop, crop[:, ::-1]] if flip else [crop])]
        assert len(views) == (50 if flip else 25)
        with torch.no_grad():
            scores = net(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(posteriors, softmax(scores).mean(0), rtol=1e-4, atol=1e-6)
        assert np.abs(softmax(scores.mean(0)) - posteriors).max() > 0.01, "the order of the two does not show"


def crops_of(net, images, flip):
    crops = np.stack([grid_crops(image, 32, 5) for image in images])
    with torch.no_grad():
        return crop_posteriors(net, torch.from_numpy(crops).permute(0, 1, 4, 2, 3), flip).numpy()
