"""All that a broker keeps, as plain values: what ``--data`` writes, and what a snapshot is.

Functions that take a broker need ``broker.lock``, which their callers hold.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from melange.engine.fifo import DeduplicationWindow, FifoQueue
from melange.engine.queue import VISIBLE, Copy
from melange.server.sns.filter_policies import FilterPolicy
from melange.server.sns.http_deliveries import HttpDelivery
from melange.server.sns.topics import Subscription, Topic
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.move_tasks import MoveTask
from melange.server.sqs.queues import Queue

if TYPE_CHECKING:
    from melange.server.broker import Broker

_SEQUENCE_GAP = 1_000_000
"""How far FIFO topics count ahead when they are made again: a number that was given must not come twice."""


class KeptCopy(NamedTuple):
    """A message in a queue. The order of the fields is that of the columns in the file."""

    number: int
    queue_arn: str
    message: SentMessage
    origin: int
    sent_at: float
    group_id: str | None
    deduplication_id: str | None
    source_arn: str | None
    carried: int
    receive_count: int
    first_received_at: float
    received_at: float
    visible_at: float | None
    """None for a message that waits to be received."""


class KeptId(NamedTuple):
    """A deduplication id that a FIFO topic or queue has had."""

    arn: str
    key: Hashable
    until: float
    answer: Any


@dataclass(frozen=True)
class BrokerState:
    """What a broker keeps. Times are seconds since 1970."""

    taken_at: float
    next_number: int
    id_prefix: str
    signing_key: str | None
    """The key of SNS's signatures as PEM; None if nothing was signed yet."""
    topology: dict[str, Any]
    copies: list[KeptCopy] = field(default_factory=list)
    ids: list[KeptId] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    move_tasks: list[dict[str, Any]] = field(default_factory=list)


# --- from a broker -----------------------------------------------------------------------------------


def state_of(broker: Broker) -> BrokerState:
    """Return what the broker keeps now. It stays as it is while the broker goes on."""
    sources = arns_by_stored_queue(broker)
    return BrokerState(
        broker.now(),
        broker.next_number,
        broker.id_prefix,
        broker.signer.key_as_text,
        json.loads(json.dumps(topology_of(broker))),
        [
            kept_copy(arn, copy, sources)
            for arn, queue in broker.queues.items()
            for copy in queue.stored.copies
        ],
        [KeptId(arn, *entry) for arn, window in _windows_of(broker).items() for entry in window.entries()],
        [delivery.kept() for delivery in broker.http_deliveries.pending()],
        [task.kept() for task in broker.move_tasks.values()],
    )


def _windows_of(broker: Broker) -> dict[str, DeduplicationWindow[Any]]:
    """Return the deduplication windows of FIFO topics and queues."""
    windows: dict[str, DeduplicationWindow[Any]] = {arn: topic.window for arn, topic in broker.topics.items()}
    for arn, queue in broker.queues.items():
        if isinstance(queue.stored, FifoQueue):
            windows[arn] = queue.stored.window
    return windows


def arns_by_stored_queue(broker: Broker) -> dict[int, str]:
    """Return the ARNs of queues by the ``id()`` of what is stored of them."""
    return {id(queue.stored): arn for arn, queue in broker.queues.items()}


def kept_copy(queue_arn: str, copy: Copy[SentMessage], sources: dict[int, str]) -> KeptCopy:
    """Return the plain values of a copy; ``sources`` are ``arns_by_stored_queue``."""
    return KeptCopy(
        copy.number,
        queue_arn,
        copy.message,
        copy.origin,
        copy.sent_at,
        copy.group_id,
        copy.deduplication_id,
        sources.get(id(copy.source)) if copy.source is not None else None,
        copy.carried,
        copy.receive_count,
        copy.first_received_at,
        copy.received_at,
        None if copy.visible_at == VISIBLE else copy.visible_at,
    )


def topology_of(broker: Broker) -> dict[str, Any]:
    """Return the topics, subscriptions and queues. Parts of it are the broker's own: write it before they change."""
    return {
        "topics": [
            {
                "arn": topic.arn,
                "attributes": topic.attributes,
                "given": topic.given,
                "tags": topic.tags,
                "sequence": topic.sequence,
                "deleted_subscriptions": topic.deleted_subscriptions,
            }
            for topic in broker.topics.values()
        ],
        "subscriptions": [
            {
                "arn": one.arn,
                "topic_arn": one.topic.arn,
                "protocol": one.protocol,
                "endpoint": one.endpoint,
                "owner": one.owner,
                "token": one.token,
                "is_pending": one.is_pending,
                "was_confirmed_by_call": one.was_confirmed_by_call,
                "attributes": one.attributes,
            }
            for one in broker.subscriptions.values()
        ],
        "queues": [
            {
                "arn": queue.arn,
                "attributes": queue.attributes,
                "tags": queue.tags,
                "created_at": queue.created_at,
                "modified_at": queue.modified_at,
                "purged_at": queue.purged_at,
                "seal": queue.seal,
            }
            for queue in broker.queues.values()
        ],
        "deleted_queues": broker.deleted_queues,
    }


# --- to a broker -------------------------------------------------------------------------------------


def restore(broker: Broker, state: BrokerState, *, is_as_new: bool) -> None:
    """Fill a broker that has nothing. With ``is_as_new`` all times are moved on, as if the state were taken now."""
    later = broker.now() - state.taken_at if is_as_new else 0.0
    broker.id_prefix = state.id_prefix
    broker.next_number = max(broker.next_number, state.next_number)
    if state.signing_key is not None:
        broker.signer.use(state.signing_key)
    _make_topics(broker, state.topology)
    _make_queues(broker, state.topology, later)
    _put_copies(broker, state.copies, later)
    windows = _windows_of(broker)
    for kept in state.ids:
        answer = tuple(kept.answer) if isinstance(kept.answer, list) else kept.answer
        windows[kept.arn].restore(kept.key, kept.until + later, answer)
    for kept_delivery in state.deliveries:
        delivery = HttpDelivery.restored(broker.subscriptions, kept_delivery, later)
        if delivery is not None:
            broker.http_deliveries.resume(delivery)
    for kept_task in state.move_tasks:
        task = MoveTask.restored(broker, kept_task, later)
        if task is not None:
            broker.move_tasks[task.task_id] = task
            task.start()


def _make_topics(broker: Broker, topology: dict[str, Any]) -> None:
    for kept in topology["topics"]:
        topic = broker.topics[kept["arn"]] = Topic(kept["arn"], dict(kept["given"]), dict(kept["tags"]))
        topic.attributes = dict(kept["attributes"])
        topic.set_attributes({})
        topic.sequence = kept["sequence"] + _SEQUENCE_GAP
        topic.deleted_subscriptions = kept["deleted_subscriptions"]
    for kept in topology["subscriptions"]:
        subscription = Subscription(
            kept["arn"],
            broker.topics[kept["topic_arn"]],
            protocol=kept["protocol"],
            endpoint=kept["endpoint"],
            owner=kept["owner"],
            token=kept["token"],
            is_pending=kept["is_pending"],
        )
        subscription.was_confirmed_by_call = kept["was_confirmed_by_call"]
        attributes = dict(kept["attributes"])
        text = attributes.get("FilterPolicy")
        reads_body = attributes.get("FilterPolicyScope") == "MessageBody"
        subscription.set_attributes(attributes, FilterPolicy(text, reads_body=reads_body) if text else None)
        subscription.topic.subscriptions[subscription.arn] = subscription
        broker.subscriptions[subscription.arn] = subscription


def _make_queues(broker: Broker, topology: dict[str, Any], later: float) -> None:
    for kept in topology["queues"]:
        queue = broker.queues[kept["arn"]] = Queue(
            broker, kept["arn"], dict(kept["attributes"]), dict(kept["tags"])
        )
        queue.created_at, queue.modified_at = kept["created_at"] + later, kept["modified_at"] + later
        queue.purged_at, queue.seal = kept["purged_at"] + later, kept["seal"]
    broker.deleted_queues.update({arn: at + later for arn, at in topology["deleted_queues"].items()})
    for queue in broker.queues.values():
        queue.find_dead_letter_queue()


def _put_copies(broker: Broker, kept_copies: list[KeptCopy], later: float) -> None:
    copies: dict[str, dict[int, Copy[SentMessage]]] = {arn: {} for arn in broker.queues}
    for kept in kept_copies:
        copy = Copy(
            kept.message,
            kept.number,
            kept.origin,
            kept.sent_at + later,
            group_id=kept.group_id,
            deduplication_id=kept.deduplication_id,
        )
        source = broker.queues.get(kept.source_arn or "")
        copy.source = source.stored if source else None
        copy.carried, copy.receive_count = kept.carried, kept.receive_count
        copy.first_received_at = kept.first_received_at and kept.first_received_at + later
        copy.received_at = kept.received_at and kept.received_at + later
        copy.visible_at = VISIBLE if kept.visible_at is None else kept.visible_at + later
        copies[kept.queue_arn][copy.number] = copy
        broker.bytes_kept += copy.message.memory
    for arn, queue in broker.queues.items():
        queue.stored.keep_copies_in(copies[arn])


# --- messages and ids as JSON ------------------------------------------------------------------------


def message_json(message: SentMessage) -> str:
    """Return the JSON text of a message."""
    attributes = {
        name: {
            key: {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
            for key, value in attribute.items()
        }
        for name, attribute in message.attributes.items()
    }
    return json.dumps([message.body, attributes, message.sender_id, message.trace_header])


def message_of(content: str) -> SentMessage:
    """Return the message of a JSON text."""
    body, attributes, sender_id, trace_header = json.loads(content)
    read = {
        name: {
            key: b64decode(value["base64"]) if isinstance(value, dict) else value
            for key, value in attribute.items()
        }
        for name, attribute in attributes.items()
    }
    return SentMessage(body, read, sender_id=sender_id, trace_header=trace_header)


def key_of(value: Any) -> Hashable:
    """Return a deduplication id that was JSON: one by group is a pair."""
    return tuple(value) if isinstance(value, list) else value
