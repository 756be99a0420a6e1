"""What a training reports while it runs: lines for people, log.jsonl and TensorBoard files for programs."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from verydeep.errors import UserError, reason
from verydeep.progress import Meter

Report = Callable[..., None]
"""report(line, **values): show the line unless it is empty, and log the values if there are any."""


class Log:
    """log.jsonl: one line per iteration, epoch or event, appended and never rewritten.

    After a kill, iterations that were repeated appear twice; the later lines hold.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / "log.jsonl"
        with self.refused():
            torn = self._path.exists() and self._path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = self._path.open("a", encoding="utf-8")
            if torn:  # a process was killed while writing a line
                self._file.write("\n")

    def write(self, **values: Any) -> None:
        """Append a line.

        Raises:
            UserError: if the disk is full.
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
        """Raise a `UserError` for whatever the system refuses."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {reason(error)}; the last checkpoint is kept") from error


@dataclass(frozen=True)
class Epoch:
    """The measurements of an epoch."""

    epoch: int
    """Its number, from 1."""
    iteration: int
    """Mini-batches done at its end."""
    loss: float
    """Mean training loss of its images."""
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
    validation_loss: float | None = None
    """Mean of -ln(posterior of the true class), by `validation_protocol`; None in logs of version 0.3 and before,
    which did not measure it."""
    __pydantic_config__ = ConfigDict(strict=True)


_EPOCH = TypeAdapter(Epoch)


def read_log(run: Path) -> tuple[tuple[Epoch, ...], str]:
    """Read the epochs of a run, and why it has ended (empty if it has not), from its log.jsonl.

    Lines that a kill has torn, or that do not belong to a log, are left out.

    Raises:
        UserError: if the log cannot be read.
    """
    path = run / "log.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    epochs: dict[int, Epoch] = {}
    ended = ""
    names = [each.name for each in fields(Epoch) if each.default is MISSING]
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict):
            continue
        if values.get("event") == "started":  # again, after checkpoint and weights were moved away
            epochs, ended = {}, ""
        elif values.get("event") == "resumed":  # perhaps after its end, with a higher limit
            ended = ""
        elif values.get("event") == "ended":
            ended = str(values.get("reason", "ended"))
        elif all(name in values for name in names):
            with suppress(ValidationError):
                epoch = _EPOCH.validate_json(line)
                epochs[epoch.epoch] = epoch
    return tuple(epochs[number] for number in sorted(epochs)), ended


@contextmanager
def reporting(run: Path, meter: Meter, iteration: int) -> Iterator[Report]:
    """Yield the function that a training in this run directory reports with, from `iteration` on."""
    log = Log(run)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra is not installed
        board = None
    else:
        with log.refused():
            board = SummaryWriter(str(run / "tensorboard"), purge_step=iteration + 1)

    def report(line: str = "", **values: Any) -> None:
        if values:  # first, so that a terminal that is gone costs no measurement
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
            with suppress(OSError):  # the disk is full; log.jsonl has everything
                board.close()


def silent(line: str = "", **values: Any) -> None:
    """Report nothing; for all ranks but the first."""


class Clock:
    """Measures the time of an epoch, the time spent waiting for images, and the time since the last checkpoint."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._started = self._saved = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for images."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def since_save(self) -> float:
        """Return the seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """Note that everything has been saved."""
        self._saved = time.monotonic()

    def lap(self, images: int) -> dict[str, float]:
        """Return the speed of an epoch that ends now, in which this process has trained on some images."""
        seconds = time.monotonic() - self._started
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2),
            "waiting_share": round(self._waited / seconds, 4),
        }

    def restart(self) -> None:
        """Begin an epoch."""
        self._started, self._waited = time.monotonic(), 0.0
