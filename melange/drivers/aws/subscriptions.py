"""Subscriptions of queues to topics, and the statement of the queue's policy that lets the topics in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from melange.drivers.aws.addresses import parse_arn
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
from melange.drivers.base import Binding, EventFilter
from melange.drivers.sqs_rules import EVENT_TYPE_ATTRIBUTE
from melange.errors import AccessDeniedError, ConfigurationError, DriverConnectionError, TopicNotFoundError
from melange.messages import Queue, Topic

STATEMENT_ID = "MelangeTopics"
MAX_POLICY_BYTES = 8_192
MAX_STATEMENTS = 20


def allow_topics(policy_text: str | None, queue_arn: str, topic_arns: Iterable[str]) -> str | None:
    """Return the policy that allows these topics, and the earlier ones, to send to the queue.

    Return None if ``policy_text`` does so already. Other statements are not changed.

    Raises:
        ConfigurationError: the policy is not JSON, or would grow beyond what SQS allows.
    """
    policy: dict[str, Any] = _parse(policy_text, queue_arn) if policy_text else {"Version": "2012-10-17"}
    statements = _as_list(policy.get("Statement", []))
    current = next((one for one in statements if _is_ours(one)), None)
    wanted = _statement(queue_arn, {*_topics_of(current), *topic_arns})
    if current is not None and _canonical(current) == _canonical(wanted):
        return None
    policy["Statement"] = [one for one in statements if not _is_ours(one)] + [wanted]
    return _checked(policy, queue_arn)


def allowed_topics(policy_text: str | None) -> list[str]:
    """Return the ARNs of the topics that our statement allows."""
    try:
        statements = _as_list(json.loads(policy_text or "{}").get("Statement", []))
    except (ValueError, AttributeError):
        return []
    return [arn for one in statements if _is_ours(one) for arn in _topics_of(one)]


def _statement(queue_arn: str, topic_arns: Iterable[str]) -> dict[str, Any]:
    arns = sorted(topic_arns)
    return topics_statement(queue_arn, arns, sorted({parse_arn(arn, "sns").account for arn in arns}))


def topics_statement(queue_arn: Any, topic_arns: Sequence[Any], accounts: Sequence[Any]) -> dict[str, Any]:
    """Return the statement of a queue's policy that lets these topics send; exports give references instead of ARNs."""
    return {
        "Sid": STATEMENT_ID,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": list(topic_arns)},
            "StringEquals": {"aws:SourceAccount": list(accounts)},
        },
    }


def _parse(policy_text: str, queue_arn: str) -> dict[str, Any]:
    try:
        policy = json.loads(policy_text)
    except ValueError as error:
        raise ConfigurationError(f"the policy of {queue_arn} is not JSON; it was left alone") from error
    if not isinstance(policy, dict):
        raise ConfigurationError(f"the policy of {queue_arn} is not a JSON object; it was left alone")
    return policy


def _checked(policy: dict[str, Any], queue_arn: str) -> str:
    text = json.dumps(policy, separators=(",", ":"))
    if len(text.encode()) > MAX_POLICY_BYTES or len(policy["Statement"]) > MAX_STATEMENTS:
        raise ConfigurationError(
            f"the policy of {queue_arn} would have {len(text.encode()):,} bytes and "
            f"{len(policy['Statement'])} statements; SQS allows {MAX_POLICY_BYTES:,} and {MAX_STATEMENTS}: "
            "bind fewer topics to this queue"
        )
    return text


def _is_ours(statement: object) -> bool:
    return isinstance(statement, dict) and statement.get("Sid") == STATEMENT_ID


def _topics_of(statement: dict[str, Any] | None) -> list[str]:
    condition = (statement or {}).get("Condition")
    sources = condition.get("ArnEquals") if isinstance(condition, dict) else None
    arns = _as_list(sources.get("aws:SourceArn", [])) if isinstance(sources, dict) else []
    return [
        arn for arn in arns if isinstance(arn, str) and arn.split(":")[2:3] == ["sns"] and arn.count(":") == 5
    ]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _canonical(value: Any) -> Any:
    """Return a form that is the same for ``"x"`` and ``["x"]``, and for any order of a list."""
    if isinstance(value, dict):
        return {name: _canonical(part) for name, part in value.items()}
    return sorted(json.dumps(part, sort_keys=True) for part in _as_list(value))


_POLICY_ATTEMPTS = 8
_SETTLING_SECONDS = 0.2

ReadPolicy = Callable[[], str | None]


class SnsSubscriptions:
    """Binds queues to topics. Thread-safe."""

    def __init__(self, calls: BrokerCalls, jitter: Callable[[], float] = random.random) -> None:
        self._calls = calls
        self._jitter = jitter

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
                self._calls.wait(_SETTLING_SECONDS * (1 + attempt + self._jitter()))
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
        parameters: dict[str, Any] = {"TopicArn": topic.address}
        while True:
            try:
                answer = self._calls(LIST_SUBSCRIPTIONS, topic.name, **parameters)
            except TopicNotFoundError:
                return
            for one in answer.get("Subscriptions", ()):
                if one.get("Endpoint") == queue_arn and one.get("Protocol") == "sqs":
                    yield str(one.get("SubscriptionArn"))
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]

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
