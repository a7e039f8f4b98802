"""The outbox of a SQLAlchemy session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import delete, text
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from melange.domain.sqlalchemy import AnySession, on_commit, plain_session
from melange.errors import ConfigurationError
from melange.messages import Message
from melange.middleware import Middleware
from melange.outbox.tables import CHANNEL, OutboxMessage, OutboxScheduledMessage, row_of
from melange.outbox.transactional_outbox import DEFAULT_MAX_MESSAGE_BYTES, TransactionalOutbox

_LISTENED = "melange.outbox.notifies"


class Outbox(TransactionalOutbox):
    """Publishes within the transaction of a SQLAlchemy session: an ``OutboxRelay`` sends the committed messages, in order.

    It belongs to its session, and like it to one thread or task. As a context manager it becomes the outbox of this thread
    or task, for ``IntegrationEvents`` and ``current()``. Handlers of ``DomainEventBus.instance().after_commit`` then wait
    for its transaction.
    """

    def __init__(
        self,
        session: AnySession,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        notify: bool = True,
        middleware: Sequence[Middleware] | None = None,
    ) -> None:
        """Write to this session, plain or asynchronous, or to the one behind a scoped session.

        Args:
            session: the caller begins, commits and closes it.
            max_message_bytes: the limit of the topics; a larger message raises an error in ``publish``.
            notify: wake the relays when the transaction commits; PostgreSQL only. PostgreSQL runs commits that notify
                one after the other (https://www.postgresql.org/docs/current/sql-notify.html). With thousands of
                transactions a second pass False: relays then find the messages by polling.
            middleware: hooks that prepare the written messages; by default those of the driver in use.

        Raises:
            ConfigurationError: the session has no engine for the outbox's table.
        """
        super().__init__(max_message_bytes, middleware)
        self._session = plain_session(session)
        try:
            bind = self._session.get_bind(OutboxMessage.__mapper__)
        except UnboundExecutionError as error:
            raise ConfigurationError(
                "the session has no engine for the outbox: make it with Session(engine), or add "
                "OutboxMessage to its binds="
            ) from error
        # PostgreSQL prepares no transaction that notifies.
        notifies = notify and bind.dialect.name == "postgresql" and not self._session.twophase
        if notifies and _LISTENED not in self._session.info:
            self._session.info[_LISTENED] = True
            sqlalchemy_event.listen(self._session, "after_flush", _notify)

    def _store(self, topic: str, key: str | None, message: Message, due_at: datetime | None) -> None:
        table = OutboxMessage if due_at is None else OutboxScheduledMessage
        self._session.add(table(**row_of(topic, key, message, due_at)))

    def cancel(self, message_id: str) -> bool:
        """Cancel a scheduled event, with the transaction; return False if it is due, on its way, or not scheduled.

        It executes a statement: with an ``AsyncSession`` call it by
        ``await session.run_sync(lambda session: Outbox(session).cancel(message_id))``.
        """
        cancelled = self._session.execute(
            delete(OutboxScheduledMessage)
            .where(OutboxScheduledMessage.message_id == message_id)
            .returning(OutboxScheduledMessage.id),
            execution_options={"synchronize_session": False},
        )
        return bool(cancelled.all())

    def _when_committed(self, call: Callable[[], None]) -> None:
        park = on_commit(self._session)
        if self._session.in_transaction():
            park(call)
        else:  # the next write begins the transaction, and may be rolled back
            sqlalchemy_event.listen(
                self._session, "after_transaction_create", lambda *_: park(call), once=True
            )


def _notify(session: Session, _context: object) -> None:
    # Also for a scheduled one: a relay that waits has to know when it is due.
    if any(isinstance(written, (OutboxMessage, OutboxScheduledMessage)) for written in session.new):
        # The database sends it once, when the transaction commits, for any number of calls.
        session.connection({"mapper": OutboxMessage.__mapper__}).execute(text(f"NOTIFY {CHANNEL}"))
