"""The plan at a size: crop, width, scales, schedules. Each preset is a file of `presets/`, which gives reasons."""

import tomllib
from dataclasses import asdict
from importlib import resources
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from verydeep.errors import UserError
from verydeep.experiments.plan import TABLES, TRAININGS, Stage, Training, generation
from verydeep.recipe import Recipe

DRAWN_ANEW = 2**32
"""Added to the seed for each training of the same net that lies before."""

PRESETS = ("ilsvrc", "imagenette", "imagenette-gpu", "digits")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Schedule:
    """How the trainings of one stage of the plan go; what is None is as the recipe's defaults say."""

    epochs: int
    learning_rate: float | None = None
    drop_after: tuple[int, ...] = ()
    patience: int | None = None
    rate_drops: int | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Preset:
    """The plan at a size."""

    name: str
    recipe: dict[str, Any]
    """Fields of `Recipe` that all trainings share."""
    scales: dict[int, int]
    """The paper's S and Q, in pixels, to those of this preset."""
    schedules: dict[Stage, Schedule]
    hold_out: float
    """Share of the training images that only decide when the rate drops; with 0 the tested images decide."""
    grid: int
    """Crops along each side in multi-crop testing."""
    controls: bool
    """Whether the controls are trained, too."""

    def scale(self, pixels: int) -> int:
        """The S or Q of this preset that stands for one of the paper's."""
        return self.scales[pixels]

    def training(self, training: Training, seed: int, start: str | None) -> Recipe:
        """The recipe of a training of the plan.

        A net that is trained further draws anew: with the seed of its start it would see the same crops once more,
        in the same order. A fine-tuned net and its control draw alike.

        Args:
            training: of `TRAININGS`.
            seed: of the experiment.
            start: the run that it starts from.
        """
        schedule = {
            name: value for name, value in asdict(self.schedules[training.stage]).items() if value is not None
        }
        fields = self.recipe | schedule
        return Recipe(
            **fields,
            net=training.net,
            training_scale=tuple(self.scale(pixels) for pixels in training.scale),
            learns=training.learns,
            start_from=start,
            seed=seed + generation(training) * DRAWN_ANEW,
        )


_PRESET = TypeAdapter(Preset)


def preset(name: str) -> Preset:
    """One of the presets.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    text = resources.files("verydeep.experiments").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    return parsed(name, text)


def parsed(name: str, text: str) -> Preset:
    """A preset by the text of its file.

    Raises:
        UserError: where something is missing, unknown, or no recipe.
    """
    try:
        values = tomllib.loads(text)
        scales = {int(paper): pixels for paper, pixels in values.pop("scales", {}).items()}
        found: Preset = _PRESET.validate_python({"name": name, "scales": scales} | values)
    except (ValidationError, tomllib.TOMLDecodeError, ValueError) as error:
        raise UserError(f"the preset {name}: {' '.join(str(error).split())}") from error
    needed = {pixels for training in TRAININGS.values() for pixels in training.scale}
    needed |= {q for table in TABLES.values() for row in table.rows for tested in row.nets for q in tested.scales}
    if missing := sorted(needed - found.scales.keys()):
        raise UserError(f"the preset {name} lacks a scale for the paper's {', '.join(map(str, missing))}")
    ordered = [found.scales[pixels] for pixels in sorted(needed)]
    if ordered != sorted(ordered):
        raise UserError(f"the preset {name}: its scales are not in the order of the paper's")
    for tested in (tested for table in TABLES.values() for row in table.rows for tested in row.nets):
        if len({found.scales[q] for q in tested.scales}) < len(tested.scales):
            raise UserError(
                f"the preset {name}: a net is tested at the paper's {', '.join(map(str, tested.scales))}, which "
                "need different scales"
            )
    for training in TRAININGS.values():
        found.training(training, 0, "the run that it starts from")
    return found
