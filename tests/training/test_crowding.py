"""A training warns once that other processes slow it down, and never if they do not."""

import multiprocessing
import os
from pathlib import Path

import pytest

from verydeep.training.crowding import Crowding, Moment, moment


def at(clock, machine, threads, readers=None):
    """Seconds: of the clock, of cores used by all processes, and of each thread (ran, waited)."""
    ran = {number: float(times[0]) for number, times in threads.items()}
    waited = {number: float(times[1]) for number, times in threads.items()}
    return Moment(float(clock), float(machine), ran, waited, readers or {})


def crowding(*moments, ranks=1):
    each = iter([at(0, 0, {}), *moments])
    return Crowding(ranks, lambda: next(each))


def test_a_training_with_the_cores_to_itself_says_nothing():
    # as measured: 2% at most
    watched = crowding(at(10, 20, {1: (10, 0.2), 2: (10, 0.2)}), at(2000, 4000, {1: (2000, 40), 2: (2000, 40)}))
    assert watched.line() == watched.line() == ""


def test_the_line_says_what_was_seen_and_what_to_do():
    line = crowding(at(10, 20, {1: (9, 1), 2: (5, 5)})).line()
    assert "0.6 of this machine's cores" in line
    assert "30%" in line
    assert "OMP_NUM_THREADS" in line
    assert "\n" not in line


def test_threads_that_wait_for_the_trainings_own_readers_and_ranks_are_no_others():
    threads = {1: (6, 4), 2: (1, 2)}
    assert crowding(at(10, 20, threads)).line()
    assert not crowding(at(10, 20, threads, {7: 6.5, 8: 5.5})).line()
    assert not crowding(at(10, 14, threads), ranks=2).line()


def test_others_on_cores_that_no_thread_waited_for_are_no_matter():
    assert not crowding(at(10, 600, {1: (10, 0.2)})).line()


def test_it_is_said_once():
    watched = crowding(at(10, 20, {1: (5, 5)}), at(20, 40, {1: (10, 10)}))
    assert watched.line()
    assert not watched.line()


def test_what_was_judged_is_not_judged_again():
    """Another process that starts late is noticed, however long the training had the cores to itself."""
    watched = crowding(at(1000, 1000, {1: (1000, 0)}), at(1010, 1016, {1: (1006, 4)}))
    assert not watched.line()
    assert "40%" in watched.line()


def test_a_moment_is_too_short_for_a_judgement_but_many_are_not():
    watched = crowding(*(at(2 * n, 4 * n, {1: (n, n)}) for n in (1, 2, 3)))
    assert [bool(watched.line()) for _ in range(3)] == [False, False, True]


def test_a_thread_that_started_since_counts_and_one_that_ended_does_not():
    watched = crowding(at(100, 200, {1: (100, 0), 2: (100, 0)}), at(110, 220, {1: (106, 0), 3: (0, 2)}))
    assert not watched.line()
    assert "25%" in watched.line()


def test_where_the_system_keeps_no_times_nothing_is_said():
    assert crowding(at(10, 0, {})).line() == ""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no such times")
def test_moments_are_the_systems():
    ours, theirs = multiprocessing.Pipe()
    reader = multiprocessing.get_context("spawn").Process(target=theirs.recv, daemon=True)
    before = moment()
    reader.start()
    while (now := moment()).ran[os.getpid()] == before.ran[os.getpid()]:  # to ask is work, too
        pass
    ours.send("end")
    reader.join()
    assert now.ran[os.getpid()] > before.ran[os.getpid()] > 0
    assert now.waited[os.getpid()] >= before.waited[os.getpid()] >= 0
    assert now.machine >= before.machine > 0
    assert now.clock > before.clock
    assert list(now.readers) == [reader.pid]
