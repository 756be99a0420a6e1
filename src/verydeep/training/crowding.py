"""Notices that other processes use the cores that a training computes on."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Times = Mapping[int, float]
"""Seconds since each thread or process started, by its number."""


@dataclass(frozen=True)
class Moment:
    """How cores have been used up to a moment."""

    clock: float
    """Seconds since some time."""
    machine: float
    """Seconds of cores that all processes of the machine have used."""
    ran: Times
    """Threads of this process: while they had a core."""
    waited: Times
    """Threads of this process: while they had work and no core to do it on."""
    readers: Times
    """Reading processes of this one: while they had a core."""


def moment() -> Moment:
    """Ask the system; where it does not say, no thread has run or waited."""
    machine = 0.0
    ran: dict[int, float] = {}
    waited: dict[int, float] = {}
    readers: dict[int, float] = {}
    with suppress(OSError, ValueError):
        user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
        machine = sum(map(float, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(OSError, ValueError):  # it has ended meanwhile; a kernel without these figures
            ran[int(thread.name)], waited[int(thread.name)] = _core_times(thread)
    for reader in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            readers[reader.pid or 0], _ = _core_times(Path("/proc", str(reader.pid)))
    return Moment(time.monotonic(), machine, ran, waited, readers)


def _core_times(task: Path) -> tuple[float, float]:
    """Seconds that a thread has run, and that it has waited for a core."""
    ran, waited, _ = map(int, (task / "schedstat").read_text().split())
    return ran / 1e9, waited / 1e9


class Crowding:
    """Says once, in a line, that other processes slow a training down.

    Threads also wait for cores where a training has many readers and ranks, so what others use counts, too.
    """

    SHARE = 0.2
    """Of the time that threads had work, the part they waited for a core, from which on it is said."""
    FOREIGN = 0.25
    """Cores that other processes use, on average, from which on it is said."""
    SECONDS = 5.0
    """Threads must have had work for so long, all together, for a judgement."""

    def __init__(self, ranks: int = 1, moment: Callable[[], Moment] = moment) -> None:
        """Begin.

        Args:
            ranks: of this training on this machine, which use as much as this one.
            moment: asks the system.
        """
        self._ranks, self._moment = ranks, moment
        self._before = moment()
        self._said = False

    def line(self) -> str:
        """Judge what passed since the last judgement, or since the start.

        Returns:
            The line, once; "" as long as the cores are free, too little has passed, or it was said before.
        """
        if self._said:
            return ""
        before, now = self._before, self._moment()
        ran, waited = _passed(before.ran, now.ran), _passed(before.waited, now.waited)
        if ran + waited < self.SECONDS:
            return ""
        self._before = now
        share = waited / (ran + waited)
        ours = self._ranks * (ran + _passed(before.readers, now.readers))
        foreign = (now.machine - before.machine - ours) / (now.clock - before.clock)
        self._said = share >= self.SHARE and foreign >= self.FOREIGN
        if not self._said:
            return ""
        return (
            f"other processes use {foreign:.1f} of this machine's cores: the threads of this training waited for "
            f"a core during {share:.0%} of the time they had work, which slows it down. End the others, or leave "
            "them a core (OMP_NUM_THREADS, fewer --workers)"
        )


def _passed(before: Times, now: Times) -> float:
    """Sum over those that are there now; who was not there before has started since."""
    return sum((seconds - before.get(number, 0.0) for number, seconds in now.items()), 0.0)
