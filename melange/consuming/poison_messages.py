"""Possible poison messages: each runs alone, so that it does not take other messages with it."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from melange.consuming.concurrency import Changes, Places, Task
from melange.consuming.leases import Lease
from melange.consuming.threads import Threads
from melange.messages import Delivery

SUSPECT_RECEIVES = 3
"""A message that comes for the third time, and not because this process released it, may have killed two others."""

MOST_ISOLATED = 5
"""The number of suspects that a process isolates. If this many have survived, high receive counts have another reason, such
as an outage, and isolation would only delay all. After a kill the next process isolates again."""

LONGEST_WAIT_FOR_OTHERS_SECONDS = 30.0
LONGEST_ALONE_SECONDS = 60.0

_MOST_REMEMBERED = 10_000

Suspect = TypeVar("Suspect")


class Suspects:
    """Finds suspects among messages; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released: dict[str, None] = {}
        self._left = MOST_ISOLATED

    def released(self, delivery: Delivery) -> None:
        """Note that this process released the message alive: its next receive has that reason."""
        with self._lock:
            self._released[delivery.message.message_id] = None
            if len(self._released) > _MOST_REMEMBERED:
                del self._released[next(iter(self._released))]

    def includes(self, delivery: Delivery) -> bool:
        """Return True if the message should be worked on alone."""
        return (
            delivery.receive_count >= SUSPECT_RECEIVES
            and self._left > 0
            and delivery.message.message_id not in self._released
        )

    def last_and_alone(self, leases: Sequence[Lease]) -> list[list[Lease]]:
        """Return what to settle together: suspects come last, each on its own."""
        suspects = [lease for lease in leases if self.includes(lease.delivery)]
        return [
            [lease for lease in leases if lease not in suspects],
            *([one] for one in shuffled(suspects)),
        ]

    def survived(self) -> None:
        """Note that a suspect did not kill the process."""
        self._left -= 1


def shuffled(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Return the suspects in random order: the poison among them must not kill each process before the others ran."""
    return random.sample(suspects, len(suspects))


class Isolation:
    """Runs suspects one at a time, with nothing else at work in the worker. Thread-safe.

    A suspect waits for what is at work, and others wait for it, both for a limited time: a run of minutes must not stop
    the worker, nor the other suspects. ``is_settled`` returns True if everything that has finished is acknowledged, too.
    """

    def __init__(
        self,
        places: Places,
        threads: Threads,
        changes: Changes,
        suspects: Suspects,
        is_settled: Callable[[], bool],
    ) -> None:
        self._places = places
        self._threads = threads
        self._changes = changes
        self._suspects = suspects
        self._is_settled = is_settled
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, tasks: Sequence[Task]) -> bool:
        """Run each of the tasks alone, soon; return False after ``close``, when none of them will run."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="melange-isolation", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start a thread: better among others than never
                    return self._places.put(tasks)
                self._thread = thread
            self._waiting.extend(tasks)
            return True

    def close(self) -> list[Task]:
        """Start no further task; return the tasks that have not started."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        self._changes.notify()
        return waiting

    def _run(self) -> None:
        while self._has_next():
            self._places.pause()
            try:
                self._changes.wait_for(self._may_begin, LONGEST_WAIT_FOR_OTHERS_SECONDS)
                self._run_next()
            finally:
                self._places.resume()

    def _has_next(self) -> bool:
        with self._lock:
            if self._waiting:
                return True
            self._thread = None
            return False

    def _may_begin(self) -> bool:
        # What takes longer than others are waited for is not waited for again.
        return self._closed or (self._threads.is_idle(LONGEST_WAIT_FOR_OTHERS_SECONDS) and self._is_settled())

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # closed meanwhile
                return
            task = self._waiting.popleft()
            try:
                thread = self._threads.run_apart(task)  # under the lock, so that close() and join() see it
            except RuntimeError:
                self._places.put([task])
                return
        thread.join(LONGEST_ALONE_SECONDS)
        self._suspects.survived()
