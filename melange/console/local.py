"""The backend of ``melange server``: it looks at the state directly, so that looking touches no message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from melange.console.backend import (
    Binding,
    Controls,
    Draft,
    Log,
    Message,
    Messages,
    NotFoundError,
    Overview,
    Queue,
    RefusedError,
    State,
    Topic,
    Traffic,
)
from melange.console.local_controls import LocalControls
from melange.console.local_log import LocalLog
from melange.console.reading import dead_letter_of, draft_of, topic_arn_of, without_note_of
from melange.engine.queue import Copy
from melange.messages import new_message_id
from melange.server.broker import Broker
from melange.server.callers import Caller
from melange.server.calls import Call, Operation, Parameters
from melange.server.errors import ServiceError
from melange.server.faults import Faults
from melange.server.snapshots import Snapshots
from melange.server.sns.delivering import SENDER_ID, may_send
from melange.server.sns.managing import delete_topic
from melange.server.sns.publishing import publish
from melange.server.sns.topics import Subscription
from melange.server.sqs.managing import delete_queue, purge_queue
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue as ServedQueue
from melange.server.sqs.receiving import system_attributes
from melange.server.sqs.sending import put, send_message

SEARCHED_MESSAGES = 100_000
"""The number of messages that one search looks at: clients of the server wait meanwhile."""

_ALL = {"All"}

_CALLER = Caller(user_agent="melange console")
"""The caller of changes by the console, in the event log."""

StoredCopy = Copy[SentMessage]
T = TypeVar("T")


class LocalBackend:
    """Shows and changes the broker of a server in this process. Thread-safe."""

    title = "melange server"
    looking_receives = False
    allows_purging = True

    def __init__(self, broker: Broker, faults: Faults, snapshots: Snapshots, url: str) -> None:
        self._broker = broker
        self.url = url
        self.controls: Controls | None = LocalControls(broker, faults, snapshots)
        self.log: Log | None = LocalLog(broker)

    def now(self) -> float:
        return self._broker.now()

    def overview(self) -> Overview:
        broker = self._broker
        with broker.lock:
            now = broker.now()
            topics = [
                Topic(topic.arn, topic.is_fifo, topic.described(), _traffic(broker, topic.arn))
                for topic in broker.topics.values()
            ]
            queues = [self._queue(queue, now) for queue in broker.queues.values()]
            bindings = [self._binding(subscription) for subscription in broker.subscriptions.values()]
        return Overview(
            sorted(topics, key=lambda topic: topic.name),
            sorted(queues, key=lambda queue: queue.name),
            sorted(bindings, key=lambda binding: (binding.topic_arn, binding.endpoint)),
        )

    def look(self, queue_arn: str) -> None:
        """Do nothing: ``messages`` shows what is there."""

    def looked_at(self, queue_arn: str) -> float | None:
        return self.now()

    def messages(
        self,
        queue_arn: str,
        *,
        after: str | None = None,
        limit: int = 50,
        text: str = "",
        state: str = "",
        newest_first: bool = False,
    ) -> Messages:
        found: list[Message] = []
        text, is_search = text.casefold(), bool(text or state)
        with self._broker.lock:
            queue = self._find(queue_arn)
            start = last = _number(after) if after else 0
            searched = 0
            for copy, blocked_by in self._walk_back(queue) if newest_first else self._walk(queue):
                if start and (copy.number >= start if newest_first else copy.number <= start):
                    continue
                if len(found) == limit or (is_search and searched == SEARCHED_MESSAGES):
                    return Messages(found, str(last), is_cut=len(found) < limit)
                searched, last = searched + 1, copy.number
                if state and self._state(copy, blocked_by) != state:
                    continue
                if not text or self._has(copy, text):
                    found.append(self._message(queue, copy, blocked_by))
        return Messages(found)

    def message(self, queue_arn: str, key: str) -> Message:
        with self._broker.lock:
            queue = self._find(queue_arn)
            copy = self._find_copy(queue, key)
            waiting = self._walk(queue) if queue.is_fifo else ()
            blocked_by = next((by for one, by in waiting if one is copy), None)
            return self._message(queue, copy, blocked_by)

    def last_draft(self, arn: str) -> Draft | None:
        with self._broker.lock:
            if arn in self._broker.queues:
                copies = self._broker.queues[arn].stored.copies_by_number
                for copy in reversed(copies.values()):
                    return draft_of(self._message(self._broker.queues[arn], copy, None))
                return None
            return self._last_published(arn)

    def send(self, queue_arn: str, draft: Draft) -> str:
        parameters: Parameters = {
            "QueueUrl": _path_of(queue_arn),
            "MessageBody": draft.body,
            "MessageAttributes": draft.attributes,
        } | _ids(draft)
        if draft.delay_seconds is not None:
            parameters["DelaySeconds"] = draft.delay_seconds
        return str(self._call(send_message, queue_arn, parameters)["MessageId"])

    def publish(self, topic_arn: str, draft: Draft) -> str:
        parameters: Parameters = {
            "TopicArn": topic_arn,
            "Message": draft.body,
            "MessageAttributes": draft.attributes,
        } | _ids(draft)
        if draft.subject:
            parameters["Subject"] = draft.subject
        return str(self._call(publish, topic_arn, parameters)["MessageId"])

    def release(self, queue_arn: str, key: str) -> None:
        def act(queue: ServedQueue) -> None:
            copy, now = self._find_copy(queue, key), self._broker.now()
            queue.stored.show_at(copy, now, now)
            queue.note_changes([copy])
            self._broker.journal.add("visibility changed", now, queue.arn, copy.origin, _CALLER, (now,))

        self._change(queue_arn, act)

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        def act(queue: ServedQueue) -> int:
            copies = [
                copy for key in keys if (copy := queue.stored.copies_by_number.get(_number(key))) is not None
            ]
            for copy in copies:
                self._remove(queue, copy)
                self._broker.journal.add("deleted", self._broker.now(), queue.arn, copy.origin, _CALLER)
            return len(copies)

        return self._change(queue_arn, act)

    def move(self, queue_arn: str, keys: Sequence[str], target_arn: str) -> int:
        def act(queue: ServedQueue) -> int:
            target = self._find(target_arn)
            if target is queue:
                raise RefusedError(f"The messages are in {queue.name} already: choose another queue.")
            copies = [
                copy for key in keys if (copy := queue.stored.copies_by_number.get(_number(key))) is not None
            ]
            for copy in copies:
                self._move(queue, copy, target, copy.message)
            return len(copies)

        return self._change(queue_arn, act)

    def retry(self, queue_arn: str, keys: Sequence[str]) -> int:
        return self._change(
            queue_arn,
            lambda queue: self._retry(
                queue,
                [
                    copy
                    for key in keys
                    if (copy := queue.stored.copies_by_number.get(_number(key))) is not None
                ],
            ),
        )

    def retry_all(self, queue_arn: str) -> int:
        def act(queue: ServedQueue) -> int:
            now = self._broker.now()
            return self._retry(queue, [copy for copy in queue.stored.copies if copy.visible_at <= now])

        return self._change(queue_arn, act)

    def purge(self, queue_arn: str) -> None:
        self._call(purge_queue, queue_arn, {"QueueUrl": _path_of(queue_arn)})

    def delete_queue(self, queue_arn: str) -> None:
        self._call(delete_queue, queue_arn, {"QueueUrl": _path_of(queue_arn)})

    def delete_topic(self, topic_arn: str) -> None:
        self._call(delete_topic, topic_arn, {"TopicArn": topic_arn})

    def _call(self, operation: Operation, arn: str, parameters: Parameters) -> Parameters:
        """Call an operation of the server as the account of the ARN, in its region."""
        _, _, service, region, account, _ = arn.split(":")
        caller = Caller("console", account, region, service, _CALLER.user_agent)
        try:
            return operation(Call(self._broker, caller, self.url, parameters))
        except ServiceError as error:
            if error.code in {"NotFound", "AWS.SimpleQueueService.NonExistentQueue"}:
                raise NotFoundError(error.message) from None
            raise RefusedError(error.message) from None
        finally:
            self._broker.commit(is_topology_changed=True)

    def _change(self, queue_arn: str, act: Callable[[ServedQueue], T]) -> T:
        """Call ``act`` with a queue under the lock, and write what it changed."""
        try:
            with self._broker.lock:
                return act(self._find(queue_arn))
        except ServiceError as error:
            raise RefusedError(error.message) from None
        finally:
            self._broker.commit(is_topology_changed=False)

    def _find(self, queue_arn: str) -> ServedQueue:
        queue = self._broker.queues.get(queue_arn)
        if queue is None:
            raise NotFoundError(f"There is no queue {queue_arn}.")
        return queue

    def _find_copy(self, queue: ServedQueue, key: str) -> StoredCopy:
        copy = queue.stored.copies_by_number.get(_number(key))
        if copy is None:
            raise NotFoundError(
                f"The message is no longer in {queue.name}: it was deleted, moved or has expired."
            )
        return copy

    def _queue(self, queue: ServedQueue, now: float) -> Queue:
        depth = queue.stored.measure(now)
        oldest = next((copy.sent_at for copy, _ in self._walk(queue)), None)
        policy = queue.redrive_policy
        count = policy.get("maxReceiveCount")
        return Queue(
            queue.arn,
            queue.is_fifo,
            depth.visible,
            depth.in_flight,
            depth.delayed,
            oldest,
            str(policy["deadLetterTargetArn"]) if policy else None,
            count if isinstance(count, int) else None,
            tuple(sorted(self._sources_of(queue))),
            dict(queue.attributes),
            _traffic(self._broker, queue.arn),
        )

    def _binding(self, subscription: Subscription) -> Binding:
        attributes = subscription.attributes
        return Binding(
            subscription.arn,
            subscription.topic.arn,
            subscription.protocol,
            subscription.endpoint,
            subscription.is_raw,
            subscription.is_pending,
            attributes.get("FilterPolicy"),
            attributes.get("FilterPolicyScope", "MessageAttributes"),
            subscription.dead_letter_arn,
            self._problem_of(subscription),
        )

    def _problem_of(self, subscription: Subscription) -> str:
        """Return why nothing is delivered to a subscription, or ""."""
        if subscription.is_pending:
            return "The endpoint has not confirmed the subscription."
        if subscription.protocol != "sqs":
            return ""
        queue = self._broker.queues.get(subscription.endpoint)
        if queue is None:
            return "The queue does not exist."
        if not may_send(queue, subscription.topic):
            return "The policy of the queue does not allow the topic to send: nothing is delivered."
        return ""

    def _sources_of(self, queue: ServedQueue) -> list[str]:
        return [one.arn for one in self._broker.queues.values() if one.stored.dead_letters is queue.stored]

    def _walk(self, queue: ServedQueue) -> Iterator[tuple[StoredCopy, str | None]]:
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

    def _state(self, copy: StoredCopy, blocked_by: str | None) -> State:
        if copy.visible_at > self._broker.now():
            return "in flight" if copy.was_received else "delayed"
        return "blocked" if blocked_by else "visible"

    def _has(self, copy: StoredCopy, text: str) -> bool:
        message = copy.message
        if text in message.body.casefold() or text in self._broker.message_id(copy.origin):
            return True
        return any(
            text in f"{name} {value.get('StringValue', '')}".casefold()
            for name, value in message.attributes.items()
        )

    def _walk_back(self, queue: ServedQueue) -> Iterator[tuple[StoredCopy, str | None]]:
        """Yield what ``_walk`` does, the newest first."""
        if queue.is_fifo:  # which messages wait is known from the front only
            yield from reversed(list(self._walk(queue)))
            return
        now = self._broker.now()
        oldest = now - queue.stored.retention_seconds
        for copy in reversed(queue.stored.copies_by_number.values()):
            if copy.visible_at > now or copy.sent_at > oldest:
                yield copy, None

    def _message(self, queue: ServedQueue, copy: StoredCopy, blocked_by: str | None) -> Message:
        state = self._state(copy, blocked_by)
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

    def _last_published(self, topic_arn: str) -> Draft | None:
        """Return the newest message of the topic that still is in a queue."""
        newest: tuple[float, Draft] | None = None
        for subscription in self._broker.subscriptions.values():
            queue = self._broker.queues.get(subscription.endpoint)
            if queue is None or subscription.topic.arn != topic_arn:
                continue
            for copy in reversed(queue.stored.copies_by_number.values()):
                if copy.message.sender_id != SENDER_ID:
                    continue
                message = self._message(queue, copy, None)
                if subscription.is_raw or topic_arn_of(message) == topic_arn:
                    if newest is None or copy.sent_at > newest[0]:
                        newest = copy.sent_at, draft_of(message)
                    break
        return newest[1] if newest else None

    def _retry(self, queue: ServedQueue, copies: Sequence[StoredCopy]) -> int:
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

    def _target_of(self, queue: ServedQueue, copy: StoredCopy) -> ServedQueue:
        """Return the queue from which a dead letter came."""
        sources = self._sources_of(queue)
        message = self._message(queue, copy, None)
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

    def _move(self, queue: ServedQueue, copy: StoredCopy, target: ServedQueue, message: SentMessage) -> None:
        message_id = self._broker.message_id(copy.origin)
        self._remove(queue, copy)
        # An id of its own: under the old one the queue could drop it as a duplicate.
        new_id, _ = put(
            target,
            message,
            group_id=copy.group_id or (message_id if target.is_fifo else None),
            deduplication_id=new_message_id() if target.is_fifo else None,
        )
        details = (target.arn, new_id)
        self._broker.journal.add("moved", self._broker.now(), queue.arn, copy.origin, _CALLER, details)

    def _remove(self, queue: ServedQueue, copy: StoredCopy) -> None:
        queue.stored.remove(copy, self._broker.now())
        self._broker.bytes_kept -= copy.message.memory


def _traffic(broker: Broker, arn: str) -> Traffic:
    counts = broker.journal.counts
    return Traffic(
        counts[arn, "sent"] + counts[arn, "published"], counts[arn, "received"], counts[arn, "deleted"]
    )


def _ids(draft: Draft) -> Parameters:
    found = {"MessageGroupId": draft.group_id, "MessageDeduplicationId": draft.deduplication_id}
    return {name: value for name, value in found.items() if value}


def _path_of(queue_arn: str) -> str:
    account, name = queue_arn.split(":")[4:]
    return f"/{account}/{name}"


def _number(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 19):
        raise NotFoundError(f"There is no message {key!r:.40}.")
    return int(key)
