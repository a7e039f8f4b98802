"""The messages in the queues of ``melange server``, found and described for the console. Looking touches none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from melange.console.backend import NotFoundError
from melange.console.model import Message, State
from melange.engine.queue import Copy
from melange.server.broker import Broker
from melange.server.contents import decoded
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue
from melange.server.sqs.receiving import system_attributes

StoredCopy = Copy[SentMessage]

_ALL = {"All"}


class LocalMessages:
    """Finds and describes messages. The caller holds the broker's lock."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def find(self, queue_arn: str) -> Queue:
        """Return the queue."""
        queue = self._broker.queues.get(queue_arn)
        if queue is None:
            raise NotFoundError(f"The queue {queue_arn} does not exist.")
        return queue

    def find_copy(self, queue: Queue, key: str) -> StoredCopy:
        """Return the message with this key."""
        copy = queue.stored.copies_by_number.get(number_of(key))
        if copy is None:
            raise NotFoundError(
                f"The message is no longer in {queue.name}: it was deleted, moved or has expired."
            )
        return copy

    def copies_of(self, queue: Queue, keys: Iterable[str]) -> list[StoredCopy]:
        """Return the messages with these keys that still are there."""
        found = map(queue.stored.copies_by_number.get, map(number_of, keys))
        return [copy for copy in found if copy is not None]

    def sources_of(self, queue: Queue) -> list[str]:
        """Return the ARNs of the queues that move their dead letters to this one."""
        return [one.arn for one in self._broker.queues.values() if one.stored.dead_letters is queue.stored]

    def walk(self, queue: Queue) -> Iterator[tuple[StoredCopy, str | None]]:
        """Yield the copies that are not too old, each with the key of the message that it waits for, or None."""
        now = self._broker.now()
        oldest = now - queue.stored.retention_seconds
        blocking: dict[str | None, str] = {}
        for copy in queue.stored.copies:
            is_invisible = copy.visible_at > now
            if not is_invisible and copy.sent_at <= oldest:
                continue
            yield copy, None if is_invisible or not queue.is_fifo else blocking.get(copy.group_id)
            if is_invisible and queue.is_fifo:
                blocking.setdefault(copy.group_id, str(copy.number))

    def walk_back(self, queue: Queue) -> Iterator[tuple[StoredCopy, str | None]]:
        """Yield what ``walk`` does, the newest first."""
        if queue.is_fifo:  # which messages wait is known from the front only
            yield from reversed(list(self.walk(queue)))
            return
        now = self._broker.now()
        oldest = now - queue.stored.retention_seconds
        for copy in reversed(queue.stored.copies_by_number.values()):
            if copy.visible_at > now or copy.sent_at > oldest:
                yield copy, None

    def state(self, copy: StoredCopy, blocked_by: str | None) -> State:
        """Return the state of a message; ``blocked_by`` is what ``walk`` says."""
        if copy.visible_at > self._broker.now():
            return "in flight" if copy.was_received else "delayed"
        return "blocked" if blocked_by else "visible"

    def has(self, copy: StoredCopy, text: str) -> bool:
        """Return True if the text, in lower case, is in the message."""
        message = copy.message
        if text in decoded(message.body).casefold() or text in self._broker.message_id(copy.origin):
            return True
        return any(
            text in f"{name} {value.get('StringValue', '')}".casefold()
            for name, value in message.attributes.items()
        )

    def message(self, queue: Queue, copy: StoredCopy, blocked_by: str | None) -> Message:
        """Return the message as pages show it."""
        state = self.state(copy, blocked_by)
        raw: dict[str, Any] = {
            "MessageId": self._broker.message_id(copy.origin),
            "ReceiptHandle": "",
            "Body": copy.message.body,
            "Attributes": system_attributes(queue, copy, _ALL),
            "MessageAttributes": copy.message.attributes,
        }
        return Message(
            str(copy.number),
            raw,
            state,
            visible_at=copy.visible_at if state in {"in flight", "delayed"} else None,
            received_at=copy.received_at or None,
            blocked_by=blocked_by,
            source_arn=raw["Attributes"].get("DeadLetterQueueSourceArn"),
        )


def number_of(key: str) -> int:
    """Return the number of the message with this key."""
    if not (key.isascii() and key.isdigit() and len(key) < 19):
        raise NotFoundError(f"The message {key!r:.40} does not exist.")
    return int(key)
