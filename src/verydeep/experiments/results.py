"""What an experiment measured, as JSON and safetensors: all that its report is made from.

`results.json` holds what is the same however often the experiment was interrupted; `times.json` what is not: when,
on what, for how long. `outcomes.safetensors` holds what each row of the plan said of each image.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt8, UInt16
from pydantic import ConfigDict, TypeAdapter

from verydeep.errors import UserError, reason
from verydeep.files import read_json, written_aside
from verydeep.sealed import SEAL, Damaged, read_arrays, write_arrays

FORMAT = 1
RESULTS, TIMES, OUTCOMES = "results.json", "times.json", "outcomes.safetensors"

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Curve:
    """One training as it went: a value an epoch, in order."""

    __pydantic_config__ = _STRICT
    training: str
    """Its name in the plan."""
    seed: int
    net: str
    start: str | None
    scale: tuple[int, ...]
    """S in pixels, as it was trained."""
    control: bool
    epochs: int
    iterations: int
    ended: str
    loss: tuple[float, ...]
    training_error: tuple[float, ...]
    """In [0, 1], of augmented crops with dropout."""
    validation_error: tuple[float, ...]
    """In [0, 1], by `validation_protocol`, on `validated_on`."""
    validation_protocol: str
    rate: tuple[float, ...]
    """Learning rate."""


@dataclass(frozen=True)
class Measured:
    """What one seed gave for one row of the plan."""

    __pydantic_config__ = _STRICT
    seed: int
    top1_wrong: int
    top5_wrong: int
    log_loss: float
    """Mean of -ln(posterior of the image's class)."""


@dataclass(frozen=True)
class RowResult:
    """A row of the plan, measured."""

    __pydantic_config__ = _STRICT
    key: str
    """`plan.Row.key`, in the paper's sizes."""
    protocol: str
    """For people, in the pixels that were tested at: "dense, Q = 128, 160, 192, with mirror images"."""
    seeds: tuple[Measured, ...]
    """By seed; those that are done."""


@dataclass(frozen=True)
class Results:
    """An experiment, finished or as far as it has come."""

    __pydantic_config__ = _STRICT
    preset: dict[str, Any]
    """The preset, as data; see `presets.Preset`."""
    data: str
    """Name of the data set."""
    classes: tuple[str, ...]
    training_images: int
    held_out_images: int
    """Training images that only decide when the rate drops; 0 where the tested images decide."""
    tested_images: int
    tables: tuple[str, ...]
    """Names of the tables that were asked for, from `plan.TABLES`."""
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]
    rows: tuple[RowResult, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Step:
    """A step of the plan, as it was done."""

    __pydantic_config__ = _STRICT
    name: str
    """ "train D-384" or "test D-384, dense, Q = 224"."""
    seed: int
    seconds: float
    """Computing, over all starts."""
    images: int
    """That passed through the net, forth and back in training."""
    multiply_adds: float


@dataclass(frozen=True)
class Times:
    """When, on what and for how long."""

    __pydantic_config__ = _STRICT
    steps: tuple[Step, ...]
    environments: tuple[dict[str, Any], ...] = ()
    """The different ones among the trainings': versions, processor, device, ranks."""
    command: str = ""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the rows of the plan said of each tested image."""

    labels: Int64[np.ndarray, " N"]
    """The images' classes."""
    names: tuple[str, ...]
    """What the images are called: their files below the data set's folder, or their numbers."""
    rank: dict[tuple[str, int], UInt16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: the place of the image's class among the posteriors, 0 for the highest."""
    said: dict[tuple[str, int], UInt16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: the class of the highest posterior."""
    loss: dict[tuple[str, int], Float16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: -ln(posterior of the image's class)."""

    def wrong(self, key: str, seeds: Sequence[int]) -> Float32[np.ndarray, "S N"]:
        """1 where the highest posterior is not the image's class, else 0; one row per seed.

        Raises:
            KeyError: where a seed has not measured this row.
        """
        return np.stack([self.rank[key, seed] > 0 for seed in seeds]).astype(np.float32)

    def log_loss(self, key: str, seeds: Sequence[int]) -> Float32[np.ndarray, "S N"]:
        """-ln(posterior of the image's class); one row per seed."""
        return np.stack([self.loss[key, seed] for seed in seeds]).astype(np.float32)

    def measured(self, key: str) -> tuple[int, ...]:
        """The seeds that have measured a row."""
        return tuple(sorted(seed for name, seed in self.rank if name == key))


_RESULTS, _TIMES = TypeAdapter(Results), TypeAdapter(Times)


AGAIN = "move it away, and verydeep reproduce makes it again"


def write_json(value: Results | Times, path: Path) -> None:
    """Write results or times as JSON with a digest of their content, whole or not at all."""
    fields = asdict(value)
    fields[SEAL] = _digest(fields)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(fields: dict[str, Any]) -> str:
    """SHA-256 of the content of JSON, however it is laid out."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_results(folder: Path) -> Results:
    """Read results.json.

    Raises:
        UserError: where there is none, or it is none of this format.
    """
    results: Results = _read(_RESULTS, folder / RESULTS)
    if results.format != FORMAT:
        raise UserError(f"{folder / RESULTS} has format {results.format}; this version of verydeep reads {FORMAT}")
    return results


def read_times(folder: Path) -> Times:
    """Read times.json; raises as `read_results` does."""
    times: Times = _read(_TIMES, folder / TIMES)
    return times


def _read(kind: TypeAdapter, path: Path) -> Any:
    if not path.exists():
        raise UserError(f"cannot read {path}: No such file or directory; verydeep reproduce makes it")
    fields = read_json(path)
    told = fields.pop(SEAL, None) if isinstance(fields, dict) else None  # none up to version 0.3
    if told is not None and told != _digest(fields):
        raise UserError(f"{path} is damaged: it is not what was written; {AGAIN}")
    try:
        return kind.validate_json(json.dumps(fields))
    except ValueError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({line}); verydeep reproduce makes it again") from error


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write outcomes, whole or not at all."""
    classes = int(max(outcomes.labels, default=0)) + 1
    arrays: dict[str, np.ndarray] = {
        "labels": outcomes.labels.astype(np.uint16),
        "names": np.frombuffer(json.dumps(outcomes.names).encode(), np.uint8),
    }
    kind = np.uint8 if classes <= 256 else np.uint16
    for what in ("rank", "said", "loss"):
        for (key, seed), values in sorted(getattr(outcomes, what).items()):
            arrays[f"{what}/{seed}/{key}"] = values if what == "loss" else values.astype(kind)
    with written_aside(path) as aside:
        write_arrays(aside, arrays)


def read_outcomes(folder: Path) -> Outcomes:
    """Read outcomes.safetensors.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    path = folder / OUTCOMES
    try:
        arrays = read_arrays(path)
        names: UInt8[np.ndarray, " n"] = arrays.pop("names")
        outcomes = Outcomes(arrays.pop("labels").astype(np.int64), tuple(json.loads(names.tobytes())))
        for name, array in arrays.items():
            what, seed, key = name.split("/", 2)
            kind = np.float16 if what == "loss" else np.uint16
            getattr(outcomes, what)[key, int(seed)] = array.astype(kind)
    except Damaged as error:
        raise UserError(f"{error}; {AGAIN}") from error
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}; verydeep reproduce makes it") from error
    return outcomes
