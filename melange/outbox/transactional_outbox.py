"""Publish within a transaction: events are published if and only if it commits.

``TransactionalOutbox`` is what the outboxes of SQLAlchemy (``sqlalchemy_outbox.py``) and of Django have in common: checks of
topic and key, the headers that name the cause, and the block in which it is open.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from melange.clock import Clock, SystemClock
from melange.domain import DomainEventBus, Subscribers
from melange.domain.blocks import Block, Blocks
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_message, check_topic_name
from melange.errors import (
    ConfigurationError,
    InvalidMessageError,
    InvalidNameError,
    MessageTooLargeError,
    NoDriverError,
)
from melange.messages import CAUSATION_HEADER, Message, caused_by, message_being_handled, new_uuid
from melange.middleware import Middleware, checked_middleware, prepared
from melange.publishing.outgoing import Event, due_time, message_from, own_headers
from melange.serialization.serializer import EventSerializer

Key = str | int | UUID

DEFAULT_MAX_MESSAGE_BYTES = 262_144  # the default limit of a topic of SNS


class TransactionalOutbox(ABC):
    """Publishes within a database transaction: an ``OutboxRelay`` sends the committed messages, in order.

    As a context manager it becomes the outbox of this thread or task, for ``IntegrationEvents`` and ``current()``.
    Handlers of ``DomainEventBus.instance().after_commit`` then wait for its transaction. Do not share it between threads.
    """

    def __init__(self, max_message_bytes: int, middleware: Sequence[Middleware] | None) -> None:
        self._max_message_bytes = max_message_bytes
        self._middleware = (
            DriverManager.instance().middleware if middleware is None else checked_middleware(middleware)
        )
        self._serializer = EventSerializer.instance()
        self._ids = _DomainEventIds()
        self._open: list[_Opened] = []

    @abstractmethod
    def _store(self, topic: str, key: str | None, message: Message, due_at: datetime | None) -> None:
        """Write the row of a message to the transaction; with ``due_at`` that of a scheduled one."""

    @abstractmethod
    def _when_committed(self, call: Callable[[], None]) -> None:
        """Have ``call`` called after the commit of the transaction."""

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
        delay_seconds: float | None = None,
        deliver_at: datetime | None = None,
    ) -> str:
        """Write one event to the transaction, for ``topic``; return its message id.

        It does not block and is the same for asynchronous sessions: the session's next flush writes the row.
        ``ExchangeMessagePublisher.publish`` describes the other arguments.

        Args:
            topic: a name, ``*.fifo`` for a FIFO topic, or an ARN.
            key: events of one topic and key leave in the order in which they were written, if their transactions
                exclude each other: use the id of the aggregate that they change. The default is the
                ``message_group_id``. On a FIFO topic the key is the default of the ``message_group_id``.
            headers: ``correlation-id`` and ``causation-id`` are added if the event is published while a message, or a
                domain event of ``DomainEventBus.instance()``, is being handled.
            delay_seconds: publish it this long from now, at the earliest: by the clock of the driver in use. It can be
                cancelled until then.
            deliver_at: publish it at this time, at the earliest; aware. Events that are due at different times leave in
                the order of those times.

        Raises:
            EncodeError: the event cannot be written as JSON; nothing was written, and the transaction is unchanged.
            InvalidMessageError: a broker would refuse it (too large, no key on FIFO ...); likewise.
            InvalidNameError: the topic's name is not valid; likewise.
            ConfigurationError: the delay or the time is not valid, or both are given; likewise.
        """
        return self._write(
            topic,
            event,
            event_type_name,
            key=key,
            headers={**_trace_headers(self._id_of_handled_event()), **own_headers(headers)},
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            due_at=due_time(delay_seconds, deliver_at, _clock_in_use()),
        )

    @abstractmethod
    def cancel(self, message_id: str) -> bool:
        """Cancel a scheduled event in the transaction; return False if it is not scheduled, or is due and on its way.

        It takes effect if the transaction commits.
        """

    def publish_domain_event(self, domain_event: object, topic: str, event: Event, *, key: Key | None) -> str:
        """Write the integration event of a domain event, as ``publish`` does.

        The first one gets the id that is the causation id of all other messages published while the domain event
        is being handled.
        """
        return self._write(
            topic,
            event,
            None,
            key=key,
            headers=_trace_headers(None),
            message_id=self._ids.for_message(domain_event),
            message_group_id=None,
            message_deduplication_id=None,
        )

    @staticmethod
    def current() -> TransactionalOutbox:
        """Return the outbox of the innermost ``with`` block of this thread or task.

        Raises:
            ConfigurationError: it is called outside of such a block.
        """
        outbox = open_outbox()
        if outbox is None:
            raise ConfigurationError("no outbox is open here: publish inside of `with Outbox(session):`")
        return outbox

    @contextmanager
    def scope(self, *groups: Subscribers) -> Iterator[Self]:
        """Open this outbox, and these groups on ``DomainEventBus.instance()``, for a ``with`` block.

        Raises:
            ConfigurationError: one of them is not a group.
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
        due_at: datetime | None = None,
    ) -> str:
        check_topic(topic)
        is_fifo = topic.endswith(FIFO_SUFFIX)
        key_text = message_group_id if key is None else _key_text_of(key)
        if is_fifo and key_text is None:
            raise InvalidMessageError(
                f"topic {topic} is a FIFO topic, which keeps order within a key: give key="
            )
        message = message_from(
            self._serializer,
            event,
            event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=key_text if is_fifo and message_group_id is None else message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=is_fifo,
        )
        check_message(message, max_bytes=self._max_message_bytes, is_fifo=is_fifo)
        if self._middleware:
            message = self._prepared(topic, message, is_fifo=is_fifo)
        self._store(topic, key_text, message, due_at)
        return message.message_id

    def _prepared(self, topic: str, message: Message, *, is_fifo: bool) -> Message:
        """Return the message as the hooks prepare it; if it is too large then, as it was."""
        result = prepared(self._middleware, topic, message)
        try:
            check_message(result, max_bytes=self._max_message_bytes, is_fifo=is_fifo)
        except MessageTooLargeError:
            return message
        return result

    def _id_of_handled_event(self) -> str | None:
        domain_event = DomainEventBus.instance().event_being_handled()
        return None if domain_event is None else self._ids.of(domain_event)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An outbox with an open ``with`` block."""

    block: Block[TransactionalOutbox | None]
    scope: AbstractContextManager[None]


_open_outboxes: Blocks[TransactionalOutbox | None] = Blocks("melange.outbox", None)


def open_outbox() -> TransactionalOutbox | None:
    """Return the outbox of this thread or task; it follows the context into other threads."""
    # A task that was started in the block may outlive it: the transaction has then ended.
    open_blocks = [block for block in _open_outboxes.in_force() if not block.is_left]
    return open_blocks[-1].value if open_blocks else None


def _clock_in_use() -> Clock:
    try:
        return DriverManager.instance().get_driver().clock
    except NoDriverError:  # a relay in another process publishes
        return SystemClock()


# --- topics and keys ---------------------------------------------------------------------------

_MAX_KEY_CHARACTERS = 256
_TOPIC_ARN = re.compile(r"arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


def check_topic(topic: object) -> None:
    """Raise ``InvalidNameError`` unless it is a valid name or ARN of a topic."""
    if not isinstance(topic, str):
        raise InvalidNameError("topic", topic, "give its name as text, or its ARN")
    if not topic.startswith("arn:"):
        check_topic_name(topic)
    elif not _TOPIC_ARN.fullmatch(topic):
        raise InvalidNameError("topic", topic, "an ARN is arn:aws:sns:region:account:name")


def _key_text_of(key: object) -> str:
    """Return the key in its stored form; raise ``InvalidMessageError`` if it is not valid."""
    text = str(key) if isinstance(key, (str, int, UUID)) and not isinstance(key, bool) else ""
    if not 0 < len(text) <= _MAX_KEY_CHARACTERS or not text.isprintable():
        raise InvalidMessageError(
            f"the key {key!r:.140} must be 1 to {_MAX_KEY_CHARACTERS} characters that print, a number or a UUID"
        )
    return text


# --- causes ------------------------------------------------------------------------------------

_KEPT_EVENTS = 16
"""The limit of remembered events: several are handled at once only in nested scopes."""


def _trace_headers(domain_event_id: str | None) -> dict[str, str]:
    """Return the headers for a message published now, from the message and the domain event being handled."""
    cause = message_being_handled()
    trace = {} if cause is None else caused_by(cause)
    if domain_event_id is not None:
        trace[CAUSATION_HEADER] = domain_event_id
    return trace


class _DomainEventIds:
    """The id of each domain event that is being handled; those of earlier events are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def of(self, domain_event: object) -> str:
        """Return the id by which messages name the event as their cause."""
        return self._of(domain_event).message_id

    def for_message(self, domain_event: object) -> str:
        """Return the id of the next message that is made from the event: the first one has the event's id."""
        known = self._of(domain_event)
        if known.is_taken:
            return new_uuid()
        known.is_taken = True
        return known.message_id

    def clear(self) -> None:
        self._known.clear()

    def _of(self, domain_event: object) -> _Known:
        known = self._known.get(id(domain_event))
        if known is None:
            known = self._known[id(domain_event)] = _Known(domain_event)
            if len(self._known) > _KEPT_EVENTS:
                self._known.popitem(last=False)
        return known


@dataclass(slots=True)
class _Known:
    event: object  # kept, so that no other one can have the same id() meanwhile
    message_id: str = field(default_factory=new_uuid)
    is_taken: bool = False
