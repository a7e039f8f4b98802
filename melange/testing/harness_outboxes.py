"""The outboxes that are written to in a test, and their relays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
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
        self._django_aliases: set[str] = set()
        self._django_engines: dict[str, Engine] = {}
        self._watching = ExitStack()

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
            self._watch_django()
        if find_spec("sqlalchemy") and find_spec("filelock"):
            self._watch_sqlalchemy()

    def stop_watching(self) -> None:
        """End what ``start_watching`` began, and release the connections."""
        self._watching.close()
        for engine in (*self._own_engines, *self._django_engines.values()):
            engine.dispose()

    def _watch_sqlalchemy(self) -> None:
        from sqlalchemy import event  # noqa: PLC0415

        from melange.outbox import OutboxMessage, OutboxScheduledMessage  # noqa: PLC0415

        for model in (OutboxMessage, OutboxScheduledMessage):
            event.listen(model, "after_insert", self._written)
            self._watching.callback(event.remove, model, "after_insert", self._written)

    def _watch_django(self) -> None:
        from django.db.models.signals import post_save  # noqa: PLC0415

        from melange.django.models import OutboxMessage, OutboxScheduledMessage  # noqa: PLC0415

        for model in (OutboxMessage, OutboxScheduledMessage):
            post_save.connect(self._written_in_django, sender=model)
            self._watching.callback(post_save.disconnect, self._written_in_django, sender=model)

    def next_due(self) -> float:
        """Return the clock's next time at which a scheduled message is due or a resting outbox is relayed; or infinity."""
        now = self._clock.monotonic()
        scheduled = (due for engine in self._relays for due in self._scheduled(engine))
        # What is due already waits for something else, such as the end of its outbox's rest.
        return min(
            (due for due in (*self._not_before.values(), *scheduled) if due > now), default=float("inf")
        )

    def _scheduled(self, engine: Engine) -> Iterator[float]:
        from melange.outbox import OutboxAdministration  # noqa: PLC0415 - it imports SQLAlchemy

        for message in OutboxAdministration(engine).scheduled(1):
            if message.due_at is not None:
                yield self._clock.monotonic() + (message.due_at - self._clock.now()).total_seconds()

    def relay(self) -> int:
        """Publish what is committed; return the number of messages.

        Raises:
            OutboxError: a database cannot be used.
            ConfigurationError: an outbox was written to through an asynchronous engine only, and the synchronous URL of
                its database is not known; or Django's database cannot be used by a relay, such as a SQLite in memory.
        """
        for alias in sorted(self._django_aliases - self._django_engines.keys()):
            self._add_django(alias)
        known = {str(engine.url.database) for engine in self._relays}
        for database in sorted(self._asynchronous.keys() - known):
            self.add(self._synchronous_engine(database))
        return sum(self._relay(engine) for engine in list(self._relays))

    def _add_django(self, alias: str) -> None:
        from melange.django.engines import engine_of  # noqa: PLC0415

        self._django_engines[alias] = engine_of(alias)
        self.add(self._django_engines[alias])

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

    def _written_in_django(self, instance: Any, using: str, **_: object) -> None:
        self._history.note_written(instance.message_id)
        self._django_aliases.add(using)


def _synchronous(url: URL) -> URL | None:
    """Return the URL of the same database for a synchronous driver; None if that is not certain."""
    database = url.database or ""
    if url.get_backend_name() == "sqlite" and database and not database.startswith((":memory:", "file:")):
        return url.set(drivername="sqlite")
    # Parameters of one driver may be unknown to another.
    if url.get_backend_name() == "postgresql" and not url.query and find_spec("psycopg"):
        return url.set(drivername="postgresql+psycopg")
    return None
