"""What a training tells while it runs: lines for people, log.jsonl and TensorBoard's files for programs."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from verydeep.errors import UserError, reason
from verydeep.progress import Meter

Report = Callable[..., None]
"""report(line, **values): show the line, if it is not empty, and log the values, if there are any."""


class Log:
    """log.jsonl: a line an iteration, an epoch or an event, appended and never rewritten.

    After a kill, lines of iterations that were done again stand twice; the later ones hold.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / "log.jsonl"
        with self.refused():
            torn = self._path.exists() and self._path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = self._path.open("a", encoding="utf-8")
            if torn:  # a process was killed while it wrote a line
                self._file.write("\n")

    def write(self, **values: Any) -> None:
        """Append a line.

        Raises:
            UserError: where the disk is full.
        """
        with self.refused():
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with self.refused():
            self._file.close()

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Make what the system refuses a `UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {reason(error)}; the last checkpoint is kept") from error


@dataclass(frozen=True)
class Epoch:
    """What was measured in an epoch."""

    epoch: int
    """Its number, from 1."""
    iteration: int
    """Mini-batches done at its end."""
    loss: float
    """Mean over its images."""
    training_error: float
    """Top-1 error of its augmented, dropped-out images, in [0, 1]."""
    validation_error: float
    """Top-1 error in [0, 1], by `validation_protocol`."""
    validation_protocol: str
    rate: float
    """Learning rate."""
    seconds: float
    images_per_second: float
    waiting_share: float
    """Share of its time that was spent waiting for images, in [0, 1]."""
    __pydantic_config__ = ConfigDict(strict=True)


_EPOCH = TypeAdapter(Epoch)


def read_log(run: Path) -> tuple[tuple[Epoch, ...], str]:
    """The epochs of a run, and why it has ended (empty where it has not), by its log.jsonl.

    Raises:
        UserError: if the log cannot be read; lines that a kill has torn, or that are not of a log, are left out.
    """
    path = run / "log.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    epochs: dict[int, Epoch] = {}
    ended = ""
    names = [each.name for each in fields(Epoch)]
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict):
            continue
        if values.get("event") == "started":  # anew, where checkpoint and weights were moved away
            epochs, ended = {}, ""
        elif values.get("event") == "ended":
            ended = str(values.get("reason", "ended"))
        elif all(name in values for name in names):
            with suppress(ValidationError):
                epoch = _EPOCH.validate_json(line)
                epochs[epoch.epoch] = epoch
    return tuple(epochs[number] for number in sorted(epochs)), ended


@contextmanager
def reporting(run: Path, meter: Meter, iteration: int) -> Iterator[Report]:
    """Yield the function that a training on this run directory reports with, from `iteration` on."""
    log = Log(run)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra is not installed
        board = None
    else:
        with log.refused():
            board = SummaryWriter(str(run / "tensorboard"), purge_step=iteration + 1)

    def report(line: str = "", **values: Any) -> None:
        if values:  # before it is said: what was measured does not get lost with a terminal
            log.write(**values)
        if line:
            meter.say(line)
        if board is not None and "loss" in values:
            group = "epoch" if "epoch" in values else "iteration"
            with log.refused():
                for name, value in values.items():
                    if isinstance(value, float):
                        board.add_scalar(f"{group}/{name}", value, values["iteration"])

    try:
        yield report
    finally:
        log.close()
        if board is not None:
            with suppress(OSError):  # on a full disk; log.jsonl has it all
                board.close()


def silent(line: str = "", **values: Any) -> None:
    """What ranks other than the first report."""


class Clock:
    """Times an epoch: how long, how much of it was spent waiting for images, and since when nothing was saved."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._started = self._saved = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside counts as waiting for images."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def since_save(self) -> float:
        """Seconds since the last checkpoint, or the start."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """Everything is saved now."""
        self._saved = time.monotonic()

    def lap(self, images: int) -> dict[str, float]:
        """Speed of an epoch that ends now."""
        seconds = time.monotonic() - self._started
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2),
            "waiting_share": round(self._waited / seconds, 4),
        }

    def restart(self) -> None:
        """Begin an epoch."""
        self._started, self._waited = time.monotonic(), 0.0
