"""Sizes and schedules for recipes that leave them open: `small` fits data and machine, `paper` is the paper's.

The numbers of `small` come from the miniatures of the paper's experiments (`experiments/presets/imagenette.toml`
gives the reason for each).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from verydeep.configurations import Architecture
from verydeep.distributed import Ranks
from verydeep.errors import UserError
from verydeep.recipe import PAPER_RATE, Recipe, paper_scale
from verydeep.training.cost import training_multiply_adds

Preset = Literal["small", "paper"]

SIZES = ("crop", "width", "fully_connected")
"""The fields of a recipe that set the sizes of a net. A net can only start from one of the same sizes."""

PRESET_FIELDS = (*SIZES, "training_scale", "batch", "initialisation", "learning_rate", "epochs", "drop_after")
"""The fields that a preset may set."""

SMALL_NETS = ((32, 0.25), (64, 0.25), (96, 0.125), (96, 0.25), (128, 0.25), (160, 0.25), (224, 0.25), (224, 0.5))
"""Crop and width of small nets, from the cheapest to the largest that one machine can train within hours."""

LONGEST_SECONDS = 3600.0
"""`small` chooses the largest net that can be trained within this time."""

CORE_RATE, GPU_RATE = 3e10, 5e12
"""Multiply-adds per second in training on one CPU core and on one GPU. They are conservative, so that few machines
are slower: a Zen 5 core reaches 6e10 with the engine, a V100 1e13 (`experiments/gpus.py`)."""

FULL_WIDTH_CHANNELS = 4096
"""Channels of fc6 and fc7 at width 1."""

TINY_SCALES = (32, 40)
"""Smin and Smax for images that are too small for these nets. At S = 64 a crop would show a quarter of one."""

ITERATIONS = 5000
"""Approximate number of iterations that a small net needs to reach the end of its schedule."""

MANY_IMAGES = 50_000
"""Training sets of at least this size get the paper's mini-batches of 256 images and its learning rate."""

DROP_SHARES = (0.72, 0.92)
"""The learning rate drops after these shares of the epochs. Patience would let one lucky epoch decide: at the
first rate, the error on a small validation set fluctuates by percentage points from epoch to epoch."""

FINE_TUNING_SHARE, FINE_TUNING_RATE_SHARE = 0.28, 0.1
"""A net that starts from another of the same configuration trains for this share of the epochs, at this share of
the rate."""


@dataclass(frozen=True)
class Conditions:
    """The data and the machine that `small` fits a recipe to."""

    images: int
    """Number of training images."""
    classes: int
    side: int
    """Median of the smallest sides of the photographs, in pixels."""
    rate: float
    """Approximate multiply-adds per second in training, over all ranks."""


def machine_rate(ranks: Ranks) -> float:
    """Estimate the multiply-adds per second in training, over all ranks; every rank gets the same result."""
    here = torch.get_num_threads() * CORE_RATE if ranks.device.type == "cpu" else GPU_RATE
    return sum(ranks.of_all(here))


def preset_fields(
    preset: Preset, recipe: Recipe, start: Architecture | None, conditions: Conditions
) -> dict[str, Any]:
    """Return the fields that a preset sets in a recipe.

    Args:
        preset: small or paper.
        recipe: gives the net, the layers to train, and possibly the number of epochs. The caller keeps other
            fields that it sets.
        start: the net that the training starts from; None for random weights.
        conditions: data and machine.

    Raises:
        UserError: if the preset is unknown.
    """
    if preset not in get_args(Preset):
        raise UserError(f"preset is {preset!r}; choose one of {', '.join(get_args(Preset))}")
    if preset == "paper":
        names = ("crop", "width", "fully_connected", "batch", "initialisation", "epochs")
        return {name: Recipe.model_fields[name].default for name in names}
    many = conditions.images >= MANY_IMAGES
    fields: dict[str, Any] = {
        "batch": 256 if many else 64,
        "initialisation": "glorot",  # with the paper's N(0, 0.01), the loss would stay at chance for too long
        "learning_rate": PAPER_RATE if many else PAPER_RATE / 2,
    }
    epochs = min(max(round(ITERATIONS * fields["batch"] / conditions.images), 10), 100)
    if start is not None and start.configuration == recipe.net:
        epochs = max(round(FINE_TUNING_SHARE * epochs), 3)
        fields["learning_rate"] *= FINE_TUNING_RATE_SHARE
        if not start.classes:  # the maps of trained convolutions are large, and N(0, 0.01) keeps the scores small
            fields["initialisation"] = "normal"
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
    if start is not None:
        nets = [sizes | start_sizes(start) for sizes in nets]
    given = {"net": recipe.net, "learns": recipe.learns, "start_from": recipe.start_from}
    suitable = [
        sizes
        for sizes in nets
        if paper_scale(sizes["crop"]) <= conditions.side
        and training_seconds(Recipe(**given, **fields | sizes), conditions) <= LONGEST_SECONDS
    ]
    return fields | (suitable or nets[:1])[-1]


def start_sizes(start: Architecture) -> dict[str, Any]:
    """Return the sizes that a net takes from the one that it starts from, as fields of a recipe."""
    known = SIZES if start.classes else ("width",)  # a feature net has no fc6, which determines the others
    return {name: getattr(start, name) for name in known}


def training_seconds(recipe: Recipe, conditions: Conditions) -> float:
    """Estimate the seconds of a training up to its limit of epochs, without reading and validation."""
    return training_multiply_adds(recipe, conditions.classes, conditions.images) / conditions.rate


def preset_line(preset: Preset, recipe: Recipe, conditions: Conditions) -> str:
    """Return one line with the fields that a preset chose, and the estimated duration of the training."""
    values = {name: getattr(recipe, name) for name in PRESET_FIELDS}
    shown = ", ".join(
        f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in values.items()
        if value not in (None, ())
    )
    minutes = training_seconds(recipe, conditions) / 60
    time = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"
    return (
        f"preset {preset}, for {conditions.images:,} images of {conditions.side} pixels: {shown}; roughly "
        f"{time if minutes > 1.5 else 'a minute'} on this machine"
    )
