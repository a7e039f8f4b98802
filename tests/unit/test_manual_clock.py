"""The manual clock: time passes by advance alone, and wakes who waits."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from melange.testing import ManualClock
from waiting import eventually


def _wait(clock: ManualClock, condition: threading.Condition, seconds: float) -> float:
    with condition:
        clock.wait(condition, seconds)
    return clock.monotonic()


def _until_waiting(clock: ManualClock) -> None:
    eventually(lambda: clock.waiting)


def test_advancing_moves_both_times():
    clock = ManualClock()
    start = clock.now()

    clock.advance(2.5)

    assert clock.monotonic() == 2.5
    assert clock.now() - start == timedelta(seconds=2.5)
    assert clock.now().utcoffset() == timedelta(0)


def test_time_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-1)


def test_a_wait_ends_when_its_time_has_come_and_not_before():
    clock = ManualClock()
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(_wait, clock, threading.Condition(), 10)
        _until_waiting(clock)

        clock.advance(9)
        assert clock.waiting == 1
        clock.advance(1)

        assert waiter.result(timeout=10) == 10


def test_a_wait_ends_when_it_is_notified():
    clock = ManualClock()
    condition = threading.Condition()
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(_wait, clock, condition, 10)
        _until_waiting(clock)

        with condition:
            condition.notify()

        assert waiter.result(timeout=10) == 0


def test_a_wait_for_no_time_returns_at_once():
    clock = ManualClock()

    assert _wait(clock, threading.Condition(), 0) == 0


def test_a_wait_that_nobody_ends_says_so_instead_of_hanging():
    clock = ManualClock(stuck_after_seconds=0.01)

    with pytest.raises(TimeoutError, match="advance"):
        _wait(clock, threading.Condition(), 5)

    assert clock.waiting == 0
