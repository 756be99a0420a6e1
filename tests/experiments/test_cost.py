"""The calculated cost of a step is what the nets compute."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import verydeep
from verydeep.configurations import Architecture
from verydeep.evaluation.multicrop import windows
from verydeep.evaluation.protocols import Pass
from verydeep.experiments.cost import (
    dense_multiply_adds,
    pass_images,
    pass_multiply_adds,
)
from verydeep.photographs.rescaling import rescaled_size
from verydeep.recipe import Recipe
from verydeep.training.cost import training_images, training_multiply_adds

TINY = Architecture("A", classes=3, crop=32, width=1 / 64, fully_connected=2)
BY_HAND = (
    32**2 * 9 * 3 * 1  # conv1_1: one channel
    + 16**2 * 9 * 1 * 2  # conv2_1: two
    + 8**2 * 9 * (2 * 4 + 4 * 4)  # conv3_1 and conv3_2: four
    + 4**2 * 9 * (4 * 8 + 8 * 8)
    + 2**2 * 9 * (8 * 8 + 8 * 8)
    + 8 * 2  # fc6 of 1 x 1
    + 2 * 2
    + 2 * 3
)


def tiny(**fields):
    return Recipe(net="A", crop=32, width=1 / 64, fully_connected=2, training_scale=32, batch=4, **fields)


def counted(net, images):
    """The multiply-adds of a forward pass, counted layer by layer."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.shape[2] * output.shape[3] * module.weight.numel() * len(output)

    for layer in net.layers:
        if layer.kind == "conv":
            net.get_submodule(layer.name).register_forward_hook(count)
    with torch.no_grad():
        net.score_map(images)
    return total


def test_a_crop_costs_what_is_counted_by_hand():
    assert TINY.multiply_adds() == BY_HAND
    assert dense_multiply_adds(TINY, 32, 32) == BY_HAND


@pytest.mark.parametrize("name", ["A", "A-LRN", "C", "B-5x5"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (101, 67), (65, 130)])
def test_a_dense_pass_costs_what_its_layers_do(name, width, height):
    net = verydeep.ConvNet(name, classes=3, crop=64, width=1 / 32, fully_connected=8).eval()
    images = torch.zeros(1, 3, height, width)
    assert dense_multiply_adds(net.architecture, width, height) == counted(net, images)


def test_a_training_costs_three_passes_an_image():
    assert training_multiply_adds(tiny(epochs=2), 3, 10) == 2 * 10 * 3 * BY_HAND


def test_a_training_ends_at_its_limit_of_iterations():
    assert training_images(tiny(epochs=5), 10) == 50
    assert training_images(tiny(epochs=5, iterations=3), 10) == 12


def test_layers_that_do_not_learn_cost_one_pass():
    recipe = tiny(epochs=1, learns=("fc7", "fc8"), start_from="somewhere")
    assert training_multiply_adds(recipe, 3, 10) == 10 * (BY_HAND + 2 * (2 * 2 + 2 * 3))
    # The backward pass goes down to the lowest trained layer, through all layers above it.
    recipe = tiny(epochs=1, learns=("conv1_1",), start_from="somewhere")
    assert training_multiply_adds(recipe, 3, 10) == 10 * 3 * BY_HAND


@pytest.mark.parametrize(
    ("one", "each"),
    [
        (Pass("dense", 64, flip=False), 1),
        (Pass("dense", 64), 2),
        (Pass("centre-crop", 64), 2),
        (Pass("multi-crop", 64), 50),
        (Pass("multi-crop", 64, flip=False, grid=3), 9),
        (Pass("windows", 64), 2 * 2 * 2),
    ],
)
def test_crops_and_mirror_images_count(one, each):
    sizes = [(10, 10)] * 7
    assert pass_images(one, sizes, crop=32) == 7 * each
    if one.method != "dense":
        assert pass_multiply_adds(TINY, one, sizes) == 7 * each * BY_HAND


def test_a_dense_pass_counts_each_size():
    sizes = [(10, 20), (20, 10), (10, 10), (10, 20)]
    expected = 3 * dense_multiply_adds(TINY, 40, 80) + dense_multiply_adds(TINY, 40, 40)
    assert pass_multiply_adds(TINY, Pass("dense", 40, flip=False), sizes) == expected
    assert pass_multiply_adds(TINY, Pass("dense", 40), sizes) == 2 * expected


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(32, 90), st.booleans())
def test_windows_are_as_many_as_are_cut(width, height, scale, flip):
    across, down = rescaled_size(width, height, scale)
    cut = windows(torch.zeros(down, across, 3, dtype=torch.uint8), 32, flip)
    assert pass_images(Pass("windows", scale, flip), [(width, height)], crop=32) == len(cut)
