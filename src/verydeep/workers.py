"""How many workers prefetch photographs."""

from verydeep.configurations import whole_number
from verydeep.distributed import local_cores
from verydeep.errors import UserError

MOST_WORKERS = 16
"""Workers that a rank may have even with few cores, since they may be waiting for a slow disk."""

MANY = 64
"""For at least this many photographs it pays to start workers."""


def workers_for(photographs: int, given: int | None) -> int:
    """Return the number of workers for this many photographs: that of `reading_workers`, but 0 for few."""
    return 0 if given is None and photographs < MANY else reading_workers(given)


def reading_workers(given: int | None) -> int:
    """Return the number of workers of a rank: the given one, or half of its cores, up to 8.

    With fewer than 4 cores it is 0: the rank would wait for its workers.

    Raises:
        UserError: if the given number is negative or too large.
    """
    cores = local_cores()
    if given is None:
        return min(8, cores // 2) if cores >= 4 else 0
    if whole_number("workers", given) < 0:
        raise UserError(f"workers is {given}; use a number of processes, or 0 for none")
    most = max(MOST_WORKERS, 4 * cores)
    if given > most:
        raise UserError(f"workers is {given}; a rank has {cores} cores here, so use at most {most}")
    return given
