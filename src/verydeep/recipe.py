"""Sect. 3.1: every number of a training, with its unit and the paper's value as the default."""

import math
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from verydeep.card import Rescaling
from verydeep.configurations import STRIDE, Architecture
from verydeep.errors import UserError, reason
from verydeep.files import written_aside
from verydeep.printable import decoded

PAPER_CROP = 224
PAPER_RATE = 1e-2
FINE_TUNING_RATE = 1e-3
"""Initial rate of a net that starts from a net of the same configuration: S = 384 from S = 256 (Sect. 3.1)."""

MOST = 1e30
"""Largest number in a recipe: float32 ends at 3e38."""

LEAST_RATE = 1e-300
"""Smallest learning rate: below it, it would become 0."""


class Recipe(BaseModel):
    """The numbers of one training. The defaults are the paper's; S follows from `crop` (`paper_scale`).

    Raises:
        UserError: if a field is unknown or a value out of its range; names the field and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    net: str = Field(default="A", description="configuration of Table 1: A, A-LRN, B, C, D, E or B-5x5")
    crop: int = Field(default=PAPER_CROP, description="side of the training crop in pixels, a multiple of 32")
    width: float = Field(default=1.0, description="multiplier of the channels of all convolutional layers")
    fully_connected: int = Field(default=4096, description="channels of fc6 and fc7")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="ratio of dropped units of relu6 and relu7")

    initialisation: Literal["normal", "glorot", "he"] = Field(
        default="normal",
        description="distribution of random weights: N(0, std), Glorot and Bengio's, or He et al.'s",
    )
    std: float = Field(default=0.01, gt=0, description="standard deviation of the weights for `normal`")
    start_from: str | None = Field(
        default=None,
        description="run, weight file or published weights to start from: all layers of the same net, or of a "
        "shallower one the first four convolutional layers by their position and fc6 to fc8",
    )

    learns: tuple[str, ...] = Field(
        default=(),
        description="layers to train, such as fc6 fc7 fc8; the others are frozen. All if none is named",
    )

    training_scale: tuple[int, ...] = Field(
        default=(),
        description="S, the smallest side of the rescaled training image in pixels: one number, or Smin and Smax "
        "to draw it from for each image in each epoch",
    )
    rescaling: Rescaling = Field(
        default="bilinear", description="filter for rescaling photographs, in training and testing"
    )
    flip: bool = Field(default=True, description="mirror half of the crops, at random; testing then averages both")
    colour_shift: float = Field(
        default=0.1,
        ge=0,
        description="random RGB shift, in standard deviations along the principal components of the training set",
    )

    batch: int = Field(default=256, ge=1, description="images per mini-batch, over all ranks")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description=f"initial learning rate; if not given {PAPER_RATE}, or {FINE_TUNING_RATE} for a net that "
        "starts from one of the same configuration",
    )
    bias_rate: float = Field(default=1.0, gt=0, description="multiplier of the learning rate for biases")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="multiplier of the L2 penalty on weights; biases have none"
    )
    rate_drops: int = Field(default=3, ge=0, description="how many times the rate is divided before training ends")
    rate_divisor: float = Field(default=10.0, gt=1, description="divisor of the rate")
    patience: int = Field(
        default=5, ge=1, description="epochs without a lower validation error after which the rate is divided"
    )
    drop_after: tuple[int, ...] = Field(
        default=(),
        description="epochs after which the rate is divided, whatever the validation error; if none is given, "
        "patience and rate_drops decide",
    )
    epochs: int = Field(default=74, ge=1, description="limit of epochs")
    iterations: int = Field(default=370_000, ge=1, description="limit of iterations (mini-batches)")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all random numbers")

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise UserError(_sentence(error)) from error

    @field_validator("*", mode="before")
    @classmethod
    def _not_true(cls, value: Any, info: Any) -> Any:
        """Refuse true and false: TOML's true is not the number 1."""
        values = value if isinstance(value, list | tuple) else (value,)
        if info.field_name != "flip" and any(isinstance(each, bool) for each in values):
            raise ValueError("it must be a number or a name, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _can_be_computed_with(cls, value: Any) -> Any:
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int | float) and each > MOST:
                raise ValueError(f"it must be at most {MOST:g}")
        return value

    @field_validator("start_from", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(value, str) and decoded(value) != value:
            raise ValueError("a path in a recipe must be UTF-8: rename it")
        return value

    @field_validator("training_scale", mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("training_scale")
    @classmethod
    def _fixed_scale(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        """Take one number, or Smin and Smax; [S; S] is the fixed S."""
        if len(value) not in (1, 2):
            raise ValueError("give one number, or Smin and Smax")
        return value[:1] if value[0] == value[-1] else value

    @field_validator("learns")
    @classmethod
    def _as_in_the_net(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Name each layer once and in order, since the same layers in another order are the same training."""
        return tuple(sorted(set(value)))  # the order of the net, conv1_1 to fc8

    @field_validator("drop_after")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(epoch < 1 for epoch in value) or list(value) != sorted(set(value)):
            raise ValueError("give numbers of epochs from 1 on, each once, in order")
        return value

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        layers = [layer.name for layer in self.architecture(1).layers if layer.kind == "conv"]
        for name in self.learns:
            if name not in layers:
                raise ValueError(f"learns names {name!r}; the layers of net {self.net} are {', '.join(layers)}")
        if self.learns and self.start_from is None:
            raise ValueError(
                f"only {', '.join(self.learns)} learn, so the other layers need weights: give start_from"
            )
        rate, drops = self.initial_rate(self.net), max(self.rate_drops, len(self.drop_after))
        if rate * self.bias_rate > MOST:
            raise ValueError(f"the learning rate of the biases is {rate * self.bias_rate:g}, above {MOST:g}")
        if math.log10(rate) - drops * math.log10(self.rate_divisor) < math.log10(LEAST_RATE):
            raise ValueError(f"the learning rate, divided {drops} times by {self.rate_divisor:g}, becomes 0")
        if not self.training_scale:  # set this way, it does not count as given
            self.__dict__["training_scale"] = (paper_scale(self.crop),)
        low, high = self.scales
        if low > high:
            raise ValueError(f"training_scale is {low} {high}; Smin must not be above Smax")
        if low < self.crop:
            raise ValueError(
                f"training_scale starts at {low} pixels, below the crop; it must be at least {self.crop}"
            )
        return self

    @property
    def scales(self) -> tuple[int, int]:
        """Smin and Smax."""
        return self.training_scale[0], self.training_scale[-1]

    def architecture(self, classes: int) -> Architecture:
        """Return the architecture of the net, for a number of classes."""
        return Architecture(self.net, classes, self.crop, self.width, self.fully_connected, self.dropout)

    def initial_rate(self, start: str | None) -> float:
        """Return the initial learning rate: the given one, else the paper's (Sect. 3.1).

        Args:
            start: configuration of the net that training starts from; None for random weights.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return FINE_TUNING_RATE if start == self.net else PAPER_RATE


def paper_scale(crop: int) -> int:
    """Return the paper's S = 256 for any crop: the crop plus one step of the score map, as 256 = 224 + 32.

    A step is 32 pixels at every crop, and receptive fields do not change with the crop either.
    """
    return crop + STRIDE


def earlier_scale(crop: int) -> int:
    """Return the default S of versions up to 0.2: 256 crop / 224, rounded half up."""
    return (512 * crop + PAPER_CROP) // (2 * PAPER_CROP)


def changed(base: Recipe, fields: dict[str, Any]) -> Recipe:
    """Return the recipe `base` with other values for some fields; raises what `Recipe` does.

    S follows the crop if the crop is changed, S is not, and S was the default for the former crop.
    """
    values = base.model_dump(exclude_unset=True) | fields
    followed = [(scale,) for scale in (paper_scale(base.crop), earlier_scale(base.crop))]
    if "crop" in fields and "training_scale" not in fields and base.training_scale in followed:
        values.pop("training_scale", None)
    return Recipe(**values)


def read(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file; missing fields have their defaults.

    Raises:
        UserError: if the file is missing or not TOML, and what `Recipe` raises.
    """
    try:
        return Recipe(**tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # also if numbers are too long, or tables too deep
        raise UserError(f"cannot read the recipe {path}: {reason(error)}") from error


def write(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe as TOML, with a comment above each field that describes it."""
    lines = []
    for name, field in Recipe.model_fields.items():
        value = getattr(recipe, name)
        lines.append(f"# {field.description}")
        if value is None:
            lines.append(f"# {name} =")
        else:
            lines.append(tomli_w.dumps({name: list(value) if isinstance(value, tuple) else value}).strip())
    with written_aside(Path(path)) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def differing(ours: Recipe, theirs: Recipe) -> list[str]:
    """Return the names of the fields in which two recipes differ."""
    return [name for name in Recipe.model_fields if getattr(ours, name) != getattr(theirs, name)]


def difference(name: str, ours: Recipe, theirs: Recipe) -> str:
    """Return the values of a field in both recipes, for people."""
    return f"{name}: {getattr(ours, name)} (there: {getattr(theirs, name)})"


def _sentence(error: ValidationError) -> str:
    """Return Pydantic's findings as one line that names field, value and what is allowed."""
    sentences = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = ", ".join(Recipe.model_fields)
            sentences.append(f"recipe has no field {name!r}; its fields are {known}")
        elif not name:
            sentences.append(problem["msg"].removeprefix("Value error, "))
        else:
            wanted = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"{name} is {problem['input']!r}: {wanted[0].lower()}{wanted[1:]}")
    return "; ".join(sentences)
