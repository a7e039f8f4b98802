"""One poll of a queue, inside of its gates and hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from melange.consuming.gates import Gates
from melange.drivers.base import MessagingDriver
from melange.messages import Delivery, Queue
from melange.middleware import Middleware, wrapped


class Receiver:
    """Receives the deliveries of one queue. Thread-safe.

    ``release`` is called with what was received, if a hook or a gate raises after it.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        queue: Queue,
        gates: Gates,
        middleware: Sequence[Middleware],
        *,
        visibility_timeout_seconds: int,
        release: Callable[[list[Delivery]], None],
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._gates = gates
        self._around_poll = [partial(one.around_poll, queue) for one in middleware]
        self._visibility_timeout_seconds = visibility_timeout_seconds
        self._longest_visibility = driver.capabilities.max_visibility_seconds
        self._release = release

    def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Take at most ``limit`` deliveries; return ``[]`` at once while the gates are shut."""
        gates = self._gates
        is_limited = not gates.is_open
        if is_limited:
            limit = gates.allowed(limit)
            if limit <= 0:
                return []
        # Deadlines count from before the request, the only moment that is known not to be too late: a process may be
        # held up just when the answer comes. The wait must not use up the time that is left for the work.
        seconds = min(self._visibility_timeout_seconds + wait_seconds, self._longest_visibility)
        if not (is_limited or self._around_poll):
            return self._driver.receive(self._queue, limit, wait_seconds, visibility_timeout_seconds=seconds)
        received: list[Delivery] = []

        def poll() -> list[Delivery]:
            deliveries = self._driver.receive(
                self._queue, limit, wait_seconds, visibility_timeout_seconds=seconds
            )
            received.extend(deliveries)
            return deliveries  # a hook may do to it what it likes

        try:
            wrapped(poll, self._around_poll)
            if is_limited:
                gates.received(len(received))
        except BaseException:
            self._release(received)
            raise
        return received
