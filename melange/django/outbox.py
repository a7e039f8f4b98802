"""The outbox on Django's ORM: publish within ``transaction.atomic()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from django.conf import settings
from django.db import connections, transaction

from melange.django.configuration import Configuration
from melange.django.models import OutboxMessage, OutboxScheduledMessage
from melange.errors import ConfigurationError
from melange.messages import Message
from melange.middleware import Middleware
from melange.outbox.tables import CHANNEL, row_of
from melange.outbox.transactional_outbox import DEFAULT_MAX_MESSAGE_BYTES, TransactionalOutbox


class Outbox(TransactionalOutbox):
    """Publishes within the transaction of Django's ORM: ``manage.py melange_outbox`` sends the committed messages.

    As a context manager it becomes the outbox of this thread or task, for ``IntegrationEvents``; handlers of
    ``DomainEventBus.instance().after_commit`` then wait by ``transaction.on_commit``.
    """

    def __init__(
        self,
        using: str | None = None,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        middleware: Sequence[Middleware] | None = None,
    ) -> None:
        """Write to the database ``using``, by default that of the setting ``MELANGE``."""
        super().__init__(max_message_bytes, middleware)
        self._using = Configuration.of_project().database if using is None else using

    def _store(self, topic: str, key: str | None, message: Message, due_at: datetime | None) -> None:
        connection = connections[self._using]
        if not connection.in_atomic_block:
            raise ConfigurationError(
                "an event was published to the outbox outside of a transaction: publish it inside of `with "
                f"transaction.atomic(using={self._using!r}):`, or set ATOMIC_REQUESTS"
            )
        row = row_of(topic, key, message, due_at)
        time = "published_at" if due_at is None else "due_at"
        # The relay reads times without a zone as UTC. PostgreSQL would take them as those of TIME_ZONE.
        if not settings.USE_TZ and connection.vendor != "postgresql":
            row[time] = row[time].astimezone(UTC).replace(tzinfo=None)
        table = OutboxMessage if due_at is None else OutboxScheduledMessage
        table.objects.using(self._using).create(**row)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:  # sent once, when the transaction commits
                cursor.execute(f"NOTIFY {CHANNEL}")

    def cancel(self, message_id: str) -> bool:
        scheduled = OutboxScheduledMessage.objects.using(self._using).filter(message_id=message_id)
        deleted, _ = scheduled.delete()
        return bool(deleted)

    def _when_committed(self, call: Callable[[], None]) -> None:
        transaction.on_commit(call, using=self._using)


@contextmanager
def unit_of_work() -> Iterator[Outbox]:
    """Open the outbox, and the groups of the setting ``MELANGE``, for a ``with`` block."""
    with Outbox().scope(*Configuration.of_project().found_groups()) as outbox:
        yield outbox
