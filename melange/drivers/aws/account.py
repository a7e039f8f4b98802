"""All topics, queues and subscriptions of an account in a region, and messages as SQS has them: for ``melange.console``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange.drivers.aws.addresses import queue_address
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import (
    GET_QUEUE_ATTRIBUTES,
    GET_SUBSCRIPTION_ATTRIBUTES,
    LIST_ALL_SUBSCRIPTIONS,
    LIST_QUEUES,
    LIST_TOPICS,
    PUBLISH_ONE,
    SEND_COPY,
    Attributes,
    Operation,
)
from melange.drivers.aws.wire import Received
from melange.errors import MelangeError, QueueNotFoundError
from melange.messages import Delivery, Queue

if TYPE_CHECKING:
    from melange.drivers.aws.driver import AwsDriver

_CALLS_AT_ONCE = 8
_PAGE = 1_000
_LOOK_SECONDS = 60
"""How long messages are invisible if this process ends in the middle of a look."""


@dataclass(frozen=True, slots=True)
class Subscription:
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
    """Lists what there is, and looks at messages. Blocks on calls; thread-safe. Raises what the driver raises.

    Args:
        prefix: the prefix of the topics and queues that are listed.
    """

    def __init__(self, driver: AwsDriver, calls: BrokerCalls, prefix: str) -> None:
        self._driver = driver
        self._calls = calls
        self._prefix = prefix

    @property
    def region_name(self) -> str:
        return self._calls.clients.region_name

    def queues(self) -> list[Attributes]:
        """Return the attributes of each queue: one call for each."""
        named = {"QueueNamePrefix": self._prefix} if self._prefix else {}
        urls = list(self._all(LIST_QUEUES, "QueueUrls", MaxResults=_PAGE, **named))
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
            return [found for found in threads.map(self._attributes, urls) if found]

    def topic_arns(self) -> list[str]:
        """Return the ARNs of the topics."""
        arns = [topic["TopicArn"] for topic in self._all(LIST_TOPICS, "Topics")]
        return [arn for arn in arns if arn.rpartition(":")[2].startswith(self._prefix)]

    def subscriptions(self) -> list[Subscription]:
        """Return the subscriptions of these topics: one call for each."""
        listed = self._all(LIST_ALL_SUBSCRIPTIONS, "Subscriptions")
        wanted = [one for one in listed if one["TopicArn"].rpartition(":")[2].startswith(self._prefix)]
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as threads:
            return list(threads.map(self._subscription, wanted))

    def look(self, queue_arn: str, limit: int) -> list[Mapping[str, Any]]:
        """Receive up to ``limit`` messages as SQS gives them, without receipt handles, and release them at once.

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

    def _attributes(self, url: str) -> Attributes:
        address = queue_address(url, self.region_name)
        try:
            found: Attributes = self._calls(
                GET_QUEUE_ATTRIBUTES, address.rpartition("/")[2], QueueUrl=address, AttributeNames=["All"]
            )
        except QueueNotFoundError:  # deleted since it was listed
            return {}
        return found

    def _subscription(self, listed: Mapping[str, Any]) -> Subscription:
        arn, topic_arn = listed["SubscriptionArn"], listed["TopicArn"]
        attributes: Attributes = {}
        if arn.startswith("arn:"):
            try:
                attributes = self._calls(GET_SUBSCRIPTION_ATTRIBUTES, topic_arn, SubscriptionArn=arn)
            except MelangeError:  # of another account, or deleted since it was listed
                attributes = {}
        return Subscription(arn, topic_arn, listed["Protocol"], listed["Endpoint"], attributes)

    def _all(self, operation: Operation, key: str, **parameters: Any) -> Iterator[Any]:
        """Yield what all pages of a listing have under ``key``."""
        while True:
            answer = self._calls(operation, "the listing", **parameters)
            yield from answer.get(key) or ()
            if not answer.get("NextToken"):
                return
            parameters["NextToken"] = answer["NextToken"]


def _without_handle(delivery: Delivery) -> Mapping[str, Any]:
    assert isinstance(delivery.received, Received)
    return {**delivery.received.raw, "ReceiptHandle": ""}
