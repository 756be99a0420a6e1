"""Presets of a training: what `small` makes of a data set and a machine."""

import itertools

import pytest
import torch

from verydeep.configurations import CONFIGURATIONS, Architecture
from verydeep.distributed import Ranks
from verydeep.recipe import Recipe
from verydeep.training.presets import (
    CORE_RATE,
    GPU_RATE,
    LONGEST_SECONDS,
    Conditions,
    machine_rate,
    preset_fields,
    preset_line,
    training_seconds,
)

IMAGENETTE = Conditions(images=9469, classes=10, side=144, rate=2 * CORE_RATE)


def small(net="A", start=None, **changed):
    conditions = Conditions(**(vars(IMAGENETTE) | changed))
    recipe = Recipe(net=net, **preset_fields("small", Recipe(net=net), start, conditions))
    return recipe, training_seconds(recipe, conditions)


def test_small_fits_photographs_and_cores():
    recipe, seconds = small()
    assert (recipe.crop, recipe.width, recipe.fully_connected, recipe.batch) == (96, 0.25, 1024, 64)
    assert (recipe.epochs, recipe.drop_after, recipe.learning_rate) == (34, (24, 31), 0.005)
    assert recipe.scales == (128, 128), "which shows all of a photograph of 144 pixels"
    assert seconds < LONGEST_SECONDS


@pytest.mark.parametrize("net", CONFIGURATIONS)
def test_small_makes_a_recipe_for_any_data_and_machine(net):
    counts, sides, rates = (1, 20, 9469, 1_281_167), (8, 64, 100, 500), (CORE_RATE, 16 * CORE_RATE, 8 * GPU_RATE)
    for images, side, rate in itertools.product(counts, sides, rates):
        recipe, seconds = small(net, images=images, side=side, rate=rate)
        smallest = (recipe.crop, recipe.width) == (32, 0.25)
        assert smallest or (recipe.scales[0] <= side and seconds <= LONGEST_SECONDS)
        assert (recipe.scales == (32, 40)) == (side < 64)
        assert 10 <= recipe.epochs <= 100
        assert recipe.drop_after[-1] < recipe.epochs


def test_small_trains_larger_nets_on_a_faster_machine_and_larger_photographs():
    assert small(rate=GPU_RATE, side=500)[0].crop == 224
    assert small(side=500)[0].crop <= small(side=500, rate=8 * CORE_RATE)[0].crop
    assert small("E")[1] < LONGEST_SECONDS


@pytest.mark.parametrize(("epochs", "drops"), [(1, (1,)), (2, (1, 2)), (50, (36, 46))])
def test_drops_follow_the_epochs_that_are_given(epochs, drops):
    recipe = Recipe(epochs=epochs)
    assert preset_fields("small", recipe, None, IMAGENETTE)["drop_after"] == drops


def test_small_fine_tunes_a_net_of_the_same_configuration_for_less_long_at_a_tenth_of_the_rate():
    recipe, _ = small("D", start=Architecture("D"))
    assert (recipe.epochs, recipe.learning_rate, recipe.drop_after) == (10, 0.0005, (7, 9))
    assert small("D", start=Architecture("A"))[0].epochs == 34


def test_small_takes_the_width_of_a_feature_net_and_the_papers_initialisation():
    start = Architecture("D", classes=0)
    new_layers = {"start_from": "d", "learns": ("fc6", "fc7", "fc8")}
    chosen = preset_fields("small", Recipe(net="D", **new_layers), start, IMAGENETTE)
    found = tuple(chosen[name] for name in ("width", "initialisation", "epochs", "learning_rate"))
    assert found == (1.0, "normal", 10, 0.0005)
    smaller = preset_fields("small", Recipe(net="D"), start, IMAGENETTE)
    assert smaller["crop"] < chosen["crop"], "its frozen convolutions have no backward pass"


def test_paper_is_the_papers():
    recipe = Recipe(net="D", **preset_fields("paper", Recipe(net="D"), None, IMAGENETTE))
    assert recipe == Recipe(net="D")


def test_a_preset_is_said_in_a_line():
    recipe, _ = small()
    line = preset_line("small", recipe, IMAGENETTE)
    assert "preset small, for 9,469 images of 144 pixels: crop 96, width 0.25, fully connected 1024" in line
    assert "drop after 24 31; roughly 24 minutes on this machine" in line


def test_the_rate_of_a_machine_grows_with_its_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert machine_rate(Ranks()) == pytest.approx(4 * CORE_RATE)
