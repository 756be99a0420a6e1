"""Arguments and flags that several commands have, and what they stand for."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import Parameter, Token

from verydeep.errors import UserError
from verydeep.recipe import Recipe

if TYPE_CHECKING:
    from verydeep.datasets.paths import Paths
    from verydeep.network import ConvNet


def _default(name: str) -> str:
    """Return the default of a recipe's field as the help shows it."""
    value = Recipe.model_fields[name].default
    rules = {
        "training_scale": "crop + 32",
        "learning_rate": "by that rule",
    }
    return rules.get(name, "none" if value is None else str(value))


def _whole(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
    """Convert arguments to whole numbers. Without it, cyclopts would round 1.5."""
    values = []
    for token in tokens:
        try:
            values.append(int(token.value))
        except ValueError as error:
            raise ValueError(f"{token.value!r} is not a whole number") from error
    return tuple(values) if kind == tuple[int, ...] else values[0]


def _converter(kind: object) -> dict[str, Any]:
    return {"converter": _whole} if kind in (int, tuple[int, ...]) else {}


RecipeFlags: Any = TypedDict(  # type: ignore[misc]
    "RecipeFlags",
    {
        name: Annotated[
            field.annotation,
            Parameter(
                help=f"{field.description} [default: {_default(name)}]",
                consume_multiple=True,
                negative_iterable=(),
                **_converter(field.annotation),
            ),
        ]
        for name, field in Recipe.model_fields.items()
    },
    total=False,
)
"""Every field of `Recipe` as a flag. Its values are dicts of the flags that were given."""


Json = Annotated[bool, Parameter(name="--json", negative=(), help="print the result as JSON")]
Skip = Annotated[bool, Parameter(negative=(), help="leave out images that cannot be read, and list them")]
Device = Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest available")]
Precision = Annotated[
    Literal["fp32", "tf32", "bf16"],
    Parameter(
        help="fp32: IEEE float32; tf32: TF32 convolutions and products, on CUDA only; bf16: bfloat16 wherever "
        "torch's autocast uses it, but for fc8 and the loss"
    ),
]
Deterministic = Annotated[
    bool, Parameter(negative=(), help="give the same bits every time on CUDA GPUs, too, as CPUs always do")
]
Method = Literal["dense", "multi-crop", "both", "centre-crop", "windows"]
Photographs = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""An argument of `_listed`; "-" is allowed."""
TestingPrecision = Annotated[
    Literal["fp32", "tf32", "bf16", "fp16"],
    Parameter(
        help="fp32: IEEE float32; tf32: TF32 convolutions and products, on CUDA only; bf16 and fp16: half "
        "precision wherever torch's autocast uses it, but for fc8 and what follows; fp16 may overflow"
    ),
]
Whole = Annotated[int, Parameter(converter=_whole)]
OptionalWhole = Annotated[int | None, Parameter(converter=_whole)]
Scales = Annotated[
    tuple[int, ...],
    Parameter(consume_multiple=True, negative_iterable=(), show_default=False, converter=_whole),
]
Workers = Annotated[
    int | None,
    Parameter(
        help="processes per rank that prefetch images [default: chosen from the number of cores]",
        converter=_whole,
    ),
]


def loaded(run: str, device: str) -> "ConvNet":
    """Return the net of a run directory or weight file, on a device."""
    from verydeep.distributed import device_of
    from verydeep.interop.loading import load

    return load(run).to(device_of(device))


def refuse_unreadable(count: int, of: int) -> None:
    """Exit with code 2 if photographs could not be read; each has been named.

    Raises:
        UserError: if `count` is not 0.
    """
    if count:
        raise UserError(f"{count} of {of} photographs could not be read; they are named above")


def listed_photographs(arguments: Sequence[str], missing: str) -> "Paths":
    """Return the photographs that arguments name; `missing` is the message if there are no arguments."""
    from verydeep.datasets.listing import listed

    if not arguments:
        raise UserError(missing)
    if option := next((word for word in arguments if word.startswith("-") and word != "-"), None):
        raise UserError(f"unknown option: {option}; see --help (for a file of this name, use ./{option})")
    return listed(arguments, lambda: sys.stdin.buffer.read() if sys.stdin is not None else b"")
