"""Tasks on the event loop of a worker."""

from __future__ import annotations

from melange.consuming.event_loop import EventLoop
from melange.consuming.places import Places
from melange.consuming.threads import Threads

MOST_IN_A_TURN = 32
"""How many tasks begin before the event loop looks after its coroutines again."""


class LoopTasks:
    """Begins tasks on the event loop: where a coroutine ends there, the next one begins in the same turn, without a thread."""

    def __init__(self, places: Places, threads: Threads, event_loop: EventLoop) -> None:
        self._places = places
        self._threads = threads
        self._event_loop = event_loop
        places.wake_loop = lambda: event_loop.call_soon(self.begin)

    def begin(self) -> None:
        """Begin the tasks that have places. Call it on the event loop."""
        threads, places = self._threads, self._places
        threads.is_fed = True
        try:
            for _ in range(MOST_IN_A_TURN):
                task = places.take()
                if task is None:
                    return
                if not task.is_for_loop:
                    threads.continue_with(task)
                elif task.run(task.lease):
                    places.vacate()
            self._event_loop.call_soon(self.begin)
        finally:
            threads.is_fed = False
            threads.end_if_over()

    def ended(self) -> None:
        """Begin another task in the place of one that has ended. Call it on the event loop."""
        self._places.vacate()
        self.begin()
