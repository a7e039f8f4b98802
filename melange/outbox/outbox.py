"""Publishing within a transaction: what is written here leaves once it was committed, and never otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from melange.domain import DomainEventBus, Subscribers
from melange.domain.blocks import Block, Blocks
from melange.domain.sqlalchemy import AnySession, on_commit, plain_session
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_message
from melange.errors import ConfigurationError, InvalidMessageError
from melange.messages import Message
from melange.outbox.causation import DomainEventIds, trace_headers
from melange.outbox.destinations import Key, check_topic, key_text_of, lock_key_of
from melange.outbox.tables import OutboxMessage
from melange.publishing import Event, message_from, own_headers
from melange.serialization.serializer import EventSerializer

CHANNEL = "melange_outbox"
"""What relays listen to on PostgreSQL."""

_DEFAULT_MAX_MESSAGE_BYTES = 262_144  # what a topic of SNS takes unless it is told otherwise
_LISTENED = "melange.outbox.notifies"


class Outbox:
    """Publishes within the transaction of a session: an ``OutboxRelay`` sends what was committed, in order.

    Used as a context manager it is the outbox of this thread or task, for ``IntegrationEvents`` and ``current()``,
    and the handlers that ``DomainEventBus.instance().after_commit`` made wait for its session's transaction. It
    belongs to its session: neither is for several threads at once.
    """

    def __init__(
        self,
        session: AnySession,
        *,
        max_message_bytes: int = _DEFAULT_MAX_MESSAGE_BYTES,
        notify: bool = True,
    ) -> None:
        """Write into this session, plain or asynchronous, or the one that a scoped session stands for.

        Args:
            session: yours to begin, commit and close.
            max_message_bytes: what the topics take; larger messages are refused here, where the publisher gets the error.
            notify: wake the relays when the transaction commits; PostgreSQL only. Its commits that notify go one
                after the other (https://www.postgresql.org/docs/current/sql-notify.html), so say False where
                thousands of transactions commit in a second: relays then find the messages by polling.

        Raises:
            ConfigurationError: the session has no engine for the outbox's table.
        """
        self._session = plain_session(session)
        self._max_message_bytes = max_message_bytes
        self._serializer = EventSerializer.instance()
        self._ids = DomainEventIds()
        self._open: list[_Opened] = []
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

    def publish(
        self,
        topic: str,
        event: Event,
        event_type_name: str | None = None,
        *,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        message_group_id: str | None = None,
        message_deduplication_id: str | None = None,
    ) -> str:
        """Write one event into the transaction, to be published to ``topic`` after it; return its message id.

        It does not block and is the same for asynchronous sessions: the session's next flush writes the row.
        For the arguments that are not named here see ``ExchangeMessagePublisher.publish``.

        Args:
            topic: a name, ``*.fifo`` for a FIFO topic, or an ARN.
            key: events of one topic and key leave in the order in which they were written, as far as their
                transactions exclude each other: take the id of the aggregate that they change. By default the
                ``message_group_id``; on a FIFO topic that is, the other way round, the key.
            headers: beside them ``correlation-id`` and ``causation-id`` say what the event followed from, if it is
                published while a message, or a domain event of ``DomainEventBus.instance()``, is being handled.

        Raises:
            EncodeError: the event cannot be written as JSON; nothing was written, the transaction is untouched.
            InvalidMessageError: a broker would refuse it (too large, a key missing on FIFO ...); likewise.
            InvalidNameError: no topic has such a name; likewise.
        """
        return self._write(
            topic,
            event,
            event_type_name,
            key=key,
            headers={**trace_headers(self._id_of_handled_event()), **own_headers(headers)},
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
        )

    def publish_domain_event(self, domain_event: object, topic: str, event: Event, *, key: Key | None) -> str:
        """Write the integration event that a domain event is outside, as ``publish`` does.

        The first one has the id that is the causation id of what else is published while the domain event is
        being handled.
        """
        return self._write(
            topic,
            event,
            None,
            key=key,
            headers=trace_headers(None),
            message_id=self._ids.for_message(domain_event),
            message_group_id=None,
            message_deduplication_id=None,
        )

    @property
    def is_open(self) -> bool:
        """Whether anybody is in its ``with`` block."""
        return bool(self._open)

    @staticmethod
    def current() -> Outbox:
        """Return the outbox whose ``with`` block this thread or task is in.

        Raises:
            ConfigurationError: it is in none.
        """
        outbox = open_outbox()
        if outbox is None:
            raise ConfigurationError("no outbox is open here: publish inside of `with Outbox(session):`")
        return outbox

    @contextmanager
    def scope(self, *groups: Subscribers) -> Iterator[Self]:
        """Open this outbox, and these groups on ``DomainEventBus.instance()``, for the length of a ``with`` block.

        Raises:
            ConfigurationError: one of them is no group.
        """
        with self, DomainEventBus.instance().scope(*groups):
            yield self

    def __enter__(self) -> Self:
        scope = DomainEventBus.instance().scope(on_commit=self._when_committed)
        scope.__enter__()
        self._open.append(_Opened(_open_outboxes.enter(self), scope))
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened = self._open.pop()
        _open_outboxes.leave(opened.block)
        self._ids.clear()
        opened.scope.__exit__(exception_type, exception, traceback)

    def _when_committed(self, call: Callable[[], None]) -> None:
        park = on_commit(self._session)
        if self._session.in_transaction():
            park(call)
        else:  # what is written next begins the transaction, and may be rolled back
            sqlalchemy_event.listen(
                self._session, "after_transaction_create", lambda *_: park(call), once=True
            )

    def _write(
        self,
        topic: str,
        event: Event,
        event_type_name: str | None,
        *,
        key: Key | None,
        headers: Mapping[str, str],
        message_id: str | None,
        message_group_id: str | None,
        message_deduplication_id: str | None,
    ) -> str:
        check_topic(topic)
        is_fifo = topic.endswith(FIFO_SUFFIX)
        key_text = message_group_id if key is None else key_text_of(key)
        if is_fifo and key_text is None:
            raise InvalidMessageError(
                f"topic {topic} is a FIFO topic, which keeps order within a key: give key="
            )
        message = message_from(
            self._serializer,
            event,
            event_type_name=event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=key_text if is_fifo and message_group_id is None else message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=is_fifo,
        )
        check_message(message, max_bytes=self._max_message_bytes, is_fifo=is_fifo)
        self._session.add(_row(topic, key_text, message))
        return message.message_id

    def _id_of_handled_event(self) -> str | None:
        domain_event = DomainEventBus.instance().event_being_handled()
        return None if domain_event is None else self._ids.of(domain_event)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An outbox whose ``with`` block was entered."""

    block: Block[Outbox | None]
    scope: AbstractContextManager[None]


_open_outboxes: Blocks[Outbox | None] = Blocks("melange.outbox", None)


def open_outbox() -> Outbox | None:
    """Return the outbox whose ``with`` block this thread or task is in; it follows the context into other threads."""
    # A task that was started in the block, and outlives it, is in it still: its transaction has ended.
    open_blocks = [block for block in _open_outboxes.in_force() if not block.is_left]
    return open_blocks[-1].value if open_blocks else None


def _row(topic: str, key: str | None, message: Message) -> OutboxMessage:
    return OutboxMessage(
        topic=topic,
        key=key,
        lock_key=lock_key_of(topic, message.message_id if key is None else key),
        message_id=message.message_id,
        event_type_name=message.event_type_name,
        body=message.body,
        headers=dict(message.headers) or None,
        published_at=message.published_at,
        message_group_id=message.message_group_id,
        message_deduplication_id=message.message_deduplication_id,
    )


def _notify(session: Session, _context: object) -> None:
    if any(isinstance(written, OutboxMessage) for written in session.new):
        # Sent by the database when the transaction commits, once, however often it was asked for.
        session.connection({"mapper": OutboxMessage.__mapper__}).execute(text(f"NOTIFY {CHANNEL}"))
