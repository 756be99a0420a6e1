"""The results of an experiment as JSON and safetensors: everything its report needs.

`results.json` is the same however often the experiment was interrupted. `times.json` holds what is not: times,
versions and machines. `outcomes.safetensors` holds the outcome of each row of the plan for each image.
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
    """The course of one training: one value per epoch, in order."""

    __pydantic_config__ = _STRICT
    training: str
    """Its name in the plan."""
    seed: int
    net: str
    start: str | None
    scale: tuple[int, ...]
    """S in pixels, as trained."""
    control: bool
    epochs: int
    iterations: int
    ended: str
    loss: tuple[float, ...]
    training_error: tuple[float, ...]
    """In [0, 1], on augmented crops with dropout."""
    validation_error: tuple[float, ...]
    """In [0, 1], by `validation_protocol`."""
    validation_protocol: str
    rate: tuple[float, ...]
    """Learning rate."""


@dataclass(frozen=True)
class Measured:
    """The result of one seed for one row of the plan."""

    __pydantic_config__ = _STRICT
    seed: int
    top1_wrong: int
    top5_wrong: int
    log_loss: float
    """Mean of -ln(posterior of the image's class)."""


@dataclass(frozen=True)
class RowResult:
    """The results of a row of the plan."""

    __pydantic_config__ = _STRICT
    key: str
    """`plan.Row.key`, in the paper's sizes."""
    protocol: str
    """In words, with Q in pixels as tested: "dense, Q = 128, 160, 192, with mirror images"."""
    seeds: tuple[Measured, ...]
    """One per finished seed, in order."""


@dataclass(frozen=True)
class Results:
    """The results of an experiment, finished or not."""

    __pydantic_config__ = _STRICT
    preset: dict[str, Any]
    """The preset, as data; see `presets.Preset`."""
    data: str
    """Name of the data set."""
    classes: tuple[str, ...]
    training_images: int
    held_out_images: int
    """Training images held out for validation; 0 if the tested images serve for it."""
    tested_images: int
    tables: tuple[str, ...]
    """Names of the requested tables, from `plan.TABLES`."""
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]
    rows: tuple[RowResult, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Step:
    """A finished step of the plan."""

    __pydantic_config__ = _STRICT
    name: str
    """ "train D-384" or "test D-384, dense, Q = 224"."""
    seed: int
    seconds: float
    """Computing time, over all starts."""
    images: int
    """Images passed through the net, forward and backward in training."""
    multiply_adds: float


@dataclass(frozen=True)
class Times:
    """Times, and the environments in which they were measured."""

    __pydantic_config__ = _STRICT
    steps: tuple[Step, ...]
    environments: tuple[dict[str, Any], ...] = ()
    """The distinct environments of the trainings: versions, processor, device, ranks."""
    command: str = ""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcome of each row of the plan for each tested image."""

    labels: Int64[np.ndarray, " N"]
    """The images' classes."""
    names: tuple[str, ...]
    """Names of the images: folder and file, or number."""
    rank: dict[tuple[str, int], UInt16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: the rank of the image's class among the posteriors, 0 for the highest."""
    said: dict[tuple[str, int], UInt16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: the class of the highest posterior."""
    loss: dict[tuple[str, int], Float16[np.ndarray, " N"]] = field(default_factory=dict)
    """By row key and seed: -ln(posterior of the image's class)."""

    def wrong(self, key: str, seeds: Sequence[int]) -> Float32[np.ndarray, "S N"]:
        """Return 1 for each misclassified image and 0 for the others, one row per seed.

        Raises:
            KeyError: if a seed has not measured this row.
        """
        return np.stack([self.rank[key, seed] > 0 for seed in seeds]).astype(np.float32)

    def log_loss(self, key: str, seeds: Sequence[int]) -> Float32[np.ndarray, "S N"]:
        """Return -ln(posterior of the image's class), one row per seed."""
        return np.stack([self.loss[key, seed] for seed in seeds]).astype(np.float32)

    def measured(self, key: str) -> tuple[int, ...]:
        """Return the seeds that have measured a row."""
        return tuple(sorted(seed for name, seed in self.rank if name == key))


_RESULTS, _TIMES = TypeAdapter(Results), TypeAdapter(Times)


AGAIN = "move it away and run verydeep reproduce again"


def write_json(value: Any, path: Path) -> None:
    """Write results or times, a dataclass, as JSON with a digest of their content, atomically."""
    fields = asdict(value)
    fields[SEAL] = _digest(fields)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(fields: dict[str, Any]) -> str:
    """Return the SHA-256 of the content of JSON, whatever its layout."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_results(folder: Path) -> Results:
    """Read results.json.

    Raises:
        UserError: if it is missing, damaged or of another format.
    """
    results: Results = read_sealed(_RESULTS, folder / RESULTS)
    if results.format != FORMAT:
        raise UserError(
            f"{folder / RESULTS} has format {results.format}; this version of verydeep reads format {FORMAT}"
        )
    return results


def read_times(folder: Path) -> Times:
    """Read times.json; raises like `read_results`."""
    times: Times = read_sealed(_TIMES, folder / TIMES)
    return times


def read_sealed(kind: TypeAdapter, path: Path) -> Any:
    """Read what `write_json` has written.

    Raises:
        UserError: if it is missing, damaged, or not of that kind.
    """
    if not path.exists():
        raise UserError(f"cannot read {path}: No such file or directory; verydeep reproduce writes it")
    fields = read_json(path)
    told = fields.pop(SEAL, None) if isinstance(fields, dict) else None  # absent up to version 0.3
    if told is not None and told != _digest(fields):
        raise UserError(f"{path} is damaged: its content does not match its digest; {AGAIN}")
    try:
        return kind.validate_json(json.dumps(fields))
    except ValueError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"cannot read {path} ({line}); {AGAIN}") from error


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write outcomes atomically."""
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
        UserError: if it is missing or damaged.
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
        raise UserError(f"cannot read {path}: {reason(error)}; verydeep reproduce writes it") from error
    return outcomes
