"""The outboxes that are written to in a test, and their relays."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from melange.errors import ConfigurationError, DriverError
from melange.testing.broker import HarnessDriver
from melange.testing.clock import ManualClock
from melange.testing.history import History

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from melange.outbox import OutboxRelay
    from melange.testing.django_outboxes import DjangoOutboxes

PAUSE_SECONDS = 1.0
"""How long an outbox rests after a relay could not publish."""


class Outboxes:
    """Relays every outbox that is written to, from its first row on."""

    def __init__(self, driver: HarnessDriver, history: History, clock: ManualClock) -> None:
        self._driver = driver
        self._history = history
        self._clock = clock
        self._relays: dict[Engine, OutboxRelay] = {}
        self._asynchronous: set[str] = set()
        self._not_before: dict[Engine, float] = {}
        self._in_django: DjangoOutboxes | None = None

    def add(self, engine: Engine) -> None:
        """Relay the outbox of this engine from now on."""
        from melange.outbox import OutboxRelay  # noqa: PLC0415 - it imports SQLAlchemy

        if engine not in self._relays:
            self._relays[engine] = OutboxRelay(engine, self._driver, keep_sent_seconds=None)

    def start_watching(self) -> None:
        """Find outboxes when they are written to, if SQLAlchemy is installed, or Django with ``melange.django``."""
        if "melange.django.models" in sys.modules:
            from melange.testing.django_outboxes import DjangoOutboxes  # noqa: PLC0415

            self._in_django = DjangoOutboxes(self._history.note_written)
        if find_spec("sqlalchemy") and find_spec("filelock"):
            from sqlalchemy import event  # noqa: PLC0415

            from melange.outbox import OutboxMessage, OutboxScheduledMessage  # noqa: PLC0415

            event.listen(OutboxMessage, "after_insert", self._written)
            event.listen(OutboxScheduledMessage, "after_insert", self._written)

    def stop_watching(self) -> None:
        """End what ``start_watching`` began."""
        if self._in_django is not None:
            self._in_django.end()
        if find_spec("sqlalchemy") and find_spec("filelock"):
            from sqlalchemy import event  # noqa: PLC0415

            from melange.outbox import OutboxMessage, OutboxScheduledMessage  # noqa: PLC0415

            event.remove(OutboxMessage, "after_insert", self._written)
            event.remove(OutboxScheduledMessage, "after_insert", self._written)

    def next_due(self) -> float:
        """Return the clock's time of the next scheduled message, or at which a resting outbox is relayed again."""
        resting = min(self._not_before.values(), default=float("inf"))
        return min([resting, *(self._next_scheduled(engine) for engine in self._relays)])

    def _next_scheduled(self, engine: Engine) -> float:
        from melange.outbox import OutboxAdministration  # noqa: PLC0415 - it imports SQLAlchemy

        for message in OutboxAdministration(engine).scheduled(1):
            if message.due_at is not None:
                return self._clock.monotonic() + (message.due_at - self._clock.now()).total_seconds()
        return float("inf")

    def relay(self) -> int:
        """Publish what is committed; return the number of messages.

        Raises:
            OutboxError: a database cannot be used.
            ConfigurationError: an outbox was written to through an asynchronous engine only.
        """
        for engine in self._in_django.engines() if self._in_django is not None else ():
            self.add(engine)
        known = {str(engine.url.database) for engine in self._relays}
        for database in sorted(self._asynchronous - known):
            raise ConfigurationError(
                f"the outbox in database {database} was written to through an asynchronous engine, and relays need a "
                "synchronous one: call harness.relay(create_engine(...)) for the same database"
            )
        return sum(self._relay(engine) for engine in list(self._relays))

    def _relay(self, engine: Engine) -> int:
        if self._not_before.get(engine, 0.0) > self._clock.monotonic():
            return 0
        self._not_before.pop(engine, None)
        sent: list[int] = []
        try:
            return self._relays[engine].relay_pending(on_progress=sent.append)
        except DriverError as error:
            self._history.note_trouble(f"the outbox could not be relayed: {error}")
            self._not_before[engine] = self._clock.monotonic() + PAUSE_SECONDS
            return sum(sent)

    def _written(self, _mapper: Any, connection: Any, message: Any) -> None:
        self._history.note_written(message.message_id)
        engine = connection.engine
        if engine.dialect.is_async:
            self._asynchronous.add(str(engine.url.database))
        else:
            self.add(engine)
