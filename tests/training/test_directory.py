"""A run directory is not written to if it is not the one that a training has entered."""

import json
import shutil

import pytest
import torch

from synthetic import refusal
from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe, changed
from verydeep.training import checkpoint
from verydeep.training.checkpoint import Progress
from verydeep.training.run import run_directory
from verydeep.training.step import new_optimiser

RECIPE = Recipe(crop=32, width=0.125, fully_connected=8, epochs=3)
DATA = {"path": "memory", "classes": ["a", "b"], "images": 40, "validation_images": 0, "mean": [1.0, 2.0, 3.0]}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ConvNet(RECIPE.architecture(2))


def save(entered, net, iteration=1):
    optimiser = new_optimiser(net, RECIPE, 0.01)
    checkpoint.save(entered, net, optimiser.state_dict(), Progress(iteration=iteration))


def enter(path, recipe=RECIPE, data=DATA):
    return run_directory(path, recipe, data, Ranks())


def test_a_directory_that_was_removed_is_not_made_anew(tmp_path, net):
    with enter(tmp_path / "a") as entered:
        shutil.rmtree(tmp_path / "a")
        assert "moved, removed or replaced" in refusal(save, entered, net)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_made_anew_for_another_run_is_left_alone(tmp_path, net):
    """The old training, in its own process, would have given the new one its checkpoint."""
    path = tmp_path / "a"
    with enter(path) as old:
        shutil.rmtree(path)
        with enter(path, changed(RECIPE, {"seed": 1})) as new:
            before = sorted(path.iterdir())
            assert "moved, removed or replaced" in refusal(save, old, net)
            assert sorted(path.iterdir()) == before
            save(new, net)
            optimiser = new_optimiser(net, RECIPE, 0.01)
            assert checkpoint.restore(new, net, optimiser).iteration == 1


def test_a_directory_that_is_replaced_during_a_write_is_left_alone(tmp_path):
    path = tmp_path / "a"

    def write():
        with enter(path) as entered, entered.written("file") as aside:
            aside.write_text("much")
            path.rename(tmp_path / "b")
            path.mkdir()
            (path / aside.name).write_text("much")

    assert "moved, removed or replaced" in refusal(write)
    assert not (path / "file").exists()


def test_a_start_that_was_killed_and_one_of_another_recipe_do_not_mix(tmp_path, net):
    """A checkpoint copied from another run."""
    for name, recipe in (("a", RECIPE), ("b", changed(RECIPE, {"seed": 1}))):
        with enter(tmp_path / name, recipe) as entered:
            save(entered, net)
    shutil.copy(tmp_path / "a" / "checkpoint.pt", tmp_path / "b")
    with enter(tmp_path / "b", changed(RECIPE, {"seed": 1})) as entered:
        message = refusal(checkpoint.restore, entered, net, new_optimiser(net, RECIPE, 0.01))
        assert "it belongs to another run, where seed is 0, not 1" in message


def test_a_limit_may_change(tmp_path, net):
    with enter(tmp_path / "a") as entered:
        save(entered, net)
    (tmp_path / "a" / "recipe.toml").write_text(
        (tmp_path / "a" / "recipe.toml").read_text().replace("epochs = 3", "epochs = 4")
    )
    with enter(tmp_path / "a", changed(RECIPE, {"epochs": 4})) as entered:
        assert checkpoint.restore(entered, net, new_optimiser(net, RECIPE, 0.01)).iteration == 1


def test_a_checkpoint_on_other_data_is_of_another_run(tmp_path, net):
    with enter(tmp_path / "a") as entered:
        save(entered, net)
    other = DATA | {"images": 41}
    (tmp_path / "a" / "data.json").write_text(json.dumps(other))
    with enter(tmp_path / "a", data=other) as entered:
        message = refusal(checkpoint.restore, entered, net, new_optimiser(net, RECIPE, 0.01))
    assert "the data are others" in message


@pytest.mark.parametrize(
    "content", ["[]", "[" * 100_000, '{"images": ' + "1" * 5000 + "}", "", "\0", '"a"', "null"]
)
def test_data_that_are_not_a_run_s_are_one_line(tmp_path, net, content):
    with enter(tmp_path / "a") as entered:
        save(entered, net)
    (tmp_path / "a" / "data.json").write_text(content)

    def again():
        with enter(tmp_path / "a"):
            raise AssertionError

    assert "data.json" in refusal(again)
