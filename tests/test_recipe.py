"""The recipe: the paper's defaults, refusals, TOML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verydeep import recipe as recipes
from verydeep.errors import UserError
from verydeep.recipe import Recipe


def test_the_defaults_are_section_3_1():
    paper = Recipe()
    assert (paper.batch, paper.momentum, paper.weight_decay, paper.dropout) == (256, 0.9, 5e-4, 0.5)
    assert (paper.learning_rate, paper.rate_drops, paper.rate_divisor) == (1e-2, 3, 10)
    assert (paper.epochs, paper.iterations, paper.crop, paper.scales) == (74, 370_000, 224, (256, 256))
    assert (paper.flip, paper.colour_shift, paper.initialisation, paper.std) == (True, 0.1, "normal", 0.01)


@pytest.mark.parametrize(("crop", "scale"), [(224, 256), (64, 73), (32, 37), (96, 110)])
def test_the_training_scale_follows_the_crop_unless_it_is_given(crop, scale):
    assert recipes.recipe(crop=crop).scales == (scale, scale)
    assert recipes.changed(Recipe(), {"crop": crop}).scales == (scale, scale)
    assert recipes.recipe(crop=crop, training_scale=(300, 400)).scales == (300, 400)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"net": "F"}, ["'F'", "A-LRN"]),
        ({"crop": 50}, ["crop is 50", "64"]),
        ({"bath": 3}, ["'bath'", "batch"]),
        ({"batch": 0}, ["batch is 0"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "less than 1"]),
        ({"training_scale": (512, 256)}, ["512 256"]),
        ({"training_scale": (200,)}, ["200 pixels", "at least 224"]),
        ({"training_scale": (256, 300, 400)}, ["training_scale"]),
        ({"learning_rate": float("nan")}, ["learning_rate is nan"]),
        ({"initialisation": "xavier"}, ["'xavier'", "glorot"]),
    ],
)
def test_a_wrong_field_is_refused_by_name_with_what_is_allowed(fields, words):
    with pytest.raises(UserError) as refusal:
        recipes.recipe(**fields)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(
    st.builds(
        Recipe,
        net=st.sampled_from(["A", "B-5x5"]),
        batch=st.integers(1, 10_000),
        learning_rate=st.floats(1e-9, 10),
        training_scale=st.lists(st.integers(224, 900), min_size=1, max_size=2).map(lambda s: tuple(sorted(s))),
        start_from=st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
        flip=st.booleans(),
    )
)
def test_a_recipe_survives_its_toml_file(recipe):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        recipes.write(recipe, path)
        assert recipes.read(path) == recipe


def test_a_toml_file_with_errors_is_refused_by_its_name(tmp_path):
    path = tmp_path / "recipe.toml"
    with pytest.raises(UserError, match=str(path)):
        recipes.read(path)
    for text in ("batch = ", "bath = 3", "batch = 'x'"):
        path.write_text(text)
        with pytest.raises(UserError, match=str(path)):
            recipes.read(path)


def test_differences_name_the_fields():
    assert recipes.differences(Recipe(), Recipe()) == []
    lines = recipes.differences(recipes.recipe(net="D", batch=64), Recipe())
    assert lines == ["net: D (there: A)", "batch: 64 (there: 256)"]


def test_the_rate_of_a_net_that_starts_from_its_own_configuration_is_1e_3():
    assert recipes.fine_tuning(recipes.recipe(net="D"), "D").learning_rate == 1e-3
    assert recipes.fine_tuning(recipes.recipe(net="D"), "A").learning_rate == 1e-2
    assert recipes.fine_tuning(recipes.recipe(net="D", learning_rate=1e-2), "D").learning_rate == 1e-2


def test_a_rate_in_a_file_is_a_rate_that_was_given(tmp_path):
    (tmp_path / "recipe.toml").write_text('net = "D"\nepochs = 3\n')
    assert recipes.fine_tuning(recipes.read(tmp_path / "recipe.toml"), "D").learning_rate == 1e-3
    recipes.write(recipes.recipe(net="D"), tmp_path / "recipe.toml")
    assert recipes.fine_tuning(recipes.read(tmp_path / "recipe.toml"), "D").learning_rate == 1e-2
    other = recipes.changed(recipes.recipe(net="D"), {"epochs": 3})
    assert recipes.fine_tuning(other, "D").learning_rate == 1e-3
