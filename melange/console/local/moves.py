"""Changing the messages in the queues of ``melange server``: release, delete, move, retry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from melange.console.backend import RefusedError
from melange.console.local.messages import LocalMessages, StoredCopy
from melange.console.reading import dead_letter_of, without_note_of
from melange.messages import new_uuid
from melange.server.broker import Broker
from melange.server.callers import Caller
from melange.server.errors import ServiceError
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue
from melange.server.sqs.sending import put

CALLER = Caller(user_agent="melange console")
"""The caller of changes by the console, in the event log."""


class LocalMoves:
    """Changes messages as ``Backend`` says. Thread-safe."""

    def __init__(self, broker: Broker, messages: LocalMessages) -> None:
        self._broker = broker
        self._messages = messages

    def release(self, queue_arn: str, key: str) -> None:
        with self._changing(queue_arn) as queue:
            copy, now = self._messages.find_copy(queue, key), self._broker.now()
            queue.stored.show_at(copy, now, now)
            queue.note_changes([copy])
            self._broker.journal.add("visibility changed", now, queue.arn, copy.origin, CALLER, (now,))

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        with self._changing(queue_arn) as queue:
            copies = self._messages.copies_of(queue, keys)
            for copy in copies:
                self._remove(queue, copy)
                self._broker.journal.add("deleted", self._broker.now(), queue.arn, copy.origin, CALLER)
        return len(copies)

    def move(self, queue_arn: str, keys: Sequence[str], target_arn: str) -> int:
        with self._changing(queue_arn) as queue:
            target = self._messages.find(target_arn)
            if target is queue:
                raise RefusedError(f"The messages are in {queue.name} already: choose another queue.")
            copies = self._messages.copies_of(queue, keys)
            for copy in copies:
                self._move(queue, copy, target, copy.message)
        return len(copies)

    def retry(self, queue_arn: str, keys: Sequence[str]) -> int:
        with self._changing(queue_arn) as queue:
            return self._retry(queue, self._messages.copies_of(queue, keys))

    def retry_all(self, queue_arn: str) -> int:
        with self._changing(queue_arn) as queue:
            now = self._broker.now()
            return self._retry(queue, [copy for copy in queue.stored.copies if copy.visible_at <= now])

    @contextmanager
    def _changing(self, queue_arn: str) -> Iterator[Queue]:
        """Give the queue under the lock, and write at the end what was changed."""
        try:
            with self._broker.lock:
                yield self._messages.find(queue_arn)
        except ServiceError as error:
            raise RefusedError(error.message) from None
        finally:
            self._broker.commit(is_topology_changed=False)

    def _retry(self, queue: Queue, copies: Sequence[StoredCopy]) -> int:
        plan = [(copy, self._target_of(queue, copy)) for copy in copies]  # before anything is moved
        for copy, target in plan:
            message = copy.message
            attributes = without_note_of(message.attributes)
            if attributes is not message.attributes:
                message = SentMessage(
                    message.body, attributes, sender_id=message.sender_id, trace_header=message.trace_header
                )
            self._move(queue, copy, target, message)
        return len(plan)

    def _target_of(self, queue: Queue, copy: StoredCopy) -> Queue:
        """Return the queue from which a dead letter came."""
        sources = self._messages.sources_of(queue)
        message = self._messages.message(queue, copy, None)
        named = message.source_arn
        if named is None:
            name = dead_letter_of(message).queue_name
            named = next((arn for arn in sources if arn.rpartition(":")[2] == name), None)
        if named is None and len(sources) == 1:
            named = sources[0]
        found = self._broker.queues.get(named or "")
        if found is None:
            raise RefusedError(
                f"It is not known from which queue message {message.message_id} came: move it to a queue that you choose."
            )
        return found

    def _move(self, queue: Queue, copy: StoredCopy, target: Queue, message: SentMessage) -> None:
        message_id = self._broker.message_id(copy.origin)
        self._remove(queue, copy)
        # An id of its own: under the old one the queue could drop it as a duplicate.
        _, number = put(
            target,
            message,
            group_id=copy.group_id or (message_id if target.is_fifo else None),
            deduplication_id=new_uuid() if target.is_fifo else None,
        )
        details = (target.arn, number)
        self._broker.journal.add("moved", self._broker.now(), queue.arn, copy.origin, CALLER, details)

    def _remove(self, queue: Queue, copy: StoredCopy) -> None:
        queue.stored.remove(copy, self._broker.now())
        self._broker.bytes_kept -= copy.message.memory
