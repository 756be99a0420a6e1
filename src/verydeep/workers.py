"""How many workers prefetch photographs."""

import torch

from verydeep.configurations import whole_number
from verydeep.distributed import local_cores
from verydeep.errors import UserError

MOST_WORKERS = 16
"""Workers that a rank may have even with few cores, since they may be waiting for a slow disk."""

MANY = 64
"""For at least this many photographs it pays to start workers."""


def workers_for(photographs: int, given: int | None, device: torch.device) -> int:
    """Return the number of workers for this many photographs: that of `reading_workers`, but 0 for few."""
    return 0 if given is None and photographs < MANY else reading_workers(given, device)


def reading_workers(given: int | None, device: torch.device) -> int:
    """Return the number of workers of a rank: the given one, or one that suits its cores and its device.

    A CUDA GPU leaves all cores but one to the workers. Otherwise half of the cores are for workers, up to 8, and
    none with fewer than 4 cores: the rank would wait for its workers.

    Args:
        given: the number, or None.
        device: where nets are computed.

    Raises:
        UserError: if the given number is negative or too large.
    """
    cores = local_cores()
    if given is None and device.type == "cuda":
        return cores - 1
    if given is None:
        return min(8, cores // 2) if cores >= 4 else 0
    if whole_number("workers", given) < 0:
        raise UserError(f"workers is {given}; use a number of processes, or 0 for none")
    most = max(MOST_WORKERS, 4 * cores)
    if given > most:
        raise UserError(f"workers is {given}; a rank has {cores} cores here, so use at most {most}")
    return given
