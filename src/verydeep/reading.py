"""Mini-batches read ahead by other processes, which end with the training however it ends."""

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
"""Mini-batches that each process reads ahead; torch's default."""

SHARED_MEMORY = Path("/dev/shm")

LOST = "DataLoader worker (pid"
"""How torch says, wherever this process happens to be, that one of them has ended."""


@contextmanager
def read_ahead(
    images: Dataset[T], batches: Iterable[list[Any]], workers: int, device: torch.device, shared: int = 0
) -> Iterator[Iterator[T]]:
    """Read each of the batches by `images.__getitems__`, in order.

    When this is left, also by an error or a signal, the reading processes are killed: they have nothing to lose,
    and whoever waited for them could wait for ever.

    Args:
        images: gives a mini-batch, or the error that reading it met, for a list of addresses.
        batches: lists of addresses.
        workers: processes that read ahead; 0 to read when asked.
        device: where the mini-batches go.
        shared: bytes of shared memory that a mini-batch takes on its way here, over all ranks of this machine.

    Yields:
        The mini-batches.

    Raises:
        UserError: if there is not enough shared memory, a process cannot be started, or one ends by itself.
    """
    if workers > (most := most_workers(shared)):
        free = shutil.disk_usage(SHARED_MEMORY).free
        raise UserError(
            f"{workers} reading processes would fill the shared memory: {SHARED_MEMORY} has {free >> 20} MiB "
            f"free, and a mini-batch takes {shared >> 20}; give --workers {most}, or more (docker run --shm-size)"
        )
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
    """How many reading processes the free shared memory is enough for.

    Args:
        shared: bytes that a mini-batch takes of it, over all ranks of this machine.
    """
    if not shared or not SHARED_MEMORY.is_dir():  # where it is not a file system, it is not limited
        return 2**31
    # Besides those that are read ahead, one is computed with, and one has come.
    return max(0, (shutil.disk_usage(SHARED_MEMORY).free // shared - 2) // PREFETCHED)


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
        generator=torch.Generator(),  # it is not used, but would else draw from the user's
        pin_memory=device.type == "cuda",
        multiprocessing_context=started if workers else None,
    )
    try:
        return iter(loader)
    except OSError as error:
        abandon_unfinished(error)
        raise UserError(
            f"cannot start {workers} reading processes: {reason(error)}; give fewer --workers, or 0"
        ) from error


def _fetched(batches: Iterator[T], started: "_Started") -> Iterator[T]:
    """The mini-batches, and what the system refused on their way as a sentence."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError, RuntimeError) as error:
            if LOST in str(error) or started.ended():
                raise started.loss() from error
            # Above its last line there may be the traceback of another process.
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            if (words := os.strerror(errno.EMFILE)) in line:  # torch adds advice to change code
                line = reason(OSError(errno.EMFILE, words))
            raise UserError(f"a reading process failed: {line}; try --workers 0") from error
        yield batch


def _unchanged(batch: Any) -> Any:
    """`__getitems__` has already made a mini-batch."""
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of a group; the parent decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Queue(Queue):
    """A queue that loses nothing: a process that cannot hand over a mini-batch ends, and that is noticed.

    By itself it would print a traceback and go on, and the training would wait for that mini-batch for ever.
    """

    @staticmethod
    def _on_queue_feeder_error(error: Exception, item: object) -> None:
        if get_worker_info() is not None:
            os._exit(1)


class _Started(BaseContext):
    """Makes the processes and queues of a DataLoader, and knows them: also where it fails to start them all."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context()
        self._processes: list[BaseProcess] = []

    def Process(self, *args: Any, **named: Any) -> BaseProcess:
        """A process that `end` ends."""
        process: BaseProcess = self._context.Process(*args, **named)
        self._processes.append(process)
        return process

    def Queue(self, maxsize: int = 0) -> "_Queue":
        """A queue that this process does not wait for when it ends."""
        queue = _Queue(maxsize, ctx=self._context.get_context())
        queue.cancel_join_thread()
        return queue

    def Event(self) -> Any:
        """An event."""
        return self._context.Event()

    def _running(self) -> list[BaseProcess]:
        return [process for process in self._processes if process.pid is not None]

    def ended(self) -> list[BaseProcess]:
        """The processes that have ended by themselves, or do within a second."""
        sentinels = wait([process.sentinel for process in self._running()], timeout=1.0)
        found = [process for process in self._running() if process.sentinel in sentinels]
        for process in found:
            process.join(timeout=1.0)  # it is known to have ended a little before it is known how
        return found

    def loss(self) -> UserError:
        """Says that a process has ended by itself, and how."""
        codes = [process.exitcode for process in self.ended() if process.exitcode]
        how = f"exit code {codes[0]}" if codes else "exit code unknown"
        if codes and codes[0] < 0:
            how = signal.strsignal(-codes[0]) or f"signal {-codes[0]}"
        return UserError(
            f"a reading process has ended ({how}): it ran out of memory, of shared memory ({SHARED_MEMORY}) or of "
            "open files (ulimit -n), or it was killed; give fewer --workers, or 0"
        )

    def end(self) -> None:
        """Kill the processes."""
        for process in self._running():
            process.kill()
        for process in self._running():
            process.join()
