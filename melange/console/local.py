"""The backend of ``melange server``, in its process: it reads the state directly, so that looking touches no message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from melange.console.backend import Controls, Log, NotFoundError, RefusedError
from melange.console.local_controls import LocalControls, LocalLog
from melange.console.local_messages import LocalMessages, StoredCopy, number_of
from melange.console.model import (
    FIRST_MESSAGES,
    Binding,
    Draft,
    Message,
    MessageQuery,
    Messages,
    Overview,
    Queue,
    Topic,
    Traffic,
)
from melange.console.reading import draft_of, read_dead_letter, topic_arn_of, without_note_of
from melange.messages import new_uuid
from melange.server.broker import Broker
from melange.server.calls import Call, Caller, Operation, Parameters
from melange.server.errors import ServiceError
from melange.server.faults import Faults
from melange.server.snapshots import Snapshots
from melange.server.sns.delivering import SENDER_ID, may_send
from melange.server.sns.managing_topics import delete_topic
from melange.server.sns.publishing import publish
from melange.server.sns.topics import Subscription
from melange.server.sqs.managing_queues import delete_queue, purge_queue
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue as ServedQueue
from melange.server.sqs.sending import put, send_message

SEARCHED_MESSAGES = 100_000
"""The number of messages that one search looks at: clients of the server wait meanwhile."""

_CALLER = Caller(user_agent="melange console")
"""The caller of changes by the console, in the event log."""

_NO_PERMISSION = "The policy of the queue does not allow the topic to send: nothing is delivered."


class LocalBackend:
    """Shows and changes the broker of a server in this process. Thread-safe."""

    title = "melange server"
    looking_receives = False
    counts_are_estimates = False
    allows_purging = True

    def __init__(self, broker: Broker, faults: Faults, snapshots: Snapshots, url: str) -> None:
        self._broker = broker
        self._messages = LocalMessages(broker)
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

    def messages(self, queue_arn: str, query: MessageQuery = FIRST_MESSAGES) -> Messages:
        found: list[Message] = []
        text, is_search = query.text.casefold(), bool(query.text or query.state)
        with self._broker.lock:
            queue = self._messages.find(queue_arn)
            walk = self._messages.walk_back if query.newest_first else self._messages.walk
            start = last = number_of(query.after) if query.after else 0
            searched = 0
            for copy, blocked_by in walk(queue):
                if start and (copy.number >= start if query.newest_first else copy.number <= start):
                    continue
                if len(found) == query.limit or (is_search and searched == SEARCHED_MESSAGES):
                    return Messages(found, str(last), is_cut=len(found) < query.limit)
                searched, last = searched + 1, copy.number
                if query.state and self._messages.state(copy, blocked_by) != query.state:
                    continue
                if not text or self._messages.has(copy, text):
                    found.append(self._messages.message(queue, copy, blocked_by))
        return Messages(found)

    def message(self, queue_arn: str, key: str) -> Message:
        with self._broker.lock:
            queue = self._messages.find(queue_arn)
            copy = self._messages.find_copy(queue, key)
            waiting = self._messages.walk(queue) if queue.is_fifo else ()
            blocked_by = next((by for one, by in waiting if one is copy), None)
            return self._messages.message(queue, copy, blocked_by)

    def last_draft(self, arn: str) -> Draft | None:
        with self._broker.lock:
            if arn in self._broker.queues:
                copies = self._broker.queues[arn].stored.copies_by_number
                for copy in reversed(copies.values()):
                    return draft_of(self._messages.message(self._broker.queues[arn], copy, None))
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
        with self._changing(queue_arn) as queue:
            copy, now = self._messages.find_copy(queue, key), self._broker.now()
            queue.stored.show_at(copy, now, now)
            queue.note_changes([copy])
            self._broker.event_log.add("visibility changed", now, queue.arn, copy.origin, _CALLER, (now,))

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        with self._changing(queue_arn) as queue:
            copies = self._messages.copies_of(queue, keys)
            for copy in copies:
                self._remove(queue, copy)
                self._broker.event_log.add("deleted", self._broker.now(), queue.arn, copy.origin, _CALLER)
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

    @contextmanager
    def _changing(self, queue_arn: str) -> Iterator[ServedQueue]:
        """Give the queue under the lock, and write at the end what was changed."""
        try:
            with self._broker.lock:
                yield self._messages.find(queue_arn)
        except ServiceError as error:
            raise RefusedError(error.message) from None
        finally:
            self._broker.commit(is_topology_changed=False)

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
        sources = self._messages.sources_of(queue)
        message = self._messages.message(queue, copy, None)
        named = message.source_arn
        if named is None:
            name = read_dead_letter(message).queue_name
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
        _, number = put(
            target,
            message,
            group_id=copy.group_id or (message_id if target.is_fifo else None),
            deduplication_id=new_uuid() if target.is_fifo else None,
        )
        details = (target.arn, number)
        self._broker.event_log.add("moved", self._broker.now(), queue.arn, copy.origin, _CALLER, details)

    def _remove(self, queue: ServedQueue, copy: StoredCopy) -> None:
        queue.stored.remove(copy, self._broker.now())
        self._broker.bytes_kept -= copy.message.memory

    def _queue(self, queue: ServedQueue, now: float) -> Queue:
        depth = queue.stored.measure(now)
        oldest = next((copy.sent_at for copy, _ in self._messages.walk(queue)), None)
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
            tuple(sorted(self._messages.sources_of(queue))),
            dict(queue.attributes),
            _traffic(self._broker, queue.arn),
        )

    def _binding(self, subscription: Subscription) -> Binding:
        attributes = subscription.attributes
        problem = self._problem_of(subscription)
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
            problem,
            problem == _NO_PERMISSION,
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
            return _NO_PERMISSION
        return ""

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
                message = self._messages.message(queue, copy, None)
                if subscription.is_raw or topic_arn_of(message) == topic_arn:
                    if newest is None or copy.sent_at > newest[0]:
                        newest = copy.sent_at, draft_of(message)
                    break
        return newest[1] if newest else None


def _traffic(broker: Broker, arn: str) -> Traffic:
    counts = broker.event_log.counts
    return Traffic(
        counts[arn, "sent"] + counts[arn, "published"], counts[arn, "received"], counts[arn, "deleted"]
    )


def _ids(draft: Draft) -> Parameters:
    found = {"MessageGroupId": draft.group_id, "MessageDeduplicationId": draft.deduplication_id}
    return {name: value for name, value in found.items() if value}


def _path_of(queue_arn: str) -> str:
    account, name = queue_arn.split(":")[4:]
    return f"/{account}/{name}"
