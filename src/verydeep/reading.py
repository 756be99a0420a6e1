"""Mini-batches that workers prefetch: other processes, which end with the training, however it ends."""

import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from verydeep.errors import UserError, reason
from verydeep.torch_internals import abandon, abandon_unfinished

T = TypeVar("T")

PREFETCHED = 2
"""Mini-batches that each worker prefetches; torch's default."""

MORE = 2
"""Mini-batches in memory besides those: one is being computed, and one has arrived."""

SHARED_MEMORY = Path("/dev/shm")

LOST = "DataLoader worker (pid"
"""Start of torch's message that a worker has ended; it may be raised anywhere in this process."""


@contextmanager
def read_ahead(
    images: Dataset[T], batches: Iterable[list[Any]], workers: int, device: torch.device, shared: int = 0
) -> Iterator[Iterator[T]]:
    """Read each of the batches with `images.__getitems__`, in order.

    When the context is left, also by an error or a signal, the workers are killed: they have nothing to lose, and
    waiting for them could take forever.

    Args:
        images: returns a mini-batch, or the error met while reading it, for a list of addresses.
        batches: lists of addresses.
        workers: processes that prefetch; 0 to read on demand.
        device: where the mini-batches go.
        shared: bytes of shared memory that a mini-batch takes on its way here, over all ranks of this machine.

    Yields:
        The mini-batches.

    Raises:
        UserError: if there is not enough shared memory, a worker cannot be started, or one ends by itself.
    """
    check_shared_memory(workers, shared)
    started = _Started()
    iterator: Iterator[T] | None = None
    try:
        iterator = _begun(images, batches, workers, device, started)
        yield _fetched(iterator, started) if workers else iterator
    except RuntimeError as error:
        if LOST in str(error):
            raise started.loss() from error
        raise
    finally:
        if iterator is not None and workers:
            abandon(iterator)
        started.end()


def most_workers(shared: int) -> int:
    """Return how many workers the free shared memory is enough for.

    Args:
        shared: bytes of it that a mini-batch takes, over all ranks of this machine.
    """
    if not shared or not SHARED_MEMORY.is_dir():  # without that file system it is not limited
        return 2**31
    return max(0, (shutil.disk_usage(SHARED_MEMORY).free // shared - MORE) // PREFETCHED)


def check_shared_memory(workers: int, shared: int) -> None:
    """Refuse more workers than the free shared memory is enough for; otherwise they end with a bus error later.

    Args:
        workers: processes that prefetch.
        shared: bytes that a mini-batch takes, over all ranks of this machine.

    Raises:
        UserError: if it is not enough.
    """
    if workers > (most := most_workers(shared)):
        raise UserError(f"{_lacking(workers, shared)}, use --workers {most}, or use a smaller mini-batch")


def fitting_workers(workers: int, shared: int) -> tuple[int, str]:
    """Return how many of the workers the free shared memory is enough for, and a line that says so if it lacks.

    Args:
        workers: processes that prefetch.
        shared: bytes that a mini-batch takes, over all ranks of this machine.
    """
    if workers <= (most := most_workers(shared)):
        return workers, ""
    return most, f"{_lacking(workers, shared)}; going on with {most}"


def _lacking(workers: int, shared: int) -> str:
    """Return that shared memory is too small for the mini-batches of some workers, and how much would do."""
    usage, needed = shutil.disk_usage(SHARED_MEMORY), (PREFETCHED * workers + MORE) * shared
    whole = usage.total - usage.free + needed
    return (
        f"{workers} workers need {_mebibytes(needed)} MiB of shared memory for their mini-batches of "
        f"{_mebibytes(shared)} MiB, and {SHARED_MEMORY} has {usage.free >> 20} MiB free; enlarge it (docker run "
        f"--shm-size={_mebibytes(whole)}m)"
    )


def _mebibytes(size: int) -> int:
    return -(-size // 2**20)


def _begun(
    images: Dataset[T], batches: Iterable[list[Any]], workers: int, device: torch.device, started: "_Started"
) -> Iterator[T]:
    loader = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        collate_fn=_unchanged,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # unused, but the default one would draw from the user's
        pin_memory=device.type == "cuda",
        multiprocessing_context=started if workers else None,
    )
    try:
        return iter(loader)
    except OSError as error:
        abandon_unfinished(error)
        raise UserError(f"cannot start {workers} workers: {reason(error)}; use fewer --workers, or 0") from error


def _fetched(batches: Iterator[T], started: "_Started") -> Iterator[T]:
    """Yield the mini-batches; raise a `UserError` for whatever the system refuses on their way."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError, RuntimeError) as error:
            if LOST in str(error) or started.ended():
                raise started.loss() from error
            # The lines before the last may be the traceback of another process.
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            if (words := os.strerror(errno.EMFILE)) in line:  # torch adds advice to change code
                line = reason(OSError(errno.EMFILE, words))
            raise UserError(f"a worker failed: {line}; try --workers 0") from error
        yield batch


def _unchanged(batch: Any) -> Any:
    """Return a batch as it is: `__getitems__` has already collated it."""
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach every process of a group; the parent decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Queue(Queue):
    """A queue that loses nothing: a worker that cannot pass on a mini-batch ends, and that is noticed.

    By default it would print a traceback and continue, and the training would wait for that mini-batch forever.
    """

    @staticmethod
    def _on_queue_feeder_error(error: Exception, item: object) -> None:
        if get_worker_info() is not None:
            os._exit(1)


class _Started(BaseContext):
    """Makes the processes and queues of a DataLoader; keeps track of them even if it fails to start them all."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context()
        self._processes: list[BaseProcess] = []

    def Process(self, *args: Any, **named: Any) -> BaseProcess:
        """Make a process that `end` ends."""
        process: BaseProcess = self._context.Process(*args, **named)
        self._processes.append(process)
        return process

    def Queue(self, maxsize: int = 0) -> "_Queue":
        """Make a queue that this process does not wait for when it ends."""
        queue = _Queue(maxsize, ctx=self._context.get_context())
        queue.cancel_join_thread()
        return queue

    def Event(self) -> Any:
        """Make an event."""
        return self._context.Event()

    def _running(self) -> list[BaseProcess]:
        return [process for process in self._processes if process.pid is not None]

    def ended(self) -> list[BaseProcess]:
        """Return the processes that have ended by themselves, or do within a second."""
        sentinels = wait([process.sentinel for process in self._running()], timeout=1.0)
        found = [process for process in self._running() if process.sentinel in sentinels]
        for process in found:
            process.join(timeout=1.0)  # its exit code is known a little later
        return found

    def loss(self) -> UserError:
        """Return an error that says that a worker has ended by itself, and how."""
        codes = [process.exitcode for process in self.ended() if process.exitcode]
        how = f"exit code {codes[0]}" if codes else "exit code unknown"
        if codes and codes[0] < 0:
            how = signal.strsignal(-codes[0]) or f"signal {-codes[0]}"
        return UserError(
            f"a worker has ended ({how}): it ran out of memory, shared memory ({SHARED_MEMORY}) or open files "
            "(ulimit -n), or it was killed; use fewer --workers, or 0"
        )

    def end(self) -> None:
        """Kill the processes."""
        for process in self._running():
            process.kill()
        for process in self._running():
            process.join()
