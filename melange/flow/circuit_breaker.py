"""A circuit breaker for a queue: what fails again and again is not tried at full speed."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from melange.clock import Clock, SystemClock
from melange.consuming.gates import FlowState, Gate
from melange.errors import ConfigurationError, Reject, Retry, is_number, is_whole_number
from melange.messages import Delivery, Queue
from melange.middleware import Middleware

if TYPE_CHECKING:
    from melange.consuming.listener import ListenerCall
    from melange.consuming.outcomes import Outcome

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 60.0
"""After this time without a result another probe is allowed: the first may have gone to another worker."""


class CircuitBreaker(Gate, Middleware):
    """Stops receiving when most of the last runs of listeners failed with the same type of exception.

    Pass it to one consumer as ``flow=[CircuitBreaker()]``. While it is broken, messages wait in their queue and use up no
    attempts. After a pause it receives one message as a probe. If a run passes, it goes on at full speed; if it fails, the
    next pause is twice as long. Messages in flight continue. ``Reject`` and ``Retry`` are decisions of a listener and do
    not count. Each process has its own.

    Args:
        window: the number of last runs that are looked at.
        share: it breaks if at least this part of them failed with one type of exception.
        first_pause_seconds: the pause before the first probe.
        longest_pause_seconds: the limit of the growing pause.

    Raises:
        ConfigurationError: a number is out of bounds.
    """

    def __init__(
        self,
        *,
        window: int = 20,
        share: float = 0.8,
        first_pause_seconds: float = 5.0,
        longest_pause_seconds: float = 300.0,
    ) -> None:
        if not is_whole_number(window) or window < 2:
            raise ConfigurationError(f"window must be a whole number of at least 2, not {window!r}")
        if not is_number(share) or not 0 < share <= 1:
            raise ConfigurationError(f"share must be above 0 and at most 1, not {share!r}")
        are_numbers = is_number(first_pause_seconds) and is_number(longest_pause_seconds)
        if not are_numbers or not 0 < first_pause_seconds <= longest_pause_seconds:
            raise ConfigurationError(
                f"first_pause_seconds must be above 0 and at most longest_pause_seconds, not {first_pause_seconds!r}"
            )
        self._share = share
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._clock: Clock = SystemClock()
        self._queue_name = ""
        self._lock = threading.Lock()
        self._runs: deque[str | None] = deque(maxlen=window)
        self._state: FlowState = "open"
        self._pause_seconds = first_pause_seconds
        self._until = 0.0  # of a pause, or of a probe

    def bind(self, queue: Queue, clock: Clock) -> None:
        if self._queue_name:
            raise ConfigurationError("a CircuitBreaker belongs to one consumer: make another one")
        self._queue_name = queue.name
        self._clock = clock

    @property
    def hooks(self) -> Sequence[Middleware]:
        return (self,)

    @property
    def state(self) -> FlowState:
        return self._state

    def allowance(self) -> int | None:
        if self._state == "open":
            return None
        with self._lock:
            if self._clock.monotonic() < self._until:
                return 0
            self._state = "probing"
            return 1

    def received(self, count: int) -> None:
        if count and self._state == "probing":
            with self._lock:
                self._until = self._clock.monotonic() + _PROBE_SECONDS

    def around_delivery(self, delivery: Delivery, process: Callable[[], Outcome]) -> Outcome:
        outcome = process()
        if self._state == "probing":
            # Without a run, as of a message that was finished before: the next one is the probe.
            with self._lock:
                self._until = self._clock.monotonic()
        return outcome

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        outcome = run(call)
        error = getattr(outcome, "error", None)
        if not isinstance(error, (Reject, Retry)):
            self._note(None if error is None else type(error).__qualname__)
        return outcome

    def _note(self, kind: str | None) -> None:
        with self._lock:
            if self._state == "probing":
                self._end_probe(kind)
            elif self._state == "open":
                self._runs.append(kind)
                if kind is not None and len(self._runs) == self._runs.maxlen:
                    self._break_if_most_failed(kind)

    def _end_probe(self, kind: str | None) -> None:
        if kind is None:
            self._state = "open"
            self._pause_seconds = self._first_pause_seconds
            logger.warning("queue %s: a message passed, receiving at full speed", self._queue_name)
        else:
            self._pause_seconds = min(2 * self._pause_seconds, self._longest_pause_seconds)
            self._break(kind)

    def _break_if_most_failed(self, kind: str) -> None:
        if Counter(self._runs)[kind] >= self._share * len(self._runs):
            self._runs.clear()
            self._break(kind)

    def _break(self, kind: str) -> None:
        self._state = "broken"
        self._until = self._clock.monotonic() + self._pause_seconds
        logger.error(
            "queue %s: most runs failed with %s, receiving nothing for %g s",
            self._queue_name,
            kind,
            self._pause_seconds,
            extra={"queue_name": self._queue_name},
        )
