"""Topics, queues and subscriptions on SNS and SQS in detail, for ``melange.topology``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from melange.drivers.aws.addresses import is_arn, parse_arn, queue_address
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import (
    DESCRIBE_KEY,
    GET_KEY_POLICY,
    GET_QUEUE_ATTRIBUTES,
    GET_SUBSCRIPTION_ATTRIBUTES,
    GET_TOPIC_ATTRIBUTES,
    LIST_ALL_SUBSCRIPTIONS,
    LIST_QUEUE_TAGS,
    LIST_QUEUES,
    LIST_SUBSCRIPTIONS,
    SET_SUBSCRIPTION_ATTRIBUTES,
    UNSUBSCRIBE,
    Attributes,
    Operation,
)
from melange.drivers.aws.policies import key_policy_problem, sending_problem
from melange.drivers.aws.queues import SqsQueues, parse_redrive_policy
from melange.drivers.aws.subscriptions import SnsSubscriptions, event_filter_from, is_written_by_us
from melange.drivers.aws.topics import SnsTopics
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.drivers.prefix import NamePrefix
from melange.errors import AccessDeniedError, QueueNotFoundError, TopicNotFoundError
from melange.messages import Queue, Topic

_PENDING = "PendingConfirmation"
_AWS_MANAGED_KEY = "alias/aws/sqs"
_PAGE = 1_000


class AwsInspection:
    """See ``BrokerInspection``. What was listed is remembered: make a new one to look again."""

    def __init__(
        self,
        calls: BrokerCalls,
        topics: SnsTopics,
        queues: SqsQueues,
        subscriptions: SnsSubscriptions,
        prefix: NamePrefix,
    ) -> None:
        self._calls = calls
        self._topics = topics
        self._queues = queues
        self._subscriptions = subscriptions
        self._prefix = prefix
        self._listed: list[dict[str, Any]] | None = None

    def topic(self, name: str) -> ObservedTopic | None:
        try:
            address = self._topics.address_of(name)
            attributes = self._calls(GET_TOPIC_ATTRIBUTES, name, TopicArn=address)
        except TopicNotFoundError:
            return None
        except AccessDeniedError:
            if not is_arn(name):
                raise
            # Another account's, which lets us subscribe, and need not let us look.
            address, attributes = name, {}
        plain = self._prefix.strip(parse_arn(address, "sns").name)
        return ObservedTopic(plain, address, attributes.get("KmsMasterKeyId") or None)

    def queue(self, name: str) -> ObservedQueue | None:
        try:
            address = self._queues.address_of(name)
            return self._observed(address, self._attributes(name, address))
        except QueueNotFoundError:
            return None

    def tagged_queues(self, key: str, value: str) -> list[ObservedQueue]:
        """Return the queues with this tag: one call for each queue with the driver's prefix."""
        found = []
        for url in self._all(LIST_QUEUES, "QueueUrls", MaxResults=_PAGE, **self._with_prefix()):
            address = queue_address(url, self._calls.clients.region_name)
            name = address.rpartition("/")[2]
            try:
                if self._tags(name, address).get(key) == value:
                    found.append(self._observed(address, self._attributes(name, address)))
            except QueueNotFoundError:  # deleted since it was listed
                continue
        return found

    def subscriptions_of(self, topic: ObservedTopic) -> list[ObservedSubscription]:
        listed = self._all(LIST_SUBSCRIPTIONS, "Subscriptions", TopicArn=topic.address)
        return [self._subscription(one) for one in listed if one.get("Protocol") == "sqs"]

    def subscriptions_into(self, queue: ObservedQueue) -> list[ObservedSubscription]:
        if self._listed is None:
            self._listed = list(self._all(LIST_ALL_SUBSCRIPTIONS, "Subscriptions"))
        return [
            self._subscription(one)
            for one in self._listed
            if one.get("Protocol") == "sqs" and one.get("Endpoint") == queue.arn
        ]

    def policy_problem(self, queue: ObservedQueue, topic: ObservedTopic) -> str | None:
        return sending_problem(queue.policy, queue.arn, topic.address)

    def key_problem(self, queue: ObservedQueue) -> str | None:
        if queue.key is None:
            return None
        if queue.key.endswith(_AWS_MANAGED_KEY):
            return f"{_AWS_MANAGED_KEY} belongs to AWS, and its policy cannot let SNS use it"
        described = self._calls(DESCRIBE_KEY, queue.key, KeyId=queue.key).get("KeyMetadata", {})
        if described.get("KeyManager") == "AWS":
            return f"the key {queue.key} belongs to AWS, and its policy cannot let SNS use it"
        if not described.get("Enabled", True):
            return f"the key {queue.key} is {described.get('KeyState', 'disabled')}"
        policy = self._calls(GET_KEY_POLICY, queue.key, KeyId=described["KeyId"], PolicyName="default")
        return key_policy_problem(policy)

    def set_raw_delivery(self, subscription: ObservedSubscription) -> None:
        self._set(subscription, "RawMessageDelivery", "true")

    def set_dead_letter_queue(self, subscription: ObservedSubscription, queue: ObservedQueue) -> None:
        topic = Topic(subscription.topic_address.rpartition(":")[2], subscription.topic_address)
        self._subscriptions.let_in(
            Queue(queue.name, queue.address), queue.arn, [topic], self._reading_policy(queue)
        )
        self._set(subscription, "RedrivePolicy", json.dumps({"deadLetterTargetArn": queue.arn}))

    def unsubscribe(self, subscription: ObservedSubscription) -> None:
        self._calls(UNSUBSCRIBE, subscription.topic_address, SubscriptionArn=subscription.address)

    def _reading_policy(self, queue: ObservedQueue) -> Callable[[], str | None]:
        def read() -> str | None:
            return self._attributes(queue.name, queue.address).get("Policy")

        return read

    def _set(self, subscription: ObservedSubscription, name: str, value: str) -> None:
        self._calls(
            SET_SUBSCRIPTION_ATTRIBUTES,
            subscription.topic_address,
            SubscriptionArn=subscription.address,
            AttributeName=name,
            AttributeValue=value,
        )

    def _subscription(self, listed: dict[str, Any]) -> ObservedSubscription:
        address, topic, endpoint = listed["SubscriptionArn"], listed["TopicArn"], listed["Endpoint"]
        if not address.startswith("arn:"):  # "PendingConfirmation" or "Deleted"
            return ObservedSubscription("", topic, endpoint, is_pending=address == _PENDING)
        attributes = self._calls(GET_SUBSCRIPTION_ATTRIBUTES, topic, SubscriptionArn=address)
        filter_text = attributes.get("FilterPolicy")
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        return ObservedSubscription(
            address,
            topic,
            endpoint,
            event_filter=event_filter_from(attributes),
            other_filter=None if is_written_by_us(attributes) else filter_text,
            is_raw=attributes.get("RawMessageDelivery", "false").lower() == "true",
            is_pending=attributes.get("PendingConfirmation", "false").lower() == "true",
            dead_letter_queue=redrive.get("deadLetterTargetArn"),
        )

    def _observed(self, address: str, attributes: Attributes) -> ObservedQueue:
        arn = attributes["QueueArn"]
        name = parse_arn(arn, "sqs").name
        dead_letter_queue, max_receive_count = parse_redrive_policy(attributes.get("RedrivePolicy"))
        return ObservedQueue(
            name=self._prefix.strip(name),
            address=address,
            arn=arn,
            retention_seconds=int(attributes.get("MessageRetentionPeriod", "345600")),
            visibility_timeout_seconds=int(attributes.get("VisibilityTimeout", "30")),
            message_count=sum(
                int(attributes.get(f"ApproximateNumberOfMessages{kind}", "0"))
                for kind in ("", "NotVisible", "Delayed")
            ),
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count,
            key=attributes.get("KmsMasterKeyId") or None,
            policy=attributes.get("Policy", ""),
            tags=self._tags(name, address),
        )

    def _attributes(self, name: str, address: str) -> Attributes:
        attributes: Attributes = self._calls(
            GET_QUEUE_ATTRIBUTES, name, QueueUrl=address, AttributeNames=["All"]
        )
        return attributes

    def _tags(self, name: str, address: str) -> dict[str, str]:
        tags: dict[str, str] = self._calls(LIST_QUEUE_TAGS, name, QueueUrl=address)
        return tags

    def _with_prefix(self) -> dict[str, str]:
        return {"QueueNamePrefix": self._prefix.text} if self._prefix.text else {}

    def _all(self, operation: Operation, key: str, **parameters: Any) -> Iterator[Any]:
        """Yield what all pages of a listing have under ``key``."""
        while True:
            answer = self._calls(operation, "the listing", **parameters)
            yield from answer.get(key) or ()
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]
