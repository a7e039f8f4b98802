"""Topics, queues and subscriptions on SNS and SQS in detail.

``melange.topology`` looks them up by name with ``AwsInspection``; ``melange.console`` lists all of an account with
``AwsAccount``, and shows messages as SQS has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange.drivers.aws.addresses import is_arn, parse_arn
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import (
    DESCRIBE_KEY,
    GET_KEY_POLICY,
    GET_SUBSCRIPTION_ATTRIBUTES,
    GET_TOPIC_ATTRIBUTES,
    LIST_ALL_SUBSCRIPTIONS,
    LIST_QUEUE_TAGS,
    LIST_SUBSCRIPTIONS,
    LIST_TOPICS,
    PUBLISH_ONE,
    SEND_COPY,
    SET_SUBSCRIPTION_ATTRIBUTES,
    UNSUBSCRIBE,
    Attributes,
)
from melange.drivers.aws.policies import key_policy_problem, sending_problem
from melange.drivers.aws.queues import SqsQueues, parse_redrive_policy
from melange.drivers.aws.subscriptions import SnsSubscriptions, event_filter_from, is_written_by_us
from melange.drivers.aws.topics import SnsTopics
from melange.drivers.aws.wire import Received
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.drivers.queue_spec import NamePrefix
from melange.errors import AccessDeniedError, MelangeError, QueueNotFoundError, TopicNotFoundError
from melange.messages import Delivery, Queue, Topic

if TYPE_CHECKING:
    from melange.drivers.aws.driver import AwsDriver

_PENDING = "PendingConfirmation"
_AWS_MANAGED_KEY = "alias/aws/sqs"
_CALLS_AT_ONCE = 8
_LOOK_SECONDS = 60
"""How long messages are invisible if this process ends in the middle of a look."""


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
            return self._observed(address, self._queues.attributes(name, address))
        except QueueNotFoundError:
            return None

    def tagged_queues(self, key: str, value: str) -> list[ObservedQueue]:
        """Return the queues with this tag: one call for each queue with the driver's prefix."""
        found = []
        for address in self._queues.addresses():
            name = address.rpartition("/")[2]
            try:
                if self._tags(name, address).get(key) == value:
                    found.append(self._observed(address, self._queues.attributes(name, address)))
            except QueueNotFoundError:  # deleted since it was listed
                continue
        return found

    def subscriptions_of(self, topic: ObservedTopic) -> list[ObservedSubscription]:
        listed = self._calls.listed(LIST_SUBSCRIPTIONS, topic.name, "Subscriptions", TopicArn=topic.address)
        return [self._subscription(one) for one in listed if one.get("Protocol") == "sqs"]

    def subscriptions_into(self, queue: ObservedQueue) -> list[ObservedSubscription]:
        if self._listed is None:
            self._listed = list(
                self._calls.listed(LIST_ALL_SUBSCRIPTIONS, "the subscriptions", "Subscriptions")
            )
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
            return self._queues.attributes(queue.name, queue.address).get("Policy")

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

    def _tags(self, name: str, address: str) -> dict[str, str]:
        tags: dict[str, str] = self._calls(LIST_QUEUE_TAGS, name, QueueUrl=address)
        return tags


@dataclass(frozen=True, slots=True)
class AccountSubscription:
    """A subscription with its attributes, {} while it is pending."""

    arn: str
    topic_arn: str
    protocol: str
    endpoint: str
    attributes: Mapping[str, str]

    @property
    def dead_letter_arn(self) -> str | None:
        """The queue for what SNS cannot deliver."""
        target: str | None = json.loads(self.attributes.get("RedrivePolicy") or "{}").get(
            "deadLetterTargetArn"
        )
        return target


class AwsAccount:
    """Lists the topics and queues with the driver's prefix, and looks at messages.

    Blocks on calls; thread-safe. Raises what the driver raises.
    """

    def __init__(self, driver: AwsDriver, calls: BrokerCalls, queues: SqsQueues) -> None:
        self._driver = driver
        self._calls = calls
        self._queues = queues

    @property
    def region_name(self) -> str:
        return self._calls.clients.region_name

    def queues(self) -> list[Attributes]:
        """Return the attributes of each queue: one call for each."""
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
            return [found for found in threads.map(self._attributes, self._queues.addresses()) if found]

    def topic_arns(self) -> list[str]:
        """Return the ARNs of the topics."""
        arns = [topic["TopicArn"] for topic in self._calls.listed(LIST_TOPICS, "the topics", "Topics")]
        return [arn for arn in arns if arn.rpartition(":")[2].startswith(self._driver.prefix)]

    def subscriptions(self) -> list[AccountSubscription]:
        """Return the subscriptions of these topics: one call for each."""
        listed = self._calls.listed(LIST_ALL_SUBSCRIPTIONS, "the subscriptions", "Subscriptions")
        wanted = [one for one in listed if one["TopicArn"].rpartition(":")[2].startswith(self._driver.prefix)]
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
            return list(threads.map(self._subscription, wanted))

    def look(self, queue_arn: str, limit: int) -> list[Mapping[str, Any]]:
        """Receive messages until ``limit`` are there, and release them; return them as SQS gives them, without handles.

        Each look counts as a receive: after too many, SQS moves a message to the dead-letter queue.
        """
        queue = self._driver.get_queue(queue_arn)
        deliveries: list[Delivery] = []
        try:
            while len(deliveries) < limit:
                found = self._driver.dead_letter_access.browse(
                    queue, visibility_timeout_seconds=_LOOK_SECONDS
                )
                if not found:
                    break
                deliveries += [one.delivery for one in found]
        finally:
            self._driver.defer(deliveries, 0)
        return [_without_handle(delivery) for delivery in deliveries]

    def send(self, queue_arn: str, parameters: Mapping[str, Any]) -> str:
        """Send a message with the parameters of ``SendMessage``, and return its id."""
        queue: Queue = self._driver.get_queue(queue_arn)
        message_id: str = self._calls(SEND_COPY, queue.name, QueueUrl=queue.address, **parameters)
        return message_id

    def publish(self, topic_arn: str, parameters: Mapping[str, Any]) -> str:
        """Publish a message with the parameters of ``Publish``, and return its id."""
        name = topic_arn.rpartition(":")[2]
        message_id: str = self._calls(PUBLISH_ONE, name, TopicArn=topic_arn, **parameters)
        return message_id

    def _attributes(self, address: str) -> Attributes:
        try:
            return self._queues.attributes(address.rpartition("/")[2], address)
        except QueueNotFoundError:  # deleted since it was listed
            return {}

    def _subscription(self, listed: Mapping[str, Any]) -> AccountSubscription:
        arn, topic_arn = listed["SubscriptionArn"], listed["TopicArn"]
        attributes: Attributes = {}
        if arn.startswith("arn:"):
            try:
                attributes = self._calls(GET_SUBSCRIPTION_ATTRIBUTES, topic_arn, SubscriptionArn=arn)
            except MelangeError:  # of another account, or deleted since it was listed
                attributes = {}
        return AccountSubscription(arn, topic_arn, listed["Protocol"], listed["Endpoint"], attributes)


def _without_handle(delivery: Delivery) -> Mapping[str, Any]:
    assert isinstance(delivery.received, Received)
    return {**delivery.received.raw, "ReceiptHandle": ""}
