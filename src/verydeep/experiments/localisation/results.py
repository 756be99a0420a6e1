"""The results of the localisation experiments: localisation.json, and the hits of each photograph beside it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pydantic import ConfigDict, TypeAdapter

from verydeep.errors import UserError, reason
from verydeep.files import exists, read_json, written_aside
from verydeep.localisation.errors import Hits
from verydeep.sealed import Damaged, read_arrays, write_arrays

FORMAT = 1
RESULTS, HITS = "localisation.json", "localisation.safetensors"

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Wrong:
    """Numbers of photographs without a right answer."""

    __pydantic_config__ = _STRICT
    top1: int
    top5: int | None = None
    """None by protocol 1."""


@dataclass(frozen=True)
class BoxMeasured:
    """One seed's result for a row of the plan."""

    __pydantic_config__ = _STRICT
    key: str
    seed: int
    protocol: str
    """With Q in pixels as tested."""
    identity: str
    """Of the weights and the boxes that it was measured with."""
    wrong: Wrong
    classes: Wrong | None
    """The classes alone; None by protocol 1."""
    baselines: dict[str, Wrong]
    seconds: float


@dataclass(frozen=True)
class BoxCurve:
    """A training of a box regressor."""

    __pydantic_config__ = _STRICT
    training: str
    seed: int
    start: str
    scale: tuple[int, ...]
    trained_layers: str
    epochs: int
    iterations: int
    loss: tuple[float, ...]
    """Mean Euclidean loss of each epoch."""
    training_error: tuple[float, ...]
    validation_error: tuple[float, ...]
    rate: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class BoxResults:
    """Everything that the report shows."""

    __pydantic_config__ = _STRICT
    format: int
    data: str
    preset: dict[str, Any]
    classifiers: str
    """Where the classification nets come from."""
    classes: tuple[str, ...]
    training_images: int
    tested_images: int
    without_boxes: int
    tables: tuple[str, ...]
    seeds: tuple[int, ...]
    curves: tuple[BoxCurve, ...] = ()
    rows: tuple[BoxMeasured, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def seeds_of(self, key: str) -> tuple[int, ...]:
        """Return the seeds that have measured a row."""
        return tuple(sorted(row.seed for row in self.rows if row.key == key))

    def measured(self, key: str, seed: int) -> BoxMeasured | None:
        """Return the result of a row for a seed; None if there is none."""
        return next((row for row in self.rows if (row.key, row.seed) == (key, seed)), None)


_RESULTS = TypeAdapter(BoxResults)


@dataclass(frozen=True, eq=False)
class BoxMeasurements:
    """The results with the hits of each photograph."""

    results: BoxResults
    hits: dict[tuple[str, int], Hits]
    """By key of the row and seed."""

    def missed(self, key: str, seed: int) -> Bool[np.ndarray, " N"]:
        """Return which photographs count as wrong: top-5 by protocol 2, as in the paper's tables."""
        found = self.hits[key, seed]
        return ~(found.top1 if found.top5 is None else found.top5)


def read_box_measurements(folder: Path) -> BoxMeasurements | None:
    """Read the results in a folder; None if there are none.

    Raises:
        UserError: if they are damaged.
    """
    if not exists(folder / RESULTS):
        return None
    try:
        results = _RESULTS.validate_json(json.dumps(read_json(folder / RESULTS)))
        arrays = read_arrays(folder / HITS)
    except (OSError, ValueError, Damaged) as error:
        raise UserError(f"cannot read the results in {folder}: {reason(error)}") from error
    hits = {}
    for row in results.rows:
        name = _name(row.key, row.seed)
        if f"{name} top1" not in arrays:
            raise UserError(f"cannot read the results in {folder}: {HITS} lacks {name} which {RESULTS} has")
        top5 = arrays.get(f"{name} top5")
        hits[row.key, row.seed] = Hits(arrays[f"{name} top1"] > 0, None if top5 is None else top5 > 0)
    return BoxMeasurements(results, hits)


def write_box_measurements(found: BoxMeasurements, folder: Path) -> None:
    """Write the results.

    Raises:
        UserError: if they cannot be written.
    """
    arrays = {}
    for (key, seed), hits in found.hits.items():
        arrays[f"{_name(key, seed)} top1"] = hits.top1.astype(np.uint8)
        if hits.top5 is not None:
            arrays[f"{_name(key, seed)} top5"] = hits.top5.astype(np.uint8)
    with written_aside(folder / HITS) as aside:
        write_arrays(aside, arrays)
    with written_aside(folder / RESULTS) as aside:
        aside.write_text(json.dumps(asdict(found.results), indent=1) + "\n", encoding="utf-8")


def _name(key: str, seed: int) -> str:
    return f"{key}, seed {seed},"
