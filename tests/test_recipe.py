"""The recipe: the paper's defaults, refusals, TOML."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verydeep import recipe as recipes
from verydeep.errors import UserError
from verydeep.recipe import Recipe


def test_the_defaults_are_section_3_1():
    paper = Recipe()
    assert (paper.batch, paper.momentum, paper.weight_decay, paper.dropout) == (256, 0.9, 5e-4, 0.5)
    assert (paper.initial_rate(None), paper.rate_drops, paper.rate_divisor) == (1e-2, 3, 10)
    assert (paper.epochs, paper.iterations, paper.crop, paper.scales) == (74, 370_000, 224, (256, 256))
    assert (paper.flip, paper.colour_shift, paper.initialisation, paper.std) == (True, 0.1, "normal", 0.01)


@pytest.mark.parametrize(("crop", "scale"), [(224, 256), (64, 96), (32, 64), (128, 160)])
def test_the_training_scale_follows_the_crop_unless_it_is_given(crop, scale):
    assert Recipe(crop=crop).scales == (scale, scale)
    assert recipes.changed(Recipe(), {"crop": crop}).scales == (scale, scale)
    assert recipes.changed(Recipe(crop=160), {"crop": crop}).scales == (scale, scale)
    assert recipes.changed(Recipe(crop=crop), {"batch": 8}).scales == (scale, scale)
    assert Recipe(crop=crop, training_scale=(300, 400)).scales == (300, 400)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"net": "F"}, ["'F'", "A-LRN"]),
        ({"crop": 50}, ["crop is 50", "64"]),
        ({"bath": 3}, ["'bath'", "batch"]),
        ({"batch": 0}, ["batch is 0"]),
        ({"rescaling": "nearest"}, ["'nearest'", "bilinear", "bicubic"]),
        ({"bias_rate": 0}, ["bias_rate is 0", "greater than 0"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "less than 1"]),
        ({"training_scale": (512, 256)}, ["512 256"]),
        ({"training_scale": (200,)}, ["200 pixels", "at least 224"]),
        ({"training_scale": (256, 300, 400)}, ["training_scale"]),
        ({"learning_rate": float("nan")}, ["learning_rate is nan"]),
        ({"learns": ("fc6", "fc9"), "start_from": "runs/a"}, ["'fc9'", "conv1_1", "fc8"]),
        ({"learns": ("conv1_2",), "start_from": "runs/a"}, ["'conv1_2'", "net A"]),
        ({"learns": ("relu6",), "start_from": "runs/a"}, ["'relu6'"]),
        ({"learns": ("fc8",)}, ["fc8", "start_from"]),
        ({"drop_after": (0, 3)}, ["drop_after is (0, 3)", "from 1 on"]),
        ({"drop_after": (4, 3)}, ["drop_after is (4, 3)", "in order"]),
        ({"drop_after": (3, 3)}, ["each once"]),
        ({"initialisation": "xavier"}, ["'xavier'", "glorot"]),
    ],
)
def test_a_wrong_field_is_refused_by_name_with_what_is_allowed(fields, words):
    with pytest.raises(UserError) as refusal:
        Recipe(**fields)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


@settings(deadline=None)  # it waits for the disk
@given(
    st.builds(
        Recipe,
        net=st.sampled_from(["A", "B-5x5"]),
        batch=st.integers(1, 10_000),
        learning_rate=st.floats(1e-9, 10),
        training_scale=st.lists(st.integers(224, 900), min_size=1, max_size=2).map(lambda s: tuple(sorted(s))),
        start_from=st.none() | st.text(st.characters(codec="utf-8"), min_size=1),
        flip=st.booleans(),
        drop_after=st.sets(st.integers(1, 99)).map(lambda epochs: tuple(sorted(epochs))),
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
    assert recipes.differing(Recipe(), Recipe()) == []
    ours = Recipe(net="D", batch=64)
    lines = [recipes.difference(name, ours, Recipe()) for name in recipes.differing(ours, Recipe())]
    assert lines == ["net: D (there: A)", "batch: 64 (there: 256)"]


def test_the_rate_of_a_net_that_starts_from_its_own_configuration_is_1e_3():
    assert Recipe(net="D").initial_rate("D") == 1e-3
    assert Recipe(net="D").initial_rate("A") == 1e-2
    assert Recipe(net="D").initial_rate(None) == 1e-2
    assert Recipe(net="D", learning_rate=1e-2).initial_rate("D") == 1e-2


def test_a_rate_that_was_not_given_is_not_given_by_a_file_either(tmp_path):
    """So flags and the `--recipe` of another run give the same rate."""
    recipes.write(Recipe(net="D"), tmp_path / "recipe.toml")
    read = recipes.changed(recipes.read(tmp_path / "recipe.toml"), {"start_from": "runs/d"})
    assert read.initial_rate("D") == Recipe(net="D", start_from="runs/d").initial_rate("D") == 1e-3
    recipes.write(Recipe(net="D", learning_rate=1e-2), tmp_path / "recipe.toml")
    assert recipes.read(tmp_path / "recipe.toml").initial_rate("D") == 1e-2


def test_numbers_and_paths_are_taken_as_people_write_them():
    recipe = Recipe(training_scale=300, start_from=Path("runs/a"))
    assert (recipe.scales, recipe.start_from) == ((300, 300), "runs/a")
    assert Recipe(training_scale=[256, 512]).scales == (256, 512)


def test_layers_that_learn_are_a_set(tmp_path):
    recipe = Recipe(learns=["fc8", "conv1_1", "fc6", "fc8"], start_from="runs/a")
    assert recipe.learns == ("conv1_1", "fc6", "fc8")
    recipes.write(recipe, tmp_path / "recipe.toml")
    assert recipes.read(tmp_path / "recipe.toml") == recipe


def test_a_recipe_is_typed(tmp_path):
    """For a type checker without plugins."""
    (tmp_path / "user.py").write_text(
        'import verydeep\nrecipe = verydeep.Recipe(net="D", crop=64)\nreveal_type(recipe.crop)\n'
        'run: verydeep.Run = verydeep.train("digits", recipe, out="runs/d")\n'
        "for epoch in run.epochs:\n    print(epoch.loss)\n"
        "errors = [result.top1.value for result in verydeep.test(run.net(), 'digits', scales=[64])]\n"
        "print(verydeep.__version__, verydeep.predict(run.path, ['tom.jpg'])[0].classes[0], errors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "user.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "int"' in done.stdout or 'Revealed type is "builtins.int"' in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch = true", "batch is True: it must be a number"),
        ("drop_after = [true]", "drop_after is"),
        ("learning_rate = 1e308", "learning_rate is 1e+308: it must be at most 1e+30"),
        ("weight_decay = 1e300", "weight_decay is 1e+300"),
        ("learning_rate = 1e20\nbias_rate = 1e20", "the learning rate of the biases is 1e+40"),
        ("rate_divisor = 1e30\nrate_drops = 900", "divided 900 times by 1e+30, becomes 0"),
        (f"epochs = {'1' * 400}", "epochs is 1"),
        (f"batch = {'1' * 5000}", "cannot read the recipe"),
        ("learns = " + "[" * 100_000, "cannot read the recipe"),
    ],
    ids=range(9),
)
def test_numbers_that_cannot_be_computed_with_are_one_line(tmp_path, text, words):
    """They used to end in a traceback, at the latest in the first step."""
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        recipes.read(tmp_path / "recipe.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
