"""The threads and timers of a worker."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from melange.clock import Clock
from melange.consuming.leases import Lease
from melange.consuming.suspects import Suspects

logger = logging.getLogger(__name__)

LONGEST_WAIT_FOR_OTHERS_SECONDS = 30.0
LONGEST_ALONE_SECONDS = 60.0

_LONGEST_WAIT_SECONDS = 3600.0
"""Longer waits are split: the system's own timers refuse waits of centuries."""


class WorksOnLeases(Protocol):
    """The part of a queue worker that threads call."""

    def work(self, lease: Lease) -> None:
        """Process and settle."""
        ...


class Task(NamedTuple):
    """A delivery that may begin."""

    owner: WorksOnLeases
    lease: Lease


class Threads:
    """At most ``size`` daemon threads, started as they are needed.

    Not a ``ThreadPoolExecutor``, which joins its threads when the interpreter exits: a listener that hangs would keep the
    process alive. A task passes through one ``SimpleQueue``, without locks in Python.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: dict[int, tuple[float, Task]] = {}
        self._starting = threading.Lock()
        self._closed = False
        self._open = threading.Event()
        self._open.set()
        self._changed = threading.Condition()
        self._waiters = 0

    def start(self) -> None:
        """Start the first thread.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._start_thread()

    def put(self, tasks: Sequence[Task]) -> bool:
        """Run the tasks, each as soon as a thread is free; return False after ``close``, when none of them will run."""
        if self._closed:
            return False
        for task in tasks:
            self._tasks.put(task)
        while self._tasks.qsize() and len(self._threads) < self.size and not self._closed:
            try:
                self._start_thread()
            except RuntimeError:
                logger.warning("the system has no more threads to give: going on with %d", len(self._threads))
                break
        return True

    @property
    def free(self) -> int:
        """The number of tasks that could start now; 0 or less if some wait already."""
        return self.size - len(self._running) - self._tasks.qsize()

    @property
    def longest_run_seconds(self) -> float:
        """The time of the longest running task; 0 if none runs."""
        started = [started for started, _ in list(self._running.values())]
        return time.monotonic() - min(started) if started else 0.0

    def pause(self) -> None:
        """Start no task until ``resume``; running ones continue."""
        self._open.clear()

    def resume(self) -> None:
        """Start tasks again."""
        self._open.set()

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Return True as soon as the condition holds, checked when a task ends; False after the timeout."""
        with self._changed:
            self._waiters += 1
            try:
                return self._changed.wait_for(condition, timeout_seconds)
            finally:
                self._waiters -= 1

    def changed(self) -> None:
        """Wake the threads in ``wait_for``, which check their conditions."""
        if self._waiters:  # read without the lock: a waiter checks once more after it counted itself
            with self._changed:
                self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """True if no task runs."""
        return not self._running

    def close(self) -> list[Task]:
        """Start no further task; return the tasks that have not started."""
        with self._starting:  # no thread starts from now on, and those that did are counted
            self._closed = True
        self.resume()
        waiting = self.drain()
        for _ in self._threads:
            self._tasks.put(None)
        return waiting

    def drain(self) -> list[Task]:
        """Remove the tasks that have not started: after ``close``, those that were put at the same moment."""
        waiting: list[Task] = []
        while True:
            try:
                task = self._tasks.get_nowait()
            except Empty:
                return waiting
            if task is not None:
                waiting.append(task)

    def join(self, deadline: float) -> bool:
        """Wait until the tasks at work have ended, ``deadline`` (monotonic) at the latest; return True if they have."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def __contains__(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    def _start_thread(self) -> None:
        with self._starting:
            if len(self._threads) < self.size and not self._closed:
                name = f"melange-work-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)  # before its first task may ask whether it is one of them
                try:
                    thread.start()
                except RuntimeError:
                    self._threads.remove(thread)
                    raise

    def _run(self) -> None:
        number = threading.get_ident()
        while (task := self._tasks.get()) is not None:
            if not self._open.is_set():
                self._open.wait()
            self._running[number] = (time.monotonic(), task)
            try:
                task.owner.work(task.lease)
            except BaseException:  # or a thread would be missing from now on
                logger.exception("settling a delivery failed; it will be delivered again")
            del self._running[number]
            if self._waiters:
                self.changed()


class Timers:
    """Calls functions later, on a daemon thread that starts with the first call. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Lease, Callable[[Lease], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, call: Callable[[Lease], None], lease: Lease) -> bool:
        """Call ``call(lease)`` after ``seconds``; return False after ``close``, when it will not be called."""
        with self._changed:
            if self._closed:
                return False
            due = self._clock.monotonic() + seconds
            heapq.heappush(self._calls, (due, next(self._order), lease, call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="melange-timers", daemon=True)
                self._thread.start()
            self._changed.notify()
            return True

    def close(self) -> dict[Lease, float]:
        """Make no further calls; return the waiting leases with their remaining seconds."""
        with self._changed:
            self._closed = True
            now = self._clock.monotonic()
            waiting = {lease: max(0.0, due - now) for due, _, lease, _ in self._calls}
            self._calls.clear()
            self._changed.notify()
            return waiting

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = self._clock.monotonic()
                if not self._calls:
                    self._changed.wait()
                    continue
                due, _, lease, call = self._calls[0]
                if due > now:
                    try:
                        self._clock.wait(self._changed, min(due - now, _LONGEST_WAIT_SECONDS))
                    except TimeoutError:  # a clock for tests that was not advanced
                        logger.debug("no time has passed")
                    continue
                heapq.heappop(self._calls)
            try:
                call(lease)
            except Exception:
                logger.exception("a retry could not begin; the message will be delivered again")


class Isolation:
    """Runs suspects one at a time, with nothing else at work in the worker.

    ``is_settled`` tells whether everything that has finished is acknowledged, too.
    """

    def __init__(self, threads: Threads, suspects: Suspects, is_settled: Callable[[], bool]) -> None:
        self._threads = threads
        self._suspects = suspects
        self._is_settled = is_settled
        self._one_at_a_time = threading.Lock()

    def begin(self, work: Callable[[], None]) -> None:
        """Run ``work`` alone, on a thread of its own; returns at once.

        It waits for what is at work, and others wait for it, both for a limited time: a run of minutes must not stop the
        worker.
        """
        threading.Thread(target=self._run, args=(work,), name="melange-alone", daemon=True).start()

    def _run(self, work: Callable[[], None]) -> None:
        with self._one_at_a_time:
            self._threads.pause()
            resume = threading.Timer(
                LONGEST_WAIT_FOR_OTHERS_SECONDS + LONGEST_ALONE_SECONDS, self._threads.resume
            )
            resume.daemon = True
            resume.start()
            try:
                self._threads.wait_for(
                    lambda: self._threads.is_idle and self._is_settled(), LONGEST_WAIT_FOR_OTHERS_SECONDS
                )
                work()
                self._suspects.survived()
            finally:
                resume.cancel()
                self._threads.resume()
