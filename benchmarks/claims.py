"""Claims and observations of benchmarks, and the one format in which results are stored.

A claim has a bound and holds or fails; an observation has no bound. `record` prints both, writes them as JSON and
returns the exit status: 0 if every claim holds, otherwise 1. `read` accepts only this format:

    {"claims": [{"claim", "measured", "unit", "bound": {"at most": x} or {"at least": x}, "peers", "holds"}],
     "observations": [{"observation", "measured", "unit", "peers"}],
     "command", "machine": {"processor", "family", "model", "cores", "memory_gib", "system"},
     "versions": {name: version}, "date", "details": {...}}

"peers" maps the name of each peer to what was measured against it, in the unit of the claim. Unknown values are
null.
"""

import argparse
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"

Bound = dict[Literal["at most", "at least"], float]
_strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Claim:
    """A number that must not exceed, or fall below, a bound.

    Args:
        claim: what was measured, against what and how; understandable without the script.
        measured: a finite number, in `unit`.
        unit: "times", "GiB", ...; or what the number is a ratio of.
        bound: {"at most": x} or {"at least": x}, in the same unit; the bound itself is allowed.
        peers: what was measured against each peer, in the same unit, if `measured` is the worst or one of them.

    Raises:
        ValueError: if the bound has another form, or a number is not finite.
    """

    claim: str
    measured: float
    unit: str
    bound: Bound
    peers: Mapping[str, float] = field(default_factory=dict)
    __pydantic_config__ = _strict

    def __post_init__(self) -> None:
        if len(self.bound) != 1 or not self.bound.keys() <= {"at most", "at least"}:
            raise ValueError(f"{self.claim}: its bound is {self.bound}; use {{'at most': x}} or {{'at least': x}}")
        _check_finite(self.claim, self.measured, *self.bound.values(), *self.peers.values())

    @property
    def holds(self) -> bool:
        """Whether the number is within the bound."""
        ((kind, bound),) = self.bound.items()
        return self.measured <= bound if kind == "at most" else self.measured >= bound


@dataclass(frozen=True)
class Observation:
    """A measured number without a claim; the arguments are those of `Claim`."""

    observation: str
    measured: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict)
    __pydantic_config__ = _strict

    def __post_init__(self) -> None:
        _check_finite(self.observation, self.measured, *self.peers.values())


@dataclass(frozen=True)
class Machine:
    """The machine that a benchmark ran on; unknown values are None."""

    processor: str | None = None
    family: int | None = None
    """Family of the processor as in /proc/cpuinfo, and likewise the model."""
    model: int | None = None
    cores: int | None = None
    """Number of cores that the benchmark may use."""
    memory_gib: float | None = None
    system: str | None = None
    __pydantic_config__ = _strict


@dataclass(frozen=True)
class Record:
    """One run of a benchmark."""

    claims: Sequence[Claim]
    observations: Sequence[Observation]
    command: str | None
    machine: Machine
    versions: Mapping[str, str | None]
    date: str | None
    """Year, month and day in UTC: 2026-11-26."""
    details: Mapping[str, Any]
    """Anything else that was measured; "notes" is a list of sentences that the results page shows."""
    __pydantic_config__ = _strict

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def as_json(self) -> str:
        """Return the record in the format above, with a newline at the end."""
        found = asdict(self)
        found["claims"] = [asdict(claim) | {"holds": claim.holds} for claim in self.claims]
        return json.dumps(found, indent=1, allow_nan=False) + "\n"


def record(
    file: Path | None,
    claims: Iterable[Claim],
    observations: Iterable[Observation] = (),
    *,
    versions: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> int:
    """Print claims and observations, and write them with everything needed to judge them.

    Args:
        file: the JSON file to write, or None.
        claims: the claims.
        observations: the observations.
        versions: versions of the peers, by name; those of Python, torch, numpy and verydeep are added.
        details: anything else that JSON can represent: single measurements, sizes, settings.

    Returns:
        The exit status: 0 if all claims hold, or there are none; otherwise 1.
    """
    ours = {name: version(name) for name in ("torch", "numpy", "verydeep")}
    found = Record(
        tuple(claims),
        tuple(observations),
        command(sys.argv),
        machine(),
        {"python": platform.python_version(), **ours, **(versions or {})},
        datetime.now(UTC).date().isoformat(),
        dict(details or {}),
    )
    print(table(found))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found.as_json(), encoding="utf-8")
    return 0 if found.holds else 1


def read(file: Path) -> Record:
    """Read a record from its file.

    Raises:
        ValueError: if it has another format, or "holds" of a claim contradicts its numbers.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    said = [claim.pop("holds", None) for claim in found["claims"]]
    result = TypeAdapter(Record).validate_json(json.dumps(found))
    for claim, holds in zip(result.claims, said, strict=True):
        if claim.holds is not holds:
            raise ValueError(
                f"{file}: 'holds' is {holds} for {claim.claim!r}, but by its numbers it is {claim.holds}"
            )
    return result


def table(found: Record) -> str:
    """Return text that lists each claim with its number, bound and peers, then the observations."""
    lines = []
    for claim in found.claims:
        ((kind, bound),) = claim.bound.items()
        verdict = "holds" if claim.holds else "FAILS"
        lines.append(f"{verdict}  {claim.measured:.3g} {claim.unit}, {kind} {bound:g}: {claim.claim}")
        lines += _peers(claim.peers)
    for seen in found.observations:
        lines.append(f"       {seen.measured:.3g} {seen.unit}: {seen.observation}")
        lines += _peers(seen.peers)
    return "\n".join([*lines, ", ".join(f"{name} {number}" for name, number in found.versions.items())])


def options(about: str | None, name: str) -> argparse.ArgumentParser:
    """Make a parser with the options of all benchmarks: `--smoke` and `--json`.

    Args:
        about: text for the help: the script's docstring.
        name: name of its file in results/.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="use sizes that take seconds, to see whether the script works; the numbers mean nothing",
    )
    parser.add_argument(
        "--json", type=Path, help=f"the file to write [default: results/{name}.json; none with --smoke]"
    )
    parser.set_defaults(name=name)
    return parser


def destination(arguments: argparse.Namespace) -> Path | None:
    """Return the file to write, from the arguments of a parser made by `options`."""
    given: Path | None = arguments.json
    return given or (None if arguments.smoke else RESULTS / f"{arguments.name}.json")


def command(words: Sequence[str]) -> str:
    """Return the command without paths of this machine: the script's path in the project, and names for others."""
    script, *rest = words
    names = [Path(word).name if Path(word).is_absolute() else word for word in rest]
    path = Path(script).resolve()
    folder = path.parent.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "benchmarks"
    return shlex.join(["python", f"{folder}/{path.name}", *names])


def machine() -> Machine:
    """Describe this machine."""
    known = _cpuinfo()
    family, model = known.get("cpu family"), known.get("model")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return Machine(
        known.get("model name") or platform.processor() or platform.machine() or None,
        int(family) if family else None,
        int(model) if model else None,
        cores,
        memory,
        f"{platform.system()} {platform.machine()}",
    )


def _cpuinfo() -> dict[str, str]:
    """Return what /proc/cpuinfo says about the first processor; empty on systems other than Linux."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def _check_finite(what: str, *numbers: float) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{what}: one of its numbers {numbers} is not finite")


def _peers(peers: Mapping[str, float]) -> list[str]:
    return [f"         {name}: {value:.3g}" for name, value in peers.items()]
