"""The backend of ``melange server``: what the pages need, from its state."""

from __future__ import annotations

from collections.abc import Sequence

from melange.console.backend import Controls, Log, NotFoundError, RefusedError
from melange.console.local.controls import LocalControls
from melange.console.local.messages import LocalLog, LocalMessages, number_of
from melange.console.local.moves import CALLER, LocalMoves
from melange.console.model import Binding, Draft, Message, Messages, Overview, Queue, Topic, Traffic
from melange.console.reading import draft_of, topic_arn_of
from melange.server.broker import Broker
from melange.server.callers import Caller
from melange.server.calls import Call, Operation, Parameters
from melange.server.errors import ServiceError
from melange.server.faults import Faults
from melange.server.snapshots import Snapshots
from melange.server.sns.delivering import SENDER_ID, may_send
from melange.server.sns.managing_topics import delete_topic
from melange.server.sns.publishing import publish
from melange.server.sns.topics import Subscription
from melange.server.sqs.managing_queues import delete_queue, purge_queue
from melange.server.sqs.queues import Queue as ServedQueue
from melange.server.sqs.sending import send_message

SEARCHED_MESSAGES = 100_000
"""The number of messages that one search looks at: clients of the server wait meanwhile."""

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
        self._moves = LocalMoves(broker, self._messages)
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
            queue = self._messages.find(queue_arn)
            start = last = number_of(after) if after else 0
            searched = 0
            for copy, blocked_by in (
                self._messages.walk_back(queue) if newest_first else self._messages.walk(queue)
            ):
                if start and (copy.number >= start if newest_first else copy.number <= start):
                    continue
                if len(found) == limit or (is_search and searched == SEARCHED_MESSAGES):
                    return Messages(found, str(last), is_cut=len(found) < limit)
                searched, last = searched + 1, copy.number
                if state and self._messages.state(copy, blocked_by) != state:
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
        self._moves.release(queue_arn, key)

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        return self._moves.delete(queue_arn, keys)

    def move(self, queue_arn: str, keys: Sequence[str], target_arn: str) -> int:
        return self._moves.move(queue_arn, keys, target_arn)

    def retry(self, queue_arn: str, keys: Sequence[str]) -> int:
        return self._moves.retry(queue_arn, keys)

    def retry_all(self, queue_arn: str) -> int:
        return self._moves.retry_all(queue_arn)

    def purge(self, queue_arn: str) -> None:
        self._call(purge_queue, queue_arn, {"QueueUrl": _path_of(queue_arn)})

    def delete_queue(self, queue_arn: str) -> None:
        self._call(delete_queue, queue_arn, {"QueueUrl": _path_of(queue_arn)})

    def delete_topic(self, topic_arn: str) -> None:
        self._call(delete_topic, topic_arn, {"TopicArn": topic_arn})

    def _call(self, operation: Operation, arn: str, parameters: Parameters) -> Parameters:
        """Call an operation of the server as the account of the ARN, in its region."""
        _, _, service, region, account, _ = arn.split(":")
        caller = Caller("console", account, region, service, CALLER.user_agent)
        try:
            return operation(Call(self._broker, caller, self.url, parameters))
        except ServiceError as error:
            if error.code in {"NotFound", "AWS.SimpleQueueService.NonExistentQueue"}:
                raise NotFoundError(error.message) from None
            raise RefusedError(error.message) from None
        finally:
            self._broker.commit(is_topology_changed=True)

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
