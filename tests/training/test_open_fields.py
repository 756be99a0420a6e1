"""Fields that a recipe leaves open come from the run to resume, the weights to start from, or a preset."""

import shutil

import pytest
import torch

import foreign_nets
import verydeep
from synthetic import refusal
from verydeep.recipe import Recipe
from verydeep.training.open_fields import filled
from verydeep.training.presets import Conditions

SIZES = {"crop": 32, "width": 0.125, "fully_connected": 8}
OPEN = {"net": "A", "initialisation": "glorot", "batch": 4, "epochs": 1, "flip": False}


@pytest.fixture
def run(folder, tmp_path):
    return verydeep.train(folder, Recipe(**OPEN, **SIZES), out=tmp_path / "a")


def sizes(run):
    return {name: getattr(run.recipe, name) for name in SIZES}


def test_sizes_are_those_of_the_weights_to_start_from(run, folder, tmp_path):
    recipe = Recipe(**OPEN | {"net": "B", "start_from": str(run.path)})
    out = tmp_path / "b"
    assert sizes(verydeep.train(folder, recipe, out=out)) == SIZES
    shutil.rmtree(run.path)
    assert verydeep.train(folder, recipe, out=out).ended, "it resumes without what it started from"


def test_a_size_that_is_given_is_kept(run, folder, tmp_path):
    recipe = Recipe(**OPEN | {"start_from": str(run.path), "width": 0.25})
    assert "train both with the same crop" in refusal(verydeep.train, folder, recipe, out=tmp_path / "b")


def test_a_preset_fills_in_what_a_recipe_leaves_open(folder, tmp_path, capsys, monkeypatch):
    given = {"width": 0.125, "fully_connected": 8, "epochs": 1}
    run = verydeep.train(folder, Recipe(**given), out=tmp_path / "a", preset="small")
    assert "preset small, for 4 images of" in capsys.readouterr().err
    assert sizes(run) == SIZES
    assert (run.recipe.batch, run.recipe.initialisation, run.recipe.learning_rate) == (64, "glorot", 0.005)
    monkeypatch.setattr("verydeep.training.presets.CORE_RATE", 1e20)  # a faster machine
    monkeypatch.setattr("verydeep.training.presets.SMALL_NETS", ((64, 0.5),))
    again = verydeep.train(folder, Recipe(**given), out=run, preset="small")
    assert again == run, "a run keeps its sizes"
    other = Recipe(**given | {"width": 0.25})
    assert "width: 0.25 (there: 0.125)" in refusal(verydeep.train, folder, other, out=run, preset="small")


def test_the_scale_of_a_preset_belongs_to_its_crop(tmp_path):
    conditions = Conditions(images=100, classes=10, side=8, rate=1e12)  # too small for any crop
    assert filled(tmp_path, Recipe(net="A"), "small", conditions).scales == (32, 40)
    assert filled(tmp_path, Recipe(net="A", crop=64), "small", conditions).scales == (96, 96)


def test_without_a_preset_the_papers_sizes_are_asked_for(run, folder):
    assert "crop: 224 (there: 32)" in refusal(verydeep.train, folder, Recipe(**OPEN), out=run)


@pytest.mark.parametrize("learns", [(), ("fc6", "fc7", "fc8")])
def test_new_fully_connected_layers_on_another_systems_convolutions(learns, folder, tmp_path):
    """The width is theirs; crop and fc6 are not in their file, and so the recipe's."""
    foreign_nets.write_keras_published(tmp_path / "vgg.h5", foreign_nets.made("A", width=32, head=False))
    given = {"net": "A", "start_from": str(tmp_path / "vgg.h5"), "learns": learns, "epochs": 1, "batch": 2}
    recipe = Recipe(**given, crop=32, fully_connected=8, initialisation="glorot")
    run = verydeep.train(folder, recipe, out=tmp_path / "a")
    assert (run.recipe.width, run.recipe.crop, run.recipe.fully_connected) == (1 / 32, 32, 8)
    source, net = verydeep.load(tmp_path / "vgg.h5"), run.net()
    assert torch.equal(net.conv1_1.weight, source.conv1_1.weight) == bool(learns)
    assert torch.equal(net.conv5_2.bias, source.conv5_2.bias) == bool(learns)
    assert torch.equal(net.mean, source.mean), "which its convolutions were trained with"
    assert run.start.rate == 0.001
    assert net.class_names == ("Dog", "cat")
    resumed = verydeep.train(folder, recipe, out=tmp_path / "a")
    assert resumed.ended


def test_layers_that_a_feature_net_lacks_have_to_learn(folder, tmp_path):
    foreign_nets.write_keras_published(tmp_path / "vgg.h5", foreign_nets.made("A", width=32, head=False))
    recipe = Recipe(net="A", start_from=str(tmp_path / "vgg.h5"), learns=("fc8",), crop=32, fully_connected=8)
    assert "fc6 is frozen and gets no weights" in refusal(verydeep.train, folder, recipe, out=tmp_path / "a")
