"""Fill in fields that a recipe leaves open: from the run to resume, the weights to start from, or a preset."""

from pathlib import Path

from verydeep import recipe as recipes
from verydeep.interop.loading import read_card
from verydeep.recipe import Recipe
from verydeep.training.presets import PRESET_FIELDS, SIZES, Conditions, Preset, preset_fields, start_sizes
from verydeep.training.run import RECIPE, begun


def filled(path: Path, recipe: Recipe, preset: Preset | None, conditions: Conditions) -> Recipe:
    """Return a recipe with open fields filled in, where there is a source for them.

    The sources, in order of precedence:

    - the recipe of the run, if it has begun, so that the same command resumes it, even after an update, on another
      machine, or without the weights that it started from;
    - the sizes of the weights to start from;
    - the preset.

    Args:
        path: the run directory, whether it exists or not.
        recipe: the user's recipe.
        preset: small, paper, or None.
        conditions: data and machine.

    Raises:
        UserError: if the recipe of the run or the card of the weights cannot be read.
    """
    if begun(path) and (path / RECIPE).exists():
        return _as_in_run(recipe, recipes.read(path / RECIPE), preset)
    start = None if recipe.start_from is None else read_card(recipe.start_from).architecture
    fields = {} if start is None else start_sizes(start)
    if preset is not None:
        chosen = preset_fields(preset, recipe, start, conditions)
        crop = recipe.crop if "crop" in recipe.model_fields_set else fields.get("crop", chosen["crop"])
        if crop != chosen["crop"]:  # its S belongs to its crop
            chosen.pop("training_scale", None)
        fields = chosen | fields
    return _with_open(recipe, fields)


def _as_in_run(recipe: Recipe, there: Recipe, preset: Preset | None) -> Recipe:
    """Return a recipe with its open fields as in that of a run that has begun."""
    names = PRESET_FIELDS if preset else SIZES if recipe.start_from is not None else ()
    recipe = _with_open(recipe, {name: getattr(there, name) for name in names})
    # Up to version 0.2, a different rule set S if the recipe did not.
    if there.crop == recipe.crop and there.training_scale == (recipes.earlier_scale(there.crop),):
        recipe = _with_open(recipe, {"training_scale": there.training_scale})
    return recipe


def _with_open(recipe: Recipe, fields: dict[str, object]) -> Recipe:
    """Return the recipe with those of the fields that it leaves open."""
    left_open = {name: value for name, value in fields.items() if name not in recipe.model_fields_set}
    return recipes.changed(recipe, left_open) if left_open else recipe
