"""Workers: whatever happens to them, the training ends, and they end with it."""

import gc
import multiprocessing.queues
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

import pytest
import torch

from synthetic import refusal
from verydeep import reading
from verydeep.errors import UserError
from verydeep.reading import fitting_workers, most_workers, read_ahead

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


class Numbers(torch.utils.data.Dataset):
    """Returns the requested numbers, and its process; at some numbers something else happens."""

    def __init__(self, at=None, happens=None):
        self.at, self.happens = at, happens

    def __getitems__(self, numbers):
        if self.at in numbers:
            self.happens()
        return torch.tensor([*numbers, os.getpid()])


def batches(count=20):
    return [[number] for number in range(count)]


def gone(process):
    return not os.path.exists(f"/proc/{process}")


def read(images, workers=1):
    with read_ahead(images, batches(), workers, CPU) as found:
        for batch in found:
            processes.add(int(batch[1]))


processes: set[int] = set()


@pytest.fixture(autouse=True)
def no_process_is_left():
    processes.clear()
    yield
    assert all(map(gone, processes - {os.getpid()}))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order(workers):
    with read_ahead(Numbers(), batches(), workers, CPU) as found:
        read = [tuple(batch.tolist()) for batch in found]
    assert [number for number, _ in read] == list(range(20))
    assert (read[0][1] == os.getpid()) == (workers == 0)
    processes.update(process for _, process in read)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def without_files():
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (die, r"a worker has ended \(Killed\).*fewer --workers"),
        (lambda: os._exit(3), r"a worker has ended \(exit code 3\).*fewer --workers"),
        (without_files, r"a worker failed: Too many open files \(.*ulimit -n\); try --workers 0"),
    ],
)
def test_a_process_that_ends_is_one_line_and_not_waited_for(happens, words):
    before = time.monotonic()
    with pytest.raises(UserError, match=words) as caught:
        read(Numbers(5, happens))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - before < 20


class Unsendable:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


class Lost(torch.utils.data.Dataset):
    """Batches that cannot be passed on, as when shared memory or file descriptors have run out."""

    def __getitems__(self, numbers):
        return Unsendable()


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for():
    def begin():
        with read_ahead(Lost(), batches(), 1, CPU) as found:
            next(found)

    assert "a worker has ended (exit code 1)" in refusal(begin)


def test_an_error_leaves_no_process_behind():
    def fail():
        with read_ahead(Numbers(), batches(), 2, CPU) as found:
            processes.update(int(next(found)[1]) for _ in range(4))
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_processes_that_do_not_answer_are_not_waited_for():
    before = time.monotonic()
    with read_ahead(Numbers(3, lambda: time.sleep(60)), batches(), 1, CPU) as found:
        processes.add(int(next(found)[1]))
    assert time.monotonic() - before < 20


UNEXPECTED = """
import os, time, torch
from test_reading import Numbers, batches
from verydeep.reading import read_ahead
with read_ahead(Numbers(3, lambda: time.sleep(60)), batches(), 2, torch.device("cpu")) as found:
    next(found)
    raise AssertionError("unexpected")
"""


def test_a_program_with_an_unexpected_error_ends():
    """It used to hang at its end, waiting for processes that ignored SIGTERM."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", UNEXPECTED],
        capture_output=True, text=True, check=False, timeout=100, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert "AssertionError: unexpected" in done.stderr


def test_processes_that_cannot_be_started_are_one_line(monkeypatch):
    def refused(self):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", lambda: refused(None))
    message = refusal(read, Numbers())
    assert "cannot start 1 workers: Resource temporarily unavailable" in message


def test_an_error_between_two_starts_is_one_line_and_ends_the_process_that_was_started(monkeypatch):
    """The finaliser of torch's iterator assumes that all have started, and printed a traceback."""
    fork, unraisable = os.fork, []

    def refused_once_started():
        if processes:
            raise OSError(24, "Too many open files")
        if child := fork():
            processes.add(child)
        return child

    monkeypatch.setattr(os, "fork", refused_once_started)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    message = refusal(read, Numbers(), workers=2)
    gc.collect()
    assert "cannot start 2 workers: Too many open files (raise the limit with ulimit -n)" in message
    assert len(processes) == 1
    assert unraisable == []


def test_torchs_advice_on_open_files_is_not_quoted(monkeypatch):
    """It says which function to call, which is of no use on the command line."""

    def too_many(*_, **__):
        raise OSError(24, "Too many open files")

    def begin():
        with read_ahead(Numbers(3, lambda: time.sleep(60)), batches(), 1, CPU) as found:
            processes.add(int(next(found)[1]))
            monkeypatch.setattr(tempfile, "NamedTemporaryFile", too_many)
            monkeypatch.setattr(multiprocessing.queues.Queue, "get", too_many)
            list(found)

    message = refusal(begin)
    assert "a worker failed: Too many open files (raise the limit with ulimit -n); try" in message
    assert "set_sharing_strategy" not in message


def test_shared_memory_is_looked_at_before_the_start(monkeypatch, tmp_path):
    """Docker gives 64 MiB, and a mini-batch of the paper takes 37."""
    monkeypatch.setattr(reading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda path: Usage(2**26, 2**20, 2**26 - 2**20))
    batch = 256 * 3 * 224 * 224
    assert most_workers(batch) == 0
    assert most_workers(2**20) == 30
    assert most_workers(0) > 10**6

    def start():
        with read_ahead(Numbers(), batches(), 4, CPU, shared=batch):
            raise AssertionError

    message = refusal(start)
    assert "4 workers need 368 MiB of shared memory for their mini-batches of 37 MiB" in message
    assert f"{tmp_path} has 63 MiB free; enlarge it (docker run --shm-size=369m), use --workers 0, or" in message


def test_workers_that_nobody_has_chosen_are_as_many_as_shared_memory_is_enough_for(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda path: Usage(2**26, 0, 2**26))
    assert fitting_workers(3, 2**23) == (3, "")
    found, line = fitting_workers(15, 2**23)
    assert found == 3
    assert "15 workers need 256 MiB" in line
    assert "--shm-size=256m); going on with 3" in line
    assert fitting_workers(15, 0) == (15, "")
