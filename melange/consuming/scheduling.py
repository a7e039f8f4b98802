"""The threads and timers of a worker."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from melange.clock import Clock
from melange.consuming.leases import Lease

logger = logging.getLogger(__name__)

AHEAD = 10
"""The least number of deliveries in flight beyond those being processed: received ahead, or being settled."""

NO_THREADS_PAUSE_SECONDS = 10.0
"""How long to go on with fewer threads before the system is asked for another."""

_LONGEST_WAIT_SECONDS = 3600.0
"""Longer waits are split: the system's own timers refuse waits of centuries."""


_current: ContextVar[object] = ContextVar("melange.threads", default=None)
"""The threads of the worker that runs the caller; it passes on to coroutines and to runs with a time limit."""


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
        self._extra: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._start_again_at = -math.inf
        self._putting = threading.Lock()
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
        with self._putting:  # nothing is put behind the back of close()
            if self._closed:
                return False
            for task in tasks:
                self._tasks.put(task)
        if self._tasks.qsize() and len(self._threads) < self.size:
            self._start_threads()
        return True

    def run_apart(self, task: Task) -> threading.Thread:
        """Run the task on a thread beyond ``size``, also during a pause; return the thread.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        thread = threading.Thread(target=self._run_one, args=(task,), name="melange-alone", daemon=True)
        thread.start()
        self._extra = [*(one for one in self._extra if one.is_alive()), thread]
        return thread

    @property
    def in_flight_limit(self) -> int:
        """The most deliveries of one queue in flight: received and not yet settled, waiting retries included."""
        return self.size + max(AHEAD, self.size)

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

    def is_idle(self, young_seconds: float) -> bool:
        """Return True if no task runs that began less than ``young_seconds`` ago."""
        since = time.monotonic() - young_seconds
        return all(started < since for started, _ in list(self._running.values()))

    def enter(self) -> None:
        """Make the calling thread one of the worker's, with the coroutines and threads that it runs listeners on."""
        _current.set(self)

    @property
    def are_calling(self) -> bool:
        """True if the caller is run by this worker: a listener or a hook, on whatever thread."""
        return _current.get() is self

    def close(self) -> list[Task]:
        """Start no further task; return the tasks that have not started."""
        with self._starting, self._putting:  # no thread starts from now on, and those that did are counted
            self._closed = True
        waiting: list[Task] = []
        while True:
            try:
                task = self._tasks.get_nowait()
            except Empty:
                break
            if task is not None:
                waiting.append(task)
        for _ in self._threads:
            self._tasks.put(None)
        self.resume()
        return waiting

    def join(self, deadline: float) -> bool:
        """Wait until the tasks at work have ended, ``deadline`` (monotonic) at the latest; return True if they have."""
        threads = [*self._threads, *self._extra]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start_threads(self) -> None:
        while self._tasks.qsize() and len(self._threads) < self.size and not self._closed:
            if time.monotonic() < self._start_again_at:
                return
            try:
                self._start_thread()
            except RuntimeError as error:
                self._start_again_at = time.monotonic() + NO_THREADS_PAUSE_SECONDS
                logger.warning("working with %d threads of %d: %s", len(self._threads), self.size, error)

    def _start_thread(self) -> None:
        with self._starting:
            if len(self._threads) < self.size and not self._closed:
                name = f"melange-work-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _run(self) -> None:
        self.enter()
        number = threading.get_ident()
        while (task := self._tasks.get()) is not None:
            self._running[number] = (time.monotonic(), task)
            while not self._open.is_set():  # a pause counts from the moment that no task is seen to run
                del self._running[number]
                self.changed()
                self._open.wait()
                self._running[number] = (time.monotonic(), task)
            self._work(task)
            del self._running[number]
            if self._waiters:
                self.changed()

    def _run_one(self, task: Task) -> None:
        self.enter()
        number = threading.get_ident()
        self._running[number] = (time.monotonic(), task)
        self._work(task)
        del self._running[number]

    def _work(self, task: Task) -> None:
        try:
            task.owner.work(task.lease)
        except BaseException:  # or a thread would be missing from now on
            logger.exception("settling a delivery failed; it will be delivered again")


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
        """Call ``call(lease)`` after ``seconds``; return False when it will not be called: after ``close``, or
        without a thread."""
        with self._changed:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="melange-timers", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start a thread
                    return False
                self._thread = thread
            due = self._clock.monotonic() + seconds
            heapq.heappush(self._calls, (due, next(self._order), lease, call))
            self._changed.notify()
            return True

    def close(self) -> list[tuple[Lease, float]]:
        """Make no further calls; return the waiting leases, each with the time of its call."""
        with self._changed:
            self._closed = True
            waiting = [(lease, due) for due, _, lease, _ in self._calls]
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
