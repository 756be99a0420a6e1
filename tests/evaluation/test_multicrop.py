"""Sect. 3.2: multi-crop testing: a regular grid of crops, and the mean of their posteriors."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verydeep.evaluation.dense import dense_posteriors
from verydeep.evaluation.multicrop import (
    GRID,
    crop_posteriors,
    grid_crops,
    window_count,
    window_posteriors,
    windows,
)

LARGEST = np.stack([*np.mgrid[:256, :256], np.full((256, 256), 7)], -1).astype(np.uint8)


def coordinates(height, width):
    """Return an image whose pixel (y, x) has the colour (y, x, 7)."""
    return torch.from_numpy(LARGEST)[:height, :width]


def places(crops):
    """Generate the place of each crop, after checking that it was cut from such an image."""
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
    assert crops.dtype == torch.uint8

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
    assert 0 <= top - (height - crop - top) <= 1  # equally far from both borders, to within a pixel
    assert 0 <= left - (width - crop - left) <= 1


@pytest.mark.parametrize("flip", [True, False])
def test_posteriors_are_the_mean_over_50_crops_after_the_soft_max(net, scene, softmax, flip):
    images = [scene(1, 50, 90), scene(2, 64, 33)]
    found = crops_of(net, images, flip)
    for image, posteriors in zip(images, found, strict=True):
        crops = grid_crops(torch.from_numpy(image), 32, 5)
        views = [view for crop in crops for view in ([crop, crop.flip(1)] if flip else [crop])]
        assert len(views) == (50 if flip else 25)
        with torch.no_grad():
            scores = net(torch.stack(views).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(posteriors, softmax(scores).mean(0), rtol=1e-4, atol=1e-6)
        assert np.abs(softmax(scores.mean(0)) - posteriors).max() > 0.01, "the wrong order would go unnoticed"


def crops_of(net, images, flip):
    crops = torch.stack([grid_crops(torch.from_numpy(image), 32, 5) for image in images])
    with torch.no_grad():
        return crop_posteriors(net, crops.permute(0, 1, 4, 2, 3), flip).numpy()


# The windows of a dense score map


@given(SIZES, st.booleans())
def test_windows_lie_32_pixels_apart_in_the_image_and_in_its_mirror_image(sizes, flip):
    crop, height, width = sizes
    image = coordinates(height, width)
    found = windows(image, crop, flip)
    expected = [(top, left) for top in range(0, height - crop + 1, 32) for left in range(0, width - crop + 1, 32)]
    count = window_count(width, height, crop)
    assert len(found) == count * (2 if flip else 1)
    assert list(places(found[:count])) == expected
    mirrored = image.flip(1)
    for (top, left), piece in zip(expected, found[count:], strict=False):
        np.testing.assert_array_equal(piece, mirrored[top : top + crop, left : left + crop])


@pytest.mark.parametrize("flip", [False, True])
def test_windows_give_the_dense_posteriors_where_padding_cannot_matter(new_net, flip):
    net = new_net(seed=3)
    with torch.no_grad():
        for layer in net.layers:
            if layer.kind == "conv" and layer.padding:  # a kernel that uses only its centre sees no padding
                weight = net.get_submodule(layer.name).weight
                centre = weight[:, :, 1, 1].clone()
                weight.zero_()
                weight[:, :, 1, 1] = 3 * centre
    images = (
        np.random.default_rng(0).integers(0, 256, (2, 4, 7, 3), np.uint8).repeat(16, 1).repeat(16, 2)[:, :, :107]
    )
    crops = torch.stack([windows(torch.from_numpy(image), 32, flip) for image in images]).permute(0, 1, 4, 2, 3)
    assert crops.shape[1] == 2 * 3 * (2 if flip else 1)
    with torch.no_grad():
        scores = net(crops.flatten(0, 1))
        net.fc8.weight /= scores.std(0)[:, None, None, None]
        net.fc8.bias.copy_((net.fc8.bias - scores.mean(0)) / scores.std(0))
        dense = dense_posteriors(net, torch.from_numpy(images).permute(0, 3, 1, 2), flip)
        found = window_posteriors(net, crops, flip)
    assert dense.std(0).max() > 1e-3  # the posteriors differ between the images
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)


def test_windows_of_an_image_are_averaged_as_scores_before_the_soft_max(net):
    image = np.random.default_rng(1).integers(0, 256, (70, 101, 3), np.uint8)
    crops = windows(torch.from_numpy(image), 32, True).permute(0, 3, 1, 2)
    with torch.no_grad():
        scores = net(crops).double().numpy().reshape(2, 2 * 3, -1).mean(1)
        found = window_posteriors(net, crops[None], True)[0].numpy()
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    expected = (exponentials / exponentials.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
