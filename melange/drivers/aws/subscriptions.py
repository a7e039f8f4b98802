"""Subscriptions of queues to topics, with their filters."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import (
    GET_SUBSCRIPTION_ATTRIBUTES,
    LIST_SUBSCRIPTIONS,
    SET_QUEUE_ATTRIBUTES,
    SET_SUBSCRIPTION_ATTRIBUTES,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Attributes,
)
from melange.drivers.aws.policies import allow_topics
from melange.drivers.base import Binding, EventFilter
from melange.drivers.sqs_rules import EVENT_TYPE_ATTRIBUTE
from melange.errors import AccessDeniedError, ConfigurationError, DriverConnectionError, TopicNotFoundError
from melange.messages import Queue, Topic

_POLICY_ATTEMPTS = 8
_SETTLING_SECONDS = 0.2

ReadPolicy = Callable[[], str | None]


class SnsSubscriptions:
    """Binds queues to topics. Thread-safe."""

    def __init__(self, calls: BrokerCalls) -> None:
        self._calls = calls

    def let_in(self, queue: Queue, queue_arn: str, topics: Sequence[Topic], read: ReadPolicy) -> None:
        """Allow the topics in the queue's policy to send to it.

        SQS has no compare-and-set: two writers that start from the same policy overwrite each other. So the
        policy is read again after writing, late enough for an earlier reader to have written.
        """
        with self._calls.policy_lock:
            for attempt in range(_POLICY_ATTEMPTS):
                policy = allow_topics(read(), queue_arn, [topic.address for topic in topics])
                if policy is None:
                    return
                self._calls(
                    SET_QUEUE_ATTRIBUTES, queue.name, QueueUrl=queue.address, Attributes={"Policy": policy}
                )
                self._calls.wait(_SETTLING_SECONDS * (1 + attempt + random.random()))  # noqa: S311 - not for secrets
        raise DriverConnectionError(
            f"other processes keep changing the policy of queue {queue.name!r}: declare it again"
        )

    def subscribe(self, queue_arn: str, topic: Topic, event_filter: EventFilter | None) -> None:
        """Subscribe the queue to the topic.

        An existing subscription is not changed, except for its filter if one is given.
        """
        wanted = filter_attributes(event_filter) if event_filter else {}
        try:
            subscription_arn = self._calls(
                SUBSCRIBE,
                topic.name,
                TopicArn=topic.address,
                Protocol="sqs",
                Endpoint=queue_arn,
                # SNS takes no empty filter here; a new subscription has none.
                Attributes={"RawMessageDelivery": "true", **(wanted if _names_types(event_filter) else {})},
                ReturnSubscriptionArn=True,
            )
        except ConfigurationError as refused:
            subscription_arn = self._find_existing(queue_arn, topic, refused)
        if wanted:
            self._reconcile_filter(subscription_arn, topic.name, wanted)

    def unsubscribe(self, queue_arn: str, topics: Sequence[Topic]) -> None:
        """Remove the queue's subscriptions to these topics."""
        for topic in topics:
            for subscription_arn in self._find(queue_arn, topic):
                self._calls(UNSUBSCRIBE, topic.name, SubscriptionArn=subscription_arn)

    def list(self, queue_arn: str, topics: Sequence[Topic]) -> list[Binding]:
        """Return the bindings to those of the topics to which the queue is subscribed, with their filters."""
        bindings = []
        for topic in topics:
            for subscription_arn in self._find(queue_arn, topic):
                attributes = self._calls(
                    GET_SUBSCRIPTION_ATTRIBUTES, topic.name, SubscriptionArn=subscription_arn
                )
                bindings.append(Binding(topic, event_filter_from(attributes)))
        return bindings

    def _find_existing(self, queue_arn: str, topic: Topic, refused: ConfigurationError) -> str:
        # Refused because one with other attributes exists, or for another reason.
        try:
            return next(self._find(queue_arn, topic))
        except StopIteration:
            raise refused from refused.__cause__
        except AccessDeniedError as denied:
            raise AccessDeniedError(f"{refused}. Search for an existing subscription: {denied}") from denied

    def _find(self, queue_arn: str, topic: Topic) -> Iterator[str]:
        """Yield the ARNs of the queue's subscriptions to the topic; SNS keeps at most one."""
        listed = self._calls.listed(LIST_SUBSCRIPTIONS, topic.name, "Subscriptions", TopicArn=topic.address)
        try:
            for one in listed:
                if one.get("Endpoint") == queue_arn and one.get("Protocol") == "sqs":
                    yield str(one.get("SubscriptionArn"))
        except TopicNotFoundError:
            return

    def _reconcile_filter(self, subscription_arn: str, topic_name: str, wanted: Attributes) -> None:
        current = self._calls(GET_SUBSCRIPTION_ATTRIBUTES, topic_name, SubscriptionArn=subscription_arn)
        changes = {name: value for name, value in wanted.items() if not _same(name, current.get(name), value)}
        if "FilterPolicyScope" in changes and current.get("FilterPolicy"):
            # The old policy under the new scope would match nothing and drop messages meanwhile.
            changes = {**wanted}
            self._set(subscription_arn, topic_name, "FilterPolicy", NO_FILTER)
        for name, value in changes.items():
            self._set(subscription_arn, topic_name, name, value)

    def _set(self, subscription_arn: str, topic_name: str, name: str, value: str) -> None:
        self._calls(
            SET_SUBSCRIPTION_ATTRIBUTES,
            topic_name,
            SubscriptionArn=subscription_arn,
            AttributeName=name,
            AttributeValue=value,
        )


NO_FILTER = "{}"


def filter_attributes(event_filter: EventFilter) -> Attributes:
    """Return the subscription attributes for a filter of these event types, or for no filter."""
    if not _names_types(event_filter):
        return {"FilterPolicy": NO_FILTER}
    in_body = event_filter.scope == "body"
    key = "event_type_name" if in_body else EVENT_TYPE_ATTRIBUTE
    names = list(dict.fromkeys(event_filter.event_type_names))
    return {
        "FilterPolicyScope": "MessageBody" if in_body else "MessageAttributes",
        "FilterPolicy": json.dumps({key: names}, separators=(",", ":")),
    }


def event_filter_from(attributes: Attributes) -> EventFilter | None:
    """Return the filter of a subscription, or None.

    Conditions that melange did not write, other than event type names, are not included.
    """
    policy = _values(attributes.get("FilterPolicy"))
    if policy is None:
        return None
    in_body = attributes.get("FilterPolicyScope") == "MessageBody"
    values = policy.get("event_type_name" if in_body else EVENT_TYPE_ATTRIBUTE, ())
    names = [json.loads(value) for value in values if value.startswith('"')]
    return EventFilter(tuple(names), "body" if in_body else "headers")


def is_written_by_us(attributes: Attributes) -> bool:
    """Return True if the filter of a subscription, if it has one, selects by event types and nothing else."""
    policy = _values(attributes.get("FilterPolicy"))
    event_filter = event_filter_from(attributes)
    if policy is None or event_filter is None:
        return policy is None
    return policy == _values(filter_attributes(event_filter)["FilterPolicy"])


def _names_types(event_filter: EventFilter | None) -> bool:
    return event_filter is not None and bool(event_filter.event_type_names)


def _same(name: str, current: str | None, wanted: str) -> bool:
    if name == "FilterPolicyScope":
        return (current or "MessageAttributes") == wanted
    return _values(current) == _values(wanted)


def _values(policy: str | None) -> dict[str, Any] | None:
    """Return a filter policy with its values in one order, or None."""
    try:
        parsed = json.loads(policy or NO_FILTER)
    except ValueError:
        return None
    if not isinstance(parsed, dict) or not parsed:
        return None
    return {
        key: sorted(map(json.dumps, values)) if isinstance(values, list) else values
        for key, values in parsed.items()
    }
