"""Augmentation of training images: each draw depends only on its address."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthetic import memory, pixels
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.photographs.photograph import ImageError
from verydeep.photographs.rescaling import rescale
from verydeep.recipe import Recipe, changed
from verydeep.training.augmentation import Address, Colours, Order, TrainingImages, draw, labels, reading

RECIPE = Recipe(crop=32, training_scale=(32, 64), batch=10, seed=3)
COLOURS = Colours(
    np.array([100.0, 110, 120]),
    np.array([60.0, 10, 5]),
    np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0],
)


def draws(count=4000, **fields):
    chosen = Recipe(**(RECIPE.model_dump() | fields))
    return [draw(chosen, COLOURS, iteration, index) for iteration in range(count // 100) for index in range(100)]


def test_s_is_drawn_from_the_whole_range_for_each_image_each_time():
    scales = np.array([each.scale for each in draws()])
    assert (scales.min(), scales.max()) == (32, 64)
    counts = np.bincount(scales - 32)
    assert counts.min() > 70  # of 121 expected, with a standard deviation of 11
    assert len({draw(RECIPE, COLOURS, iteration, 5).scale for iteration in range(40)}) > 15


def test_a_fixed_s_is_fixed():
    assert {each.scale for each in draws(200, training_scale=(40,))} == {40}


def test_crops_lie_everywhere_and_half_are_mirrored():
    made = draws()
    places = np.array([each.place for each in made])
    assert places.min() >= 0
    assert places.max() < 1
    histogram = np.histogram2d(*places.T, bins=5, range=((0, 1), (0, 1)))[0]
    assert histogram.min() > 110  # of 160 expected, with a standard deviation of 12
    assert abs(np.mean([each.mirror for each in made]) - 0.5) < 0.03
    assert not any(each.mirror for each in draws(200, flip=False))


def test_the_colour_shift_is_gaussian_along_the_principal_components():
    """Covariance of the shifts: components^T diag((0.1 deviation)^2) components, written out."""
    shifts = np.array([each.shift for each in draws(20_000)])
    expected = COLOURS.components.T @ np.diag((0.1 * COLOURS.deviations) ** 2) @ COLOURS.components
    np.testing.assert_allclose(np.cov(shifts.T), expected, atol=0.05 * expected.max())
    assert np.abs(shifts.mean(0)).max() < 0.2
    assert not np.any([each.shift for each in draws(100, colour_shift=0)])


def test_switching_one_augmentation_off_leaves_the_other_draws():
    plain, other = draws(100), draws(100, flip=False)
    assert [each.place for each in plain] == [each.place for each in other]
    assert [each.key for each in plain] == [each.key for each in other]


def test_dropout_keys_are_all_different():
    keys = [each.key for each in draws()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("rescaling", ["bilinear", "bicubic"])
def test_a_crop_is_that_part_of_the_rescaled_photograph(rescaling):
    dataset = memory(6, (50, 90))
    images = TrainingImages(dataset, changed(RECIPE, {"rescaling": rescaling}), COLOURS, labels)
    addresses = [Address(7, position, position) for position in range(6)]
    batch = images.__getitems__(addresses)
    for row, address in enumerate(addresses):
        drawn = draw(RECIPE, COLOURS, 7, address.position)
        whole = rescale(dataset.photographs[address.image], drawn.scale, rescaling).astype(int)
        height, width, _ = whole.shape
        left, top = (
            int(place * (side - 32 + 1)) for place, side in zip(drawn.place, (width, height), strict=True)
        )
        crop = whole[top : top + 32, left : left + 32]
        crop = crop[:, ::-1] if drawn.mirror else crop
        found = batch.images[row].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - crop).max() <= 2  # rounding, see images.rescale_and_crop
        assert batch.targets[row] == dataset.labels[address.image]
        assert batch.keys[row] == drawn.key
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4), st.integers(0, 30))
def test_every_epoch_takes_every_image_once_on_any_number_of_ranks(images, batch, world, start):
    orders = [Order(images, batch, 0, Ranks(rank, world), 0, 40) for rank in range(world)]
    shares = [list(order) for order in orders]
    batches = [[address for share in shares for address in share[iteration]] for iteration in range(40)]
    per_epoch = orders[0].per_epoch
    for epoch in range(40 // per_epoch):
        epoch_batches = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        taken = [address.image for each in epoch_batches for address in each]
        assert sorted(taken) == list(range(images))
    for iteration, each in enumerate(batches):
        assert [address.position for address in each] == list(range(orders[0].size(iteration)))
        assert all(address.iteration == iteration for address in each)
    resumed = list(Order(images, batch, 0, Ranks(), start, 40))
    assert resumed == batches[start:]


def test_orders_differ_between_epochs_and_seeds():
    def order(seed, epoch):
        return [address.image for address in next(iter(Order(50, 50, seed, Ranks(), epoch, epoch + 1)))]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 5) == order(0, 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_with_any_number_of_workers(workers):
    dataset = memory(25, (50, 90))
    order = Order(25, 10, RECIPE.seed, Ranks(), 1, 5)
    expected = [TrainingImages(dataset, RECIPE, COLOURS, labels).__getitems__(addresses) for addresses in order]
    with reading(dataset, RECIPE, COLOURS, labels, order, workers, torch.device("cpu")) as batches:
        found = list(batches)
    assert [len(batch.targets) for batch in found] == [10, 5, 10, 10]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(*tensors) for tensors in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_comes_out_of_the_loader_with_its_path(tmp_path, workers):
    dataset = Dataset("one", ("a",), (tmp_path / "gone.jpg", pixels(0, 40, 40)), np.zeros(2, np.int64))
    order = Order(2, 2, 0, Ranks(), 0, 1)
    with reading(dataset, RECIPE, COLOURS, labels, order, workers, torch.device("cpu")) as batches:
        (found,) = batches
    assert isinstance(found, ImageError)
    assert "gone.jpg" in str(found)
