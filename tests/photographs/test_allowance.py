"""Limits on what threads hold at once."""

import threading

import pytest

from verydeep.photographs.allowance import Allowance


def test_no_more_is_taken_at_a_time_than_there_is():
    allowance, taken, most = Allowance(10), [0], [0]
    lock = threading.Lock()

    def take(amount):
        with allowance.taken(amount):
            with lock:
                taken[0] += amount
                most[0] = max(most[0], taken[0])
            with lock:
                taken[0] -= amount

    threads = [threading.Thread(target=take, args=(1 + number % 7,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert taken == [0]
    assert 0 < most[0] <= 10


def test_a_thread_waits_until_enough_is_left():
    allowance, reached = Allowance(10), threading.Event()

    def take():
        with allowance.taken(4):
            reached.set()

    thread = threading.Thread(target=take)
    with allowance.taken(7):
        thread.start()
        assert not reached.wait(0.05)
    thread.join(10)
    assert reached.is_set()


def test_more_than_the_whole_is_the_whole():
    allowance = Allowance(10)
    with allowance.taken(99):
        pass
    with allowance.taken(10):
        pass


def test_what_was_taken_is_given_back_after_an_error():
    allowance = Allowance(10)
    with pytest.raises(KeyError), allowance.taken(10):
        raise KeyError
    with allowance.taken(10):
        pass
