"""A training says, once, that other processes slow it down, and never when they do not."""

import os
from pathlib import Path

import pytest

from verydeep.training.crowding import CoreTime, Crowding, core_times


def crowding(*moments):
    """Crowding in a process whose threads had run and waited for so many seconds, one moment after another."""
    each = iter([{}, *moments])
    return Crowding(lambda: {thread: CoreTime(*map(float, times)) for thread, times in next(each).items()})


def test_a_training_with_the_cores_to_itself_says_nothing():
    # as measured: a hundredth of the time at most
    watched = crowding({1: (10, 0.1), 2: (10, 0.1)}, {1: (2000, 20), 2: (2000, 20)})
    assert watched.line() == watched.line() == ""


def test_the_line_says_what_was_seen_and_what_to_do():
    line = crowding({1: (9, 1), 2: (5, 5)}).line()
    assert "30%" in line
    assert "OMP_NUM_THREADS" in line
    assert "\n" not in line


def test_it_is_said_once():
    watched = crowding({1: (10, 10)}, {1: (20, 20)})
    assert watched.line()
    assert not watched.line()


def test_what_was_judged_is_not_judged_again():
    """Another process that starts late is noticed, however long the training had the cores to itself."""
    watched = crowding({1: (1000, 0)}, {1: (1006, 4)})
    assert not watched.line()
    assert "40%" in watched.line()


def test_a_moment_is_too_short_for_a_judgement_but_many_are_not():
    watched = crowding({1: (1, 1)}, {1: (2, 2)}, {1: (3, 3)})
    assert not watched.line()
    assert not watched.line()
    assert "50%" in watched.line()


def test_a_thread_that_started_since_counts_and_one_that_ended_does_not():
    watched = crowding({1: (100, 0), 2: (100, 0)}, {1: (106, 0), 3: (0, 2)})
    assert not watched.line()
    assert "25%" in watched.line()


def test_where_the_system_keeps_no_times_nothing_is_said():
    assert crowding({}, {}).line() == ""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no such times")
def test_times_are_the_systems():
    before = core_times()[os.getpid()]
    while (after := core_times()[os.getpid()]).ran == before.ran:  # reading them is work, too
        pass
    assert after.ran > before.ran > 0
    assert after.waited >= before.waited
