"""Notices that other processes use the cores that a training computes on."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CoreTime:
    """Seconds of a thread since it started."""

    ran: float
    waited: float
    """While it had work and no core to do it on."""


def core_times() -> dict[int, CoreTime]:
    """Give the times of each thread of this process by its number; empty where the system does not keep them."""
    times = {}
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(OSError, ValueError):  # the thread has ended meanwhile; a kernel without these figures
            ran, waited, _ = map(int, (thread / "schedstat").read_text().split())
            times[int(thread.name)] = CoreTime(ran / 1e9, waited / 1e9)
    return times


class Crowding:
    """Says once, in a line, that other processes slow a training down."""

    SHARE = 0.2
    """Of the time that threads had work, the part they waited for a core, from which on it is said."""
    SECONDS = 5.0
    """Threads must have had work for so long, all together, for a judgement."""

    def __init__(self, times: Callable[[], dict[int, CoreTime]] = core_times) -> None:
        self._times = times
        self._before = times()
        self._said = False

    def line(self) -> str:
        """Judge what passed since the last judgement, or since the start.

        Returns:
            The line, once; "" as long as the cores are free, too little has passed, or it was said before.
        """
        if self._said:
            return ""
        now, none = self._times(), CoreTime(0.0, 0.0)
        ran = sum(time.ran - self._before.get(thread, none).ran for thread, time in now.items())
        waited = sum(time.waited - self._before.get(thread, none).waited for thread, time in now.items())
        if ran + waited < self.SECONDS:
            return ""
        self._before = now
        share = waited / (ran + waited)
        if share < self.SHARE:
            return ""
        self._said = True
        return (
            f"other processes use this machine's cores: the threads of this training waited for a core during "
            f"{share:.0%} of the time they had work, which slows it down. End the others, or leave them a core "
            "(OMP_NUM_THREADS, fewer --workers)"
        )
