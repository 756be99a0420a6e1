"""Presets: the plan at a given size. Each is a file in `presets/`, with reasons for its numbers."""

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
"""Added to the seed once per earlier training of the same net."""

PRESETS = ("ilsvrc", "imagenette", "imagenette-gpu", "digits")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Schedule:
    """The schedule of one stage of the plan; None means the recipe's default."""

    epochs: int
    learning_rate: float | None = None
    drop_after: tuple[int, ...] = ()
    patience: int | None = None
    rate_drops: int | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Preset:
    """The plan at a given size."""

    name: str
    recipe: dict[str, Any]
    """Fields of `Recipe` shared by all trainings."""
    scales: dict[int, int]
    """Maps the paper's S and Q, in pixels, to those of this preset."""
    schedules: dict[Stage, Schedule]
    hold_out: float
    """Share of the training images held out for validation, in [0, 1); with 0 the tested images are used."""
    grid: int
    """Crops along each side in multi-crop testing."""
    controls: bool
    """Whether to train the controls too."""

    def scale(self, pixels: int) -> int:
        """Return the S or Q of this preset that corresponds to one of the paper's."""
        return self.scales[pixels]

    def training(self, training: Training, seed: int, start: str | None) -> Recipe:
        """Return the recipe of a training of the plan.

        Further training of a net uses another seed: with that of its start it would see the same crops again, in
        the same order. A fine-tuned net and its control have the same seed.

        Args:
            training: one of `TRAININGS`.
            seed: seed of the experiment.
            start: the run to start from.
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
    """Return a preset by name.

    Raises:
        UserError: for an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    text = resources.files("verydeep.experiments").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    return parsed(name, text)


def parsed(name: str, text: str) -> Preset:
    """Parse a preset from the text of its file.

    Raises:
        UserError: if a field is missing, unknown or not valid in a recipe.
    """
    try:
        values = tomllib.loads(text)
        scales = {int(paper): pixels for paper, pixels in values.pop("scales", {}).items()}
        found: Preset = _PRESET.validate_python({"name": name, "scales": scales} | values)
    except (ValidationError, tomllib.TOMLDecodeError, ValueError) as error:
        raise UserError(f"preset {name}: {' '.join(str(error).split())}") from error
    needed = {pixels for training in TRAININGS.values() for pixels in training.scale}
    needed |= {q for table in TABLES.values() for row in table.rows for tested in row.nets for q in tested.scales}
    if missing := sorted(needed - found.scales.keys()):
        raise UserError(
            f"preset {name}: no scale for the paper's {', '.join(map(str, missing))}; add it to [scales]"
        )
    ordered = [found.scales[pixels] for pixels in sorted(needed)]
    if ordered != sorted(ordered):
        raise UserError(f"preset {name}: the scales must increase in the order of the paper's")
    for tested in (tested for table in TABLES.values() for row in table.rows for tested in row.nets):
        if len({found.scales[q] for q in tested.scales}) < len(tested.scales):
            raise UserError(
                f"preset {name}: one net is tested at the paper's {', '.join(map(str, tested.scales))}; they must "
                "map to different scales"
            )
    for training in TRAININGS.values():
        found.training(training, 0, "the run that it starts from")
    return found
