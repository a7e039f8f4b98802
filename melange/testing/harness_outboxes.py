"""The outboxes that are written to in a test, and their relays."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from melange.errors import ConfigurationError, DriverError
from melange.middleware import Middleware
from melange.testing.clock import ManualClock
from melange.testing.harness_driver import HarnessDriver
from melange.testing.history import History

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from melange.outbox import OutboxRelay
    from melange.testing.harness_django_outboxes import DjangoOutboxes

PAUSE_SECONDS = 1.0
"""How long an outbox rests after a relay could not publish."""


class Outboxes(Middleware):
    """Relays every outbox that is written to, from its first row on, and those of the application's own relays."""

    def __init__(self, driver: HarnessDriver, history: History, clock: ManualClock) -> None:
        self._driver = driver
        self._history = history
        self._clock = clock
        self._relays: dict[Engine, OutboxRelay] = {}
        self._asynchronous: dict[str, URL] = {}
        self._own_engines: list[Engine] = []
        self._not_before: dict[Engine, float] = {}
        self._in_django: DjangoOutboxes | None = None

    def add(self, engine: Engine) -> None:
        """Relay the outbox of this engine from now on."""
        from melange.outbox import OutboxRelay  # noqa: PLC0415 - it imports SQLAlchemy

        if engine not in self._relays:
            self._relays[engine] = OutboxRelay(engine, self._driver, keep_sent_seconds=None)

    def relay_started(self, relay: OutboxRelay) -> None:
        """Hold back a relay that the application starts: ``settle`` relays its outbox instead."""
        relay.pause()
        self.add(relay.engine)

    def start_watching(self) -> None:
        """Find outboxes when they are written to, if SQLAlchemy is installed, or Django with ``melange.django``."""
        if "melange.django.models" in sys.modules:
            from melange.testing.harness_django_outboxes import DjangoOutboxes  # noqa: PLC0415

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
        for engine in self._own_engines:
            engine.dispose()

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
            ConfigurationError: an outbox was written to through an asynchronous engine only, and the synchronous URL of
                its database is not known.
        """
        for engine in self._in_django.engines() if self._in_django is not None else ():
            self.add(engine)
        known = {str(engine.url.database) for engine in self._relays}
        for database in sorted(self._asynchronous.keys() - known):
            self.add(self._synchronous_engine(database))
        return sum(self._relay(engine) for engine in list(self._relays))

    def _synchronous_engine(self, database: str) -> Engine:
        from sqlalchemy import create_engine  # noqa: PLC0415

        url = _synchronous(self._asynchronous[database])
        if url is None:
            raise ConfigurationError(
                f"the outbox in database {database} was written to through an asynchronous engine, and relays need a "
                "synchronous one: call harness.relay(create_engine(...)) for the same database"
            )
        engine = create_engine(url)
        self._own_engines.append(engine)
        return engine

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
            self._asynchronous[str(engine.url.database)] = engine.url
        else:
            self.add(engine)


def _synchronous(url: URL) -> URL | None:
    """Return the URL of the same database for a synchronous driver; None if that is not certain."""
    database = url.database or ""
    if url.get_backend_name() == "sqlite" and database and not database.startswith((":memory:", "file:")):
        return url.set(drivername="sqlite")
    # Parameters of one driver may be unknown to another.
    if url.get_backend_name() == "postgresql" and not url.query and find_spec("psycopg"):
        return url.set(drivername="postgresql+psycopg")
    return None
