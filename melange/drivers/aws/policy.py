"""Bindings: SNS subscriptions of a queue, and the queue policy that lets the topics in."""

# MERGED DOCS: The queue's policy document: one statement of ours among those of others. Pure: text in, text out.

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from melange.drivers.aws.clients import BrokerCalls, Clients
from melange.drivers.aws.wire import parse_arn
from melange.drivers.base import EventFilter
from melange.drivers.sqs_rules import EVENT_TYPE_ATTRIBUTE
from melange.errors import ConfigurationError, DriverConnectionError, TopicNotFoundError
from melange.messages import Queue, Topic

STATEMENT_ID = "MelangeTopics"
MAX_POLICY_BYTES = 8_192
MAX_STATEMENTS = 20


def allow_topics(policy_text: str | None, queue_arn: str, topic_arns: Iterable[str]) -> str | None:
    """Return the policy that lets these topics, and those let in before, send to the queue.

    Returns None when ``policy_text`` does so already. The statements of others are kept as they are.

    Raises:
        ConfigurationError: the policy is no JSON, or would grow beyond what SQS allows.
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
    """Return the ARNs of the topics that our statement lets in."""
    try:
        statements = _as_list(json.loads(policy_text or "{}").get("Statement", []))
    except (ValueError, AttributeError):
        return []
    return [arn for one in statements if _is_ours(one) for arn in _topics_of(one)]


def _statement(queue_arn: str, topic_arns: Iterable[str]) -> dict[str, Any]:
    arns = sorted(topic_arns)
    return {
        "Sid": STATEMENT_ID,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": arns},
            "StringEquals": {"aws:SourceAccount": sorted({parse_arn(arn, "sns").account for arn in arns})},
        },
    }


def _parse(policy_text: str, queue_arn: str) -> dict[str, Any]:
    try:
        policy = json.loads(policy_text)
    except ValueError as error:
        raise ConfigurationError(f"the policy of {queue_arn} is no JSON; it was left alone") from error
    if not isinstance(policy, dict):
        raise ConfigurationError(f"the policy of {queue_arn} is no JSON object; it was left alone")
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
    """Return a form in which ``"x"`` and ``["x"]`` and any order of a list are the same."""
    if isinstance(value, dict):
        return {name: _canonical(part) for name, part in value.items()}
    return sorted(json.dumps(part, sort_keys=True) for part in _as_list(value))


_POLICY_ATTEMPTS = 8
_SETTLING_SECONDS = 0.2

ReadPolicy = Callable[[], str | None]


def filter_attributes(event_filter: EventFilter) -> dict[str, str]:
    """Return the subscription attributes that let only these event types pass."""
    in_body = event_filter.scope == "body"
    key = "event_type_name" if in_body else EVENT_TYPE_ATTRIBUTE
    names = list(dict.fromkeys(event_filter.event_type_names))
    return {
        "FilterPolicyScope": "MessageBody" if in_body else "MessageAttributes",
        "FilterPolicy": json.dumps({key: names}, separators=(",", ":")),
    }


class Bindings:
    """Binds queues to topics. Thread-safe."""

    def __init__(
        self, calls: BrokerCalls, clients: Clients, jitter: Callable[[], float] = random.random
    ) -> None:
        self._calls = calls
        self._clients = clients
        self._jitter = jitter
        self._policy_lock = threading.Lock()

    def let_in(self, queue: Queue, queue_arn: str, topics: Sequence[Topic], read: ReadPolicy) -> None:
        """Make the queue's policy let the topics send to it.

        SQS has no compare-and-set: two writers that start from the same policy overwrite each other. So
        after writing it is read again, late enough for a writer that had read before to have written.
        """
        with self._policy_lock:
            for attempt in range(_POLICY_ATTEMPTS):
                policy = allow_topics(read(), queue_arn, [topic.address for topic in topics])
                if policy is None:
                    return
                self._calls(
                    self._clients.sqs.set_queue_attributes,
                    "sqs:SetQueueAttributes",
                    queue.name,
                    QueueUrl=queue.address,
                    Attributes={"Policy": policy},
                )
                self._calls.wait(_SETTLING_SECONDS * (1 + attempt + self._jitter()))
        raise DriverConnectionError(
            f"others keep changing the policy of queue {queue.name!r}: declare it again"
        )

    def subscribe(self, queue_arn: str, topic: Topic, event_filter: EventFilter | None) -> None:
        """Subscribe the queue to the topic.

        A subscription that is there is left as it is, except for the filter when one is named.
        """
        wanted = filter_attributes(event_filter) if event_filter else {}
        try:
            answer = self._calls(
                self._clients.sns.subscribe,
                "sns:Subscribe",
                topic.name,
                TopicArn=topic.address,
                Protocol="sqs",
                Endpoint=queue_arn,
                Attributes={"RawMessageDelivery": "true", **wanted},
                ReturnSubscriptionArn=True,
            )
            subscription_arn = str(answer["SubscriptionArn"])
        except ConfigurationError as error:
            if "already exists" not in str(error):
                raise
            subscription_arn = self._find(queue_arn, topic)
        if wanted:
            self._reconcile_filter(subscription_arn, topic.name, wanted)

    def unsubscribe_all(self, queue_arn: str, policy_text: str | None) -> None:
        """Take off the subscriptions of the topics that our policy statement lets in."""
        for topic_arn in allowed_topics(policy_text):
            topic = Topic(topic_arn.rpartition(":")[2], topic_arn)
            try:
                subscription_arns = [
                    one["SubscriptionArn"] for one in self._list(topic) if one["Endpoint"] == queue_arn
                ]
            except TopicNotFoundError:
                continue
            for subscription_arn in subscription_arns:
                self._calls(
                    self._clients.sns.unsubscribe,
                    "sns:Unsubscribe",
                    topic.name,
                    SubscriptionArn=subscription_arn,
                )

    def _reconcile_filter(self, subscription_arn: str, topic_name: str, wanted: dict[str, str]) -> None:
        current = self._calls(
            self._clients.sns.get_subscription_attributes,
            "sns:GetSubscriptionAttributes",
            topic_name,
            SubscriptionArn=subscription_arn,
        )["Attributes"]
        changes = {name: value for name, value in wanted.items() if not _same(name, current.get(name), value)}
        if "FilterPolicyScope" in changes and current.get("FilterPolicy"):
            # The old policy under the new scope would match nothing and drop messages meanwhile.
            changes = {**wanted}
            self._set(subscription_arn, topic_name, "FilterPolicy", "{}")
        for name, value in changes.items():
            self._set(subscription_arn, topic_name, name, value)

    def _set(self, subscription_arn: str, topic_name: str, name: str, value: str) -> None:
        self._calls(
            self._clients.sns.set_subscription_attributes,
            "sns:SetSubscriptionAttributes",
            topic_name,
            SubscriptionArn=subscription_arn,
            AttributeName=name,
            AttributeValue=value,
        )

    def _find(self, queue_arn: str, topic: Topic) -> str:
        for subscription in self._list(topic):
            if subscription["Endpoint"] == queue_arn and subscription["Protocol"] == "sqs":
                return str(subscription["SubscriptionArn"])
        raise DriverConnectionError(
            f"the subscription of {queue_arn} to topic {topic.name!r} was changed by somebody else: declare again"
        )

    def _list(self, topic: Topic) -> Iterator[dict[str, Any]]:
        parameters: dict[str, Any] = {"TopicArn": topic.address}
        while True:
            answer = self._calls(
                self._clients.sns.list_subscriptions_by_topic,
                "sns:ListSubscriptionsByTopic",
                topic.name,
                **parameters,
            )
            yield from answer.get("Subscriptions", ())
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]


def _same(name: str, current: str | None, wanted: str) -> bool:
    if name == "FilterPolicyScope":
        return (current or "MessageAttributes") == wanted
    return _values(current) == _values(wanted)


def _values(policy: str | None) -> dict[str, Any] | None:
    """Return a filter policy with its values in one order, None where there is none."""
    try:
        parsed = json.loads(policy or "{}")
    except ValueError:
        return None
    if not isinstance(parsed, dict) or not parsed:
        return None
    return {
        key: sorted(map(json.dumps, values)) if isinstance(values, list) else values
        for key, values in parsed.items()
    }
