"""The threads of a worker."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from queue import SimpleQueue

from melange.consuming.concurrency import Changes, Places, Task
from melange.consuming.leases import Lease

logger = logging.getLogger(__name__)

QUICK_SECONDS = 0.000_2
"""A step that takes longer has probably waited for something, so that another thread could have used the time."""

STUCK_SECONDS = 0.02
"""A thread that is busy with one step for longer is not waited for."""

NO_THREADS_PAUSE_SECONDS = 10.0
"""How long to go on with fewer threads before the system is asked for another."""

SLOW_CALL_SECONDS = 0.005
"""A call of the broker that takes longer has waited for the network, and others could have waited beside it."""

MOST_CALLS = 10
"""The most polls of a queue at a time, and the most calls that acknowledge."""

_current: ContextVar[object] = ContextVar("melange.threads", default=None)
"""The threads of the worker that runs the caller; it passes on to coroutines and to runs with a time limit."""


class Threads:
    """Runs tasks on at most as many daemon threads as there are places, which are started as they are needed.

    Quick work stays on one thread: several would only wait for each other at the interpreter's lock. So a task is left to
    a thread that is about to be free, unless most steps take long enough to wait for something. A thread that looks for
    stuck ones wakes others within some milliseconds, so that a slow listener does not delay others.

    A delivery with a coroutine on the event loop keeps its place, and no thread.

    Not a ``ThreadPoolExecutor``, which joins its threads when the interpreter exits: a listener that hangs would keep the
    process alive. Everything that is done once for each delivery is one atomic operation, without a lock in Python.
    """

    def __init__(self, places: Places, changes: Changes) -> None:
        self._places = places
        self._changes = changes
        places.wake_threads = self._attend
        self._continuations: deque[Task] = deque()
        self._suspended: dict[Lease, float] = {}
        self._busy_since: dict[int, float] = {}
        # One until quick steps have shown otherwise: the first ones must not wait for each other.
        self._slow_share = 1.0
        self._threads: list[threading.Thread] = []
        self._idle: list[tuple[int, threading.Lock]] = []
        self._apart: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._start_again_at = -math.inf
        self._closed = False
        self._watch: SimpleQueue[None] | None = None
        self._is_watched = False
        self.is_fed = False
        """True while the event loop passes on tasks: then the threads must not end."""

    def start(self) -> None:
        """Start the first thread.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._start_thread()
        watch: SimpleQueue[None] = SimpleQueue()
        thread = threading.Thread(
            target=self._look_for_stuck, args=(watch,), name="melange-watch", daemon=True
        )
        thread.start()
        self._watch = watch

    def suspend(self, lease: Lease) -> None:
        """Note that the work on the delivery goes on elsewhere, until ``continue_with`` or ``ended_elsewhere``."""
        self._suspended[lease] = time.monotonic()

    def continue_with(self, task: Task) -> None:
        """Run a task that has a place: the next step of a delivery that was suspended. Never refused."""
        self._continuations.append(task)
        self._attend(1)

    def ended_elsewhere(self, lease: Lease) -> None:
        """Note that a delivery that was suspended needs no further step."""
        del self._suspended[lease]
        self.end_if_over()

    def end_if_over(self) -> None:
        """After ``close``, end the threads if no delivery is at work."""
        if self._closed and self._is_over():
            self._wake(self._places.size)

    def run_apart(self, task: Task) -> threading.Thread:
        """Run the task on a thread of its own, without a place, also during a pause; return the thread.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        thread = threading.Thread(target=self._run_one, args=(task,), name="melange-alone", daemon=True)
        thread.start()
        self._apart = [*(one for one in self._apart if one.is_alive()), thread]
        return thread

    @property
    def longest_run_seconds(self) -> float:
        """The time of the longest running task; 0 if none runs."""
        started = self._started()
        return time.monotonic() - min(started) if started else 0.0

    def is_idle(self, young_seconds: float) -> bool:
        """Return True if no task runs that began less than ``young_seconds`` ago."""
        since = time.monotonic() - young_seconds
        return all(started < since for started in self._started())

    def enter(self) -> None:
        """Make the calling thread one of the worker's, with the coroutines and threads that it runs listeners on."""
        _current.set(self)

    @property
    def are_calling(self) -> bool:
        """True if the caller is run by this worker: a listener or a hook, on whatever thread."""
        return _current.get() is self

    def close(self) -> None:
        """End the threads when no delivery is at work any more; call it after ``Places.close``."""
        with self._starting:  # no thread starts from now on, and those that did are counted
            self._closed = True
        self._wake(self._places.size)
        if self._watch is not None:
            self._watch.put(None)

    def join(self, deadline: float) -> bool:
        """Wait until the tasks at work have ended, ``deadline`` (monotonic) at the latest; return True if they have."""
        threads = [*self._threads, *self._apart]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # --- waking --------------------------------------------------------------------------------------

    def _attend(self, count: int) -> None:
        """Have ``count`` more tasks done: by a thread that will soon be free, or by others, woken or started."""
        if self._watch is None or self._closed or self._slow_share >= 0.5:
            self._wake(count)
            return
        if not self._is_one_quick():
            self._wake(1)
            count -= 1
        if count > 0 and not self._is_watched:
            self._is_watched = True
            self._watch.put(None)

    def _is_one_quick(self) -> bool:
        since = time.monotonic() - STUCK_SECONDS
        busy_since = list(self._busy_since.values())
        return bool(busy_since) and max(busy_since) > since

    def _wake(self, count: int) -> None:
        for _ in range(min(count, self._places.size)):
            try:
                number, wake = self._idle.pop()  # the last one that became idle
            except IndexError:
                if len(self._threads) == self._places.size or not self._start_another():
                    return
            else:
                # Busy from now on: until it has the interpreter's lock, what comes meanwhile must not wake another.
                self._busy_since[number] = time.monotonic()
                wake.release()

    def _look_for_stuck(self, watch: SimpleQueue[None]) -> None:
        """Wake threads for tasks that wait for a thread that is busy for longer than expected."""
        while not self._closed:
            watch.get()
            count = 1
            while self._has_step() and not self._closed:
                time.sleep(STUCK_SECONDS)
                if not self._has_step() or self._is_one_quick():
                    count = 1
                else:  # a few at first: threads that only wait for the interpreter's lock look the same
                    self._wake(count)
                    count *= 2
            self._is_watched = False
            if self._has_step():  # put between the last look and this
                self._attend(1)

    # --- working -------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.enter()
        number, wake = threading.get_ident(), threading.Lock()
        wake.acquire()
        busy_since = self._busy_since
        while True:
            started = busy_since[number] = time.monotonic()
            while (task := self._next()) is not None:
                if self._do(task):
                    self._places.vacate()
                ended = busy_since[number] = time.monotonic()
                # Several threads may write at once; an estimate may miss one step.
                self._slow_share += 0.1 * ((ended - started > QUICK_SECONDS) - self._slow_share)
                started = ended
            del busy_since[number]
            self._changes.notify()
            if not self._sleep(number, wake):
                busy_since.pop(number, None)
                return

    def _next(self) -> Task | None:
        """Return the next step, None if there is none or no place for it."""
        # New deliveries first, while there are places: the event loop has work while ended coroutines are settled here.
        task = self._places.take()
        if task is None and self._continuations:
            try:
                task = self._continuations.popleft()
            except IndexError:  # another thread was faster
                return None
            self._suspended.pop(task.lease, None)
        return task

    def _sleep(self, number: int, wake: threading.Lock) -> bool:
        """Wait until there may be a step to do; return False if there will be none any more."""
        idle = number, wake
        self._idle.append(idle)
        # Looked at only now, so that no step is overlooked: a thread that adds one sees this thread among the idle ones.
        if self._has_step() or self._is_over():
            try:
                self._idle.remove(idle)
            except ValueError:  # it is being woken
                wake.acquire()
        else:
            wake.acquire()
        if not self._is_over():
            return True
        self._wake(self._places.size)  # the others, to end as well
        return False

    def _has_step(self) -> bool:
        return bool(self._continuations) or self._places.can_take()

    def _is_over(self) -> bool:
        return self._closed and not (self._suspended or self._continuations or self.is_fed)

    def _do(self, task: Task) -> bool:
        try:
            return task.run(task.lease)
        except BaseException:  # or a thread would be missing from now on
            logger.exception("settling a delivery failed; it will be delivered again")
            return True

    def _run_one(self, task: Task) -> None:
        self.enter()
        number = threading.get_ident()
        self._busy_since[number] = time.monotonic()
        self._do(task)
        del self._busy_since[number]
        self._changes.notify()

    def _started(self) -> list[float]:
        return [*self._busy_since.values(), *self._suspended.values()]

    # --- starting ------------------------------------------------------------------------------------

    def _start_another(self) -> bool:
        if self._closed or time.monotonic() < self._start_again_at:
            return False
        try:
            self._start_thread()
        except RuntimeError as error:
            self._start_again_at = time.monotonic() + NO_THREADS_PAUSE_SECONDS
            logger.warning("working with %d threads of %d: %s", len(self._threads), self._places.size, error)
            return False
        return True

    def _start_thread(self) -> None:
        with self._starting:
            if len(self._threads) < self._places.size and not self._closed:
                name = f"melange-work-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)


class ExtraThreads:
    """Daemon threads that do the work of one thread beside it, while its calls wait for the network. Thread-safe.

    Each ends when ``run`` returns, which must not raise anything.
    """

    def __init__(self, run: Callable[[], None], name: str, most: int) -> None:
        self._run = run
        self._name = name
        self._most = most
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()

    def add(self) -> None:
        """Start one more thread, unless there are enough of them or the system cannot start it."""
        with self._starting:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                with suppress(RuntimeError):
                    thread.start()
                    self._threads.append(thread)

    @property
    def are_alive(self) -> bool:
        """True while one of them runs."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, deadline: float) -> None:
        """Wait until all have ended, ``deadline`` (monotonic) at the latest."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
