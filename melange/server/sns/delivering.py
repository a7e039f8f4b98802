"""Giving a published message to the subscriptions of its topic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from melange.drivers.sqs_rules import MAX_ATTRIBUTES
from melange.server.calls import Call
from melange.server.errors import ServiceError
from melange.server.policies import Access
from melange.server.sns.notifications import HttpMessage, Notification, envelope
from melange.server.sns.topics import Subscription, Topic
from melange.server.sqs.messages import SentMessage
from melange.server.sqs.queues import Queue
from melange.server.sqs.sending import check_memory, put

if TYPE_CHECKING:
    from melange.server.broker import Broker

logger = logging.getLogger(__name__)

SENDER_ID = "AIDAMELANGESNS"


def deliver(call: Call, notification: Notification) -> None:
    """Give the message to each subscription with a filter that lets it pass. The caller holds the broker's lock."""
    broker, topic = call.broker, notification.topic
    for subscription in topic.subscriptions.values():
        if subscription.is_pending:
            continue
        body = notification.body_for(subscription.protocol)
        policy = subscription.filter_policy
        if policy is not None and not policy.lets_pass(body, notification.attributes):
            details = (subscription.endpoint, subscription.arn, subscription.attributes["FilterPolicy"])
            broker.event_log.add(
                "filtered out", broker.now(), topic.arn, notification.message_id, None, details
            )
        elif subscription.protocol == "sqs":
            _deliver_to_queue(call, notification, subscription)
        elif subscription.protocol in {"http", "https"}:
            text = body if subscription.is_raw else envelope(call, notification, subscription)
            message = HttpMessage(
                "Notification", notification.message_id, text, subscription.is_raw, notification
            )
            broker.http_deliveries.add(subscription, message)


def _deliver_to_queue(call: Call, notification: Notification, subscription: Subscription) -> None:
    if subscription.is_raw:
        text, attributes = notification.body_for("sqs"), notification.attributes
    else:
        text, attributes = envelope(call, notification, subscription), {}
    queue = call.broker.queues.get(subscription.endpoint)
    reason = _why_not(queue, notification.topic, attributes)
    if queue is not None and not reason:
        reason = _put(queue, notification, text, attributes)
    is_known, subscription.last_refusal = reason == subscription.last_refusal, reason
    if reason:
        level = logging.DEBUG if is_known else logging.INFO  # one line for each fault, not for each message
        logger.log(
            level, "topic %s: no delivery to %s: %s", notification.topic.name, subscription.endpoint, reason
        )
        dead_letter(call.broker, subscription, notification, text, attributes, reason=reason)


def _why_not(queue: Queue | None, topic: Topic, attributes: Mapping[str, Any]) -> str:
    """Return why SNS cannot send to a queue, or ""."""
    if queue is None:
        return "the queue does not exist"
    if not may_send(queue, topic):
        return "the queue's policy does not allow the topic to send"
    if len(attributes) > MAX_ATTRIBUTES:
        return "raw delivery allows ten attributes"
    return ""


def may_send(queue: Queue, topic: Topic) -> bool:
    """Return True if the queue's policy allows SNS to send messages of the topic."""
    access = Access(
        "sns.amazonaws.com", "sqs:SendMessage", queue.arn, source_arn=topic.arn, source_account=topic.account
    )
    return queue.policy is not None and queue.policy.allows(access)


def dead_letter(
    broker: Broker,
    subscription: Subscription,
    notification: Notification,
    text: str,
    attributes: Mapping[str, Any],
    *,
    reason: str,
) -> None:
    """Put a message that could not be delivered into the subscription's dead-letter queue, if there is one."""
    details = (subscription.endpoint, reason)
    broker.event_log.add(
        "not delivered", broker.now(), notification.topic.arn, notification.message_id, None, details
    )
    queue = broker.queues.get(subscription.dead_letter_arn or "")
    if queue is None:
        return
    if not may_send(queue, notification.topic):
        logger.warning(
            "the policy of dead-letter queue %s does not allow topic %s to send: AWS would lose the message",
            queue.name,
            notification.topic.name,
        )
    refusal = _put(queue, notification, text, attributes)
    if refusal:
        logger.warning("a message is lost: dead-letter queue %s: %s", queue.name, refusal)


def _put(queue: Queue, notification: Notification, text: str, attributes: Mapping[str, Any]) -> str:
    """Store the message and return "", or why that failed."""
    message = SentMessage(text, attributes, sender_id=SENDER_ID)
    if message.size > queue.max_message_bytes:
        return "the message is too large"
    topic_is_fifo = notification.topic.is_fifo
    try:
        check_memory(queue.broker, message.memory)
        put(
            queue,
            message,
            group_id=notification.group_id if queue.is_fifo or not topic_is_fifo else None,
            deduplication_id=notification.deduplication_id if queue.is_fifo else None,
            delay_seconds=queue.delay_seconds,
            published_id=notification.message_id,
        )
    except ServiceError as error:
        return error.message
    return ""
