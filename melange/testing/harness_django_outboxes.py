"""Outboxes on Django's ORM that are written to in a test. Imported only if the project has the app ``melange.django``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.db.models.signals import post_save

from melange.django.engines import engine_of
from melange.django.models import OutboxMessage, OutboxScheduledMessage

if TYPE_CHECKING:
    from sqlalchemy import Engine


class DjangoOutboxes:
    """Finds the databases of written messages, and makes engines for them."""

    def __init__(self, note_written: Callable[[str], None]) -> None:
        self._note_written = note_written
        self._aliases: set[str] = set()
        self._engines: dict[str, Engine] = {}
        for model in (OutboxMessage, OutboxScheduledMessage):
            post_save.connect(self._written, sender=model)

    def engines(self) -> list[Engine]:
        """Return the engines of all databases that were written to.

        Raises:
            ConfigurationError: the relay cannot use one of them, for example a SQLite in memory.
        """
        for alias in sorted(self._aliases - self._engines.keys()):
            self._engines[alias] = engine_of(alias)
        return list(self._engines.values())

    def end(self) -> None:
        """Release the connections."""
        for model in (OutboxMessage, OutboxScheduledMessage):
            post_save.disconnect(self._written, sender=model)
        for engine in self._engines.values():
            engine.dispose()

    def _written(self, instance: Any, using: str, **_: object) -> None:
        self._note_written(instance.message_id)
        self._aliases.add(using)
