"""Sizes and schedules for a training whose recipe leaves them open: `small` for the data and the machine, `paper`.

The numbers of `small` come from the miniatures of the paper's experiments (`experiments/presets/imagenette.toml`
gives the reason for each).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.recipe import PAPER_RATE, Recipe, paper_scale

Preset = Literal["small", "paper"]

SIZES = ("crop", "width", "fully_connected")
"""The fields of a recipe that give the sizes of a net. A net can only start from one of the same sizes."""

PRESET_FIELDS = (*SIZES, "training_scale", "batch", "initialisation", "learning_rate", "epochs", "drop_after")
"""The fields that a preset may set."""

SMALL_NETS = ((32, 0.25), (64, 0.25), (96, 0.125), (96, 0.25), (128, 0.25), (160, 0.25), (224, 0.25), (224, 0.5))
"""Crop and width of small nets, from the cheapest to the most expensive that one machine trains within hours."""

LONGEST_SECONDS = 3600.0
"""`small` takes the largest net that is trained within this time."""

CORE_RATE, GPU_RATE = 3e10, 5e12
"""Multiply-adds per second of a training on one CPU core and on one GPU. They are low, so that few machines take
longer: a Zen 5 core reaches 6e10 with the engine, a V100 1e13 (`experiments/gpus.py`)."""

FULL_WIDTH_CHANNELS = 4096
"""Channels of fc6 and fc7 at width 1."""

TINY_SCALES = (32, 40)
"""Smin and Smax for images that are too small for these nets: at S = 64 a crop would show a quarter of one."""

ITERATIONS = 5000
"""About as many iterations as a small net needs to reach the end of its schedule."""

MANY_IMAGES = 50_000
"""A larger training set has the paper's mini-batches of 256 images and its learning rate."""

DROP_SHARES = (0.72, 0.92)
"""The learning rate drops after these shares of the epochs. With patience, one lucky epoch would decide: at the
first rate the error on a small validation set jumps by points from epoch to epoch."""

FINE_TUNING_SHARE, FINE_TUNING_RATE_SHARE = 0.28, 0.1
"""A net that starts from one of its own configuration trains for this share of the epochs and at this share of the
rate."""


@dataclass(frozen=True)
class Conditions:
    """What `small` depends on."""

    images: int
    """Training images."""
    classes: int
    side: int
    """Median of the photographs' smallest sides, in pixels."""
    rate: float
    """Multiply-adds per second of a training on all ranks together, roughly."""


def machine_rate(ranks: Ranks) -> float:
    """Roughly how many multiply-adds per second all ranks together train with; the same on every rank."""
    here = torch.get_num_threads() * CORE_RATE if ranks.device.type == "cpu" else GPU_RATE
    return sum(ranks.of_all(here))


def preset_fields(preset: Preset, recipe: Recipe, start: str | None, conditions: Conditions) -> dict[str, Any]:
    """The fields of a recipe that a preset sets.

    Args:
        preset: small or paper.
        recipe: names the net, and may give the number of epochs; other fields that it gives are for the caller to
            keep.
        start: configuration of the net that the training starts from; None for random weights.
        conditions: data and machine.

    Raises:
        UserError: for an unknown preset.
    """
    if preset not in get_args(Preset):
        raise UserError(f"preset is {preset!r}; choose one of {', '.join(get_args(Preset))}")
    if preset == "paper":
        names = ("crop", "width", "fully_connected", "batch", "initialisation", "epochs")
        return {name: Recipe.model_fields[name].default for name in names}
    many = conditions.images >= MANY_IMAGES
    fields: dict[str, Any] = {
        "batch": 256 if many else 64,
        "initialisation": "glorot",  # the paper's N(0, 0.01) needs more iterations than this before it learns
        "learning_rate": PAPER_RATE if many else PAPER_RATE / 2,
    }
    epochs = min(max(round(ITERATIONS * fields["batch"] / conditions.images), 10), 100)
    if start == recipe.net:
        epochs = max(round(FINE_TUNING_SHARE * epochs), 3)
        fields["learning_rate"] *= FINE_TUNING_RATE_SHARE
    if "epochs" in recipe.model_fields_set:
        epochs = recipe.epochs
    drops = {max(round(share * epochs), 1) for share in DROP_SHARES}
    fields |= {"epochs": epochs, "drop_after": tuple(sorted(drops))}
    if conditions.side < paper_scale(SMALL_NETS[0][0]):
        fields["training_scale"] = TINY_SCALES
    nets: list[dict[str, Any]] = [
        {"crop": crop, "width": width, "fully_connected": int(width * FULL_WIDTH_CHANNELS)}
        for crop, width in SMALL_NETS
    ]
    suitable = [
        sizes
        for sizes in nets
        if paper_scale(sizes["crop"]) <= conditions.side
        and training_seconds(Recipe(net=recipe.net, **fields | sizes), conditions) <= LONGEST_SECONDS
    ]
    return fields | (suitable or nets[:1])[-1]


def training_seconds(recipe: Recipe, conditions: Conditions) -> float:
    """Roughly how long a training to its limit of epochs takes, reading and validation left out."""
    forth_and_back = 3 * recipe.architecture(conditions.classes).multiply_adds()
    return recipe.epochs * conditions.images * forth_and_back / conditions.rate


def preset_line(preset: Preset, recipe: Recipe, conditions: Conditions) -> str:
    """One line that says what a preset made of a recipe that left fields open, and roughly how long it takes."""
    values = {name: getattr(recipe, name) for name in PRESET_FIELDS}
    shown = ", ".join(
        f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in values.items()
        if value not in (None, ())
    )
    minutes = training_seconds(recipe, conditions) / 60
    time = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"
    return (
        f"preset {preset}, for {conditions.images:,} images of {conditions.side} pixels: {shown}; at a guess "
        f"{time if minutes > 1.5 else 'a minute'} on this machine"
    )
