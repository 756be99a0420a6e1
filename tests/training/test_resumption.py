"""What a run directory says of how to resume it."""

import json

import pytest

from synthetic import refusal
from verydeep import recipe as recipes
from verydeep.recipe import Recipe
from verydeep.training.journal import Epoch
from verydeep.training.resumption import Recorded, recorded_data, recorded_execution, resumed_recipe
from verydeep.training.run import Run
from verydeep.training.start import Start

RECIPE = Recipe(crop=32, epochs=3, iterations=1000)
EPOCHS = tuple(Epoch(n, 10 * n, 1.0, 0.5, error, "p", 0.01, 1.0, 9.0, 0.0) for n, error in ((1, 0.3), (2, 0.3)))


def run(path, ended="", epochs=EPOCHS):
    return Run(path, RECIPE, Start(None, None, None, 0.01), epochs, ended)


def test_limits_may_be_higher_than_what_is_done(tmp_path):
    there = run(tmp_path)
    assert resumed_recipe(there) == resumed_recipe(there, 3) == RECIPE
    assert resumed_recipe(there, 7, 21) == recipes.changed(RECIPE, {"epochs": 7, "iterations": 21})
    assert resumed_recipe(run(tmp_path, "limit of epochs"), 4).epochs == 4
    assert "epochs is 2, but" in refusal(resumed_recipe, there, 2)
    assert "iterations is 20, but" in refusal(resumed_recipe, there, None, 20)
    assert "epochs is 0" in refusal(resumed_recipe, run(tmp_path, epochs=()), 0)


def test_a_run_whose_rate_has_dropped_for_the_last_time_cannot_be_continued(tmp_path):
    there = run(tmp_path, "no lower validation error after 3 drops of the rate")
    assert resumed_recipe(there) == RECIPE
    assert "a higher limit does not continue it" in refusal(resumed_recipe, there, 9)


def test_progress_and_the_best_epoch(tmp_path):
    assert (run(tmp_path).unfinished, run(tmp_path).best.epoch) == ("epoch 2 of 3", 1)
    assert (run(tmp_path, epochs=()).unfinished, run(tmp_path, epochs=()).best) == ("epoch 0 of 3", None)
    assert run(tmp_path, "limit of epochs").unfinished == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"path": "digits"}', "digits"),
        ('{"path": "/nowhere/at/all"}', None),
        ('{"path": "pets/train"}', None),
        ('{"path": 5}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_the_data_of_a_run(tmp_path, text, found):
    (tmp_path / "data.json").write_text(text)
    assert recorded_data(tmp_path) == found


def test_data_in_a_folder(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"path": str(tmp_path)}))
    assert recorded_data(tmp_path) == str(tmp_path)


def test_how_a_run_was_computed(tmp_path):
    assert recorded_execution(tmp_path) == Recorded()
    start = {"computing": {"precision": "bf16"}, "micro_batch": 8, "recompute": True, "device": "cuda:1"}
    (tmp_path / "environment.json").write_text(json.dumps([{}, start]))
    assert recorded_execution(tmp_path) == Recorded("cuda", "bf16", 8, False, True)
    start["computing"] |= {"precision": "tf32", "deterministic": True}
    (tmp_path / "environment.json").write_text(json.dumps([start]))
    assert recorded_execution(tmp_path) == Recorded("cuda", "tf32", 8, False, True, True)
    for text in ("[]", "[{}]", '[{"computing": 5, "device": 5}]', "5", "{"):
        (tmp_path / "environment.json").write_text(text)
        assert recorded_execution(tmp_path) == Recorded()
