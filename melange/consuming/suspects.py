"""Messages that may be poison: they are worked on alone, so that a process that they kill takes no others along."""

from __future__ import annotations

import threading
from collections.abc import Callable

from melange.consuming.scheduling import Threads
from melange.messages import Delivery

SUSPECT_RECEIVES = 3
"""A message that comes for the third time, and not because this process gave it back, may have killed two others."""

MOST_ISOLATED = 20
"""How many suspects a process isolates. Once so many have survived, high receive counts have another reason, an outage
for one, and working on one at a time would only delay all. A process that was killed begins to count anew."""

LONGEST_WAIT_SECONDS = 30.0
LONGEST_ALONE_SECONDS = 60.0

_MOST_REMEMBERED = 10_000


class Suspects:
    """Tells suspects from other messages; thread-safe."""

    def __init__(self) -> None:
        self._given_back: dict[str, None] = {}
        self._left = MOST_ISOLATED

    def gave_back(self, delivery: Delivery) -> None:
        """Note that this process gave the message back alive: its next receive has that reason."""
        self._given_back[delivery.message.message_id] = None
        if len(self._given_back) > _MOST_REMEMBERED:
            self._given_back.pop(next(iter(self._given_back)), None)

    def includes(self, delivery: Delivery) -> bool:
        """Return whether the message should be worked on alone."""
        return (
            delivery.receive_count >= SUSPECT_RECEIVES
            and self._left > 0
            and delivery.message.message_id not in self._given_back
        )

    def survived(self) -> None:
        """Note that a suspect did not kill the process."""
        self._left -= 1


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

        It waits for what is at work, and others wait for it, but neither for ever: a run of minutes must not stop the
        worker.
        """
        threading.Thread(target=self._run, args=(work,), name="melange-alone", daemon=True).start()

    def _run(self, work: Callable[[], None]) -> None:
        with self._one_at_a_time:
            self._threads.pause()
            resume = threading.Timer(LONGEST_WAIT_SECONDS + LONGEST_ALONE_SECONDS, self._threads.resume)
            resume.daemon = True
            resume.start()
            try:
                self._threads.wait_for(
                    lambda: self._threads.is_idle and self._is_settled(), LONGEST_WAIT_SECONDS
                )
                work()
                self._suspects.survived()
            finally:
                resume.cancel()
                self._threads.resume()
