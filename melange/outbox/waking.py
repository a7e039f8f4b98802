"""The waits of a relay: until there is something to publish, or until it stops."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

from sqlalchemy import Engine

from melange.clock import Clock
from melange.outbox.tables import CHANNEL


class StopSignal:
    """A flag that asks to stop; it is set once. Thread-safe, and safe in signal handlers."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # with a lock that a signal handler may take again
        self._is_set = False

    def set(self) -> None:
        """Ask all to stop, and end their waits."""
        with self._condition:
            self._is_set = True
            self._condition.notify_all()

    def is_set(self) -> bool:
        """Return True if a stop was requested."""
        return self._is_set

    def wait(self, seconds: float, clock: Clock) -> None:
        """Return after ``seconds`` of the clock, or as soon as a stop is requested."""
        with self._condition:
            if not self._is_set and seconds > 0:
                clock.wait(self._condition, seconds)


logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 1.0
"""The longest time in which a wait notices that it should end."""


class Waker(Protocol):
    """Waits for work."""

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        """Return when there may be work, when a stop is requested, or after ``seconds``."""
        ...

    def close(self) -> None:
        """Release the resources of the waits. Idempotent."""
        ...


def waker_for(engine: Engine, clock: Clock) -> Waker:
    """Return a waker that listens for notifications if the database and its driver can, else one that only waits."""
    return NotifiedWaker(engine, clock) if engine.dialect.driver == "psycopg" else PollingWaker(clock)


class PollingWaker:
    """Polls after a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        stopping.wait(seconds, self._clock)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class NotifiedWaker:
    """Listens to PostgreSQL's notifications, on its own connection, with psycopg."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._listening: Any = None

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        try:
            if self._listening is None:
                self._listening = self._listen()
                return  # something may have come before we listened
            while not stopping.is_set() and (left := deadline - self._clock.monotonic()) > 0:
                slice_seconds = min(left, _LONGEST_WAIT_SECONDS)
                if any(True for _ in self._listening.notifies(timeout=slice_seconds, stop_after=1)):
                    return
        except Exception as error:  # errors of psycopg and SQLAlchemy: polling later works as well
            logger.warning("not notified of new messages for now: %s", ascii(str(error)))
            self.close()
            stopping.wait(min(deadline - self._clock.monotonic(), _LONGEST_WAIT_SECONDS), self._clock)

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    def _listen(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()  # it is ours, and is not in the pool
        try:
            connection.rollback()  # the application's hooks for new connections may have begun a transaction
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection
