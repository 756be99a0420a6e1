"""Mini-batches read ahead by other processes."""

import signal
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def read_ahead(
    images: Dataset[T], batches: Iterable[list[Any]], workers: int, device: torch.device
) -> DataLoader[T]:
    """Read each of the batches by `images.__getitems__`, in order.

    Args:
        images: gives a mini-batch, or the error that reading it met, for a list of addresses.
        batches: lists of addresses.
        workers: processes that read ahead; 0 to read when asked.
        device: where the mini-batches go.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # it is not used, but would else draw from the user's
        pin_memory=device.type == "cuda",
    )


def _unchanged(batch: Any) -> Any:
    """`__getitems__` has already made a mini-batch."""
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of a group; the parent decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
