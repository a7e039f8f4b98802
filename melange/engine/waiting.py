"""Receives that wait for a message, and how they are woken."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from melange.clock import Clock

if TYPE_CHECKING:
    from melange.engine.queue import StoredQueue

FoundT = TypeVar("FoundT", bound=Sized)


def take_when_there(
    queue: StoredQueue[Any],
    take: Callable[[float], FoundT],
    *,
    lock: threading.Lock,
    clock: Clock,
    give_up_at: float,
    ended_waits: int,
    is_given_up: Callable[[], bool],
) -> FoundT | None:
    """Wait until ``take``, called with the time, returns messages, and return them. Blocks; takes the lock for each look.

    Return something empty at ``give_up_at``, and None if ``is_given_up`` or the queue's number of ``ended_waits`` has
    changed. What is taken for a receive that is given up would be lost until its deadline.
    """
    waiter = Waiter()
    found: FoundT | None = None
    try:
        while True:
            with lock:
                if queue.ended_waits != ended_waits or is_given_up():
                    return None
                now = clock.monotonic()
                found = take(now)
                if found or now >= give_up_at:
                    return found
                queue.waiters.enroll(waiter)
                until = min(give_up_at, queue.next_deadline)
            waiter.sleep(clock, until)
    finally:
        waiter.has_left = True
        with lock:
            queue.waiters.leave(waiter, is_served=bool(found))


class Waiter:
    """One receive that waits.

    It sleeps on its own condition, and never while it holds the driver's lock. An exception that ends a wait
    (Ctrl-C) can leave the lock of a condition released; this condition guards only the sleep.
    """

    __slots__ = ("_condition", "has_left", "is_woken")

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self.is_woken = False
        self.has_left = False  # set by the receive itself: it may be interrupted before it can leave

    def sleep(self, clock: Clock, until: float) -> None:
        """Return when woken, or at ``until``."""
        with self._condition:
            seconds = until - clock.monotonic()
            if seconds > 0 and not self.is_woken:
                clock.wait(self._condition, seconds)

    def wake(self) -> None:
        """End the sleep, also one that is about to begin."""
        with self._condition:
            self.is_woken = True
            self._condition.notify()


class Waiters(deque[Waiter]):
    """The receives that wait for one queue, the longest first. Guarded by the driver's lock.

    Callers wake before they make a message visible: the waiter finds it, since it needs the lock to look. In the
    other order an exception in between would leave a message without a waiter.
    """

    __slots__ = ()

    def enroll(self, waiter: Waiter) -> None:
        """Add a waiter that looked and found nothing; one that is still here keeps its place."""
        if waiter.is_woken or waiter not in self:
            waiter.is_woken = False
            self.append(waiter)

    def wake_one(self) -> None:
        """Wake the one that has waited longest."""
        while self:
            waiter = self[0]
            waiter.wake()
            self.popleft()
            if not waiter.has_left:
                return

    def wake_all(self) -> None:
        """Wake all waiters, to look again."""
        for waiter in self:
            waiter.wake()
        self.clear()

    def leave(self, waiter: Waiter, *, is_served: bool) -> None:
        """Remove a waiter. If it was woken and leaves without a message, wake the next one."""
        if waiter in self:
            self.remove(waiter)
        if waiter.is_woken and not is_served:
            self.wake_one()
