"""Work on deliveries with asynchronous listeners, step by step, without a thread that waits for a coroutine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextvars import Context
from functools import partial
from typing import NamedTuple

from melange.consuming.concurrency import Places, Task
from melange.consuming.event_loop import EventLoop, how_it_ended
from melange.consuming.leases import Lease
from melange.consuming.outcomes import Outcome
from melange.consuming.processor import DeliveryProcessor, Steps
from melange.consuming.threads import Threads

MOST_IN_A_TURN = 32
"""How many tasks begin before the event loop looks after its coroutines again."""


class LoopTasks:
    """Begins tasks on the event loop: where a coroutine ends, the next one begins in the same turn, without a thread."""

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


class _Work(NamedTuple):
    lease: Lease
    steps: Steps
    context: Context
    started: float


class SteppedWork:
    """Processes the deliveries of one queue with asynchronous listeners.

    No thread waits for a coroutine. ``on_loop`` takes all steps on the event loop, so that nothing passes between threads:
    for stores that answer at once. ``on_threads`` takes them on the worker's threads.

    ``broken_off`` returns the outcome after an unexpected exception. ``conclude`` has a delivery settled; it does not
    block if ``concludes_at_once`` returns True.
    """

    def __init__(
        self,
        processor: DeliveryProcessor,
        threads: Threads,
        loop_tasks: LoopTasks,
        event_loop: EventLoop,
        *,
        broken_off: Callable[[Lease, BaseException], Outcome],
        conclude: Callable[[Lease, Outcome, float], None],
        concludes_at_once: Callable[[Lease, Outcome], bool],
    ) -> None:
        self._processor = processor
        self._threads = threads
        self._loop_tasks = loop_tasks
        self._event_loop = event_loop
        self._broken_off = broken_off
        self._conclude = conclude
        self._concludes_at_once = concludes_at_once
        self._context = Context()  # what a hook or another delivery has set in this thread is not passed on
        self._context.run(threads.enter)

    def on_loop(self, lease: Lease) -> bool:
        """Begin a delivery on the event loop; return False, because it goes on there."""
        work = self._begun(lease)
        self._threads.suspend(lease)
        if self._event_loop.is_calling:
            self._run_on_loop(work)
        else:
            try:
                self._event_loop.call_soon(partial(self._run_on_loop, work))
            except RuntimeError as refused:  # the system cannot start the thread of the loop
                outcome = self._broken_off(lease, refused)
                self._threads.continue_with(Task(lambda _: self._concluded(work, outcome), lease))
        return False

    def on_threads(self, lease: Lease) -> bool:
        """Begin a delivery on a thread of the worker; return False if it goes on when a coroutine has ended."""
        return self._step_on_thread(self._begun(lease), None)

    def _begun(self, lease: Lease) -> _Work:
        return _Work(lease, self._processor.steps(lease), self._context.copy(), time.monotonic())

    # --- on the event loop ---------------------------------------------------------------------------

    def _run_on_loop(self, work: _Work) -> None:
        ended = partial(self._ended_on_loop, work)
        self._event_loop.run_task(self._steps_on_loop(work), work.context, ended)

    async def _steps_on_loop(self, work: _Work) -> Callable[[Lease], bool] | None:
        """Take the steps, and begin another delivery in this place; return what is left to be done on a thread.

        All in the task of the listener: so its steps follow each other at once, also while other coroutines end.
        """
        lease, steps = work.lease, work.steps
        error: BaseException | None = None
        try:
            while (awaitable := steps.send(error)) is not None:
                error = await how_it_ended(awaitable)
            return lambda _: self._step_on_thread(work, None)
        except StopIteration as end:
            outcome = end.value
        except GeneratorExit:  # the loop was closed before the end of the listener
            raise
        except BaseException as broken:
            outcome = self._broken_off(lease, broken)
        if not self._concludes_at_once(lease, outcome):
            return lambda _: self._concluded(work, outcome)
        # First, for threads that wait until nothing is at work and all is settled.
        self._threads.ended_elsewhere(lease)
        self._conclude(lease, outcome, work.started)
        self._loop_tasks.ended()
        return None

    def _ended_on_loop(self, work: _Work, task: asyncio.Task[Callable[[Lease], bool] | None]) -> None:
        if task.cancelled():  # before its first step: later it would have noticed
            outcome = self._broken_off(work.lease, CancelledError())
            self._threads.continue_with(Task(lambda _: self._concluded(work, outcome), work.lease))
        elif (rest := task.result()) is not None:
            self._threads.continue_with(Task(rest, work.lease))

    # --- on threads ----------------------------------------------------------------------------------

    def _step_on_thread(self, work: _Work, error: BaseException | None) -> bool:
        try:
            while (awaitable := work.context.run(work.steps.send, error)) is None:
                error = None
        except StopIteration as end:
            return self._concluded(work, end.value)
        except BaseException as broken:
            return self._concluded(work, self._broken_off(work.lease, broken))
        self._threads.suspend(work.lease)
        try:
            self._event_loop.call_soon(partial(self._run_for_thread, work, awaitable))
        except RuntimeError as refused:  # the system cannot start the thread of the loop
            self._continue_on_thread(work, refused)
        return False

    def _run_for_thread(self, work: _Work, awaitable: Awaitable[object]) -> None:
        def ended(task: asyncio.Task[BaseException | None]) -> None:
            self._continue_on_thread(work, CancelledError() if task.cancelled() else task.result())

        self._event_loop.run_task(how_it_ended(awaitable), work.context, ended)

    def _continue_on_thread(self, work: _Work, error: BaseException | None) -> None:
        self._threads.continue_with(Task(lambda _: self._step_on_thread(work, error), work.lease))

    def _concluded(self, work: _Work, outcome: Outcome) -> bool:
        self._conclude(work.lease, outcome, work.started)
        return True
