"""The driver for Amazon SNS and SQS: topics are SNS topics, queues SQS queues, bindings subscriptions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config

from melange.clock import Clock, SystemClock
from melange.drivers.aws.batches import Sender, Settler
from melange.drivers.aws.clients import BrokerCalls, build_clients
from melange.drivers.aws.policy import Bindings
from melange.drivers.aws.queues import Queues
from melange.drivers.aws.topics import Topics
from melange.drivers.aws.wire import delivery_from
from melange.drivers.base import (
    BrokerAdministration,
    Capabilities,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    QueueDepth,
)
from melange.drivers.queue_spec import QueueSpec
from melange.drivers.sqs_rules import (
    MAX_BATCH,
    MAX_DELAY_SECONDS,
    MAX_VISIBILITY_SECONDS,
    MAX_WAIT_SECONDS,
    check_whole_seconds,
)
from melange.errors import ConfigurationError, Failure
from melange.messages import Delivery, Message, Queue, Topic

_CAPABILITIES = Capabilities(
    fifo=True,
    content_based_deduplication=True,
    dead_letter_queues=True,
    event_filters=True,
    detects_stale_handles=False,  # standard queues accept them without a word
    max_delay_seconds=MAX_DELAY_SECONDS,
    max_visibility_seconds=MAX_VISIBILITY_SECONDS,
    max_wait_seconds=MAX_WAIT_SECONDS,
    max_receive_batch=MAX_BATCH,
    max_message_bytes=1_048_576,
)


class AwsDriver(MessagingDriver, BrokerAdministration):
    """SNS and SQS through boto3; safe to share between threads, not across a fork.

    Credentials, region and endpoints are found as boto3 finds them; nothing is called until a method is.
    What AWS throttles and what the network drops is tried again for some seconds, with growing, jittered
    pauses, before a ``DriverConnectionError`` says so.

    Args:
        session: a session to build the clients from; not used afterwards.
        region_name: instead of ``AWS_REGION`` or the profile's.
        endpoint_url: another SNS and SQS, such as a local server.
        config: botocore settings, merged over melange's own.
        kms_master_key_id: the customer key with which declared topics and queues are encrypted. Its
            policy must let ``sns.amazonaws.com`` use ``kms:GenerateDataKey*`` and ``kms:Decrypt``.
        clock: counts the deadlines of deliveries and waits between attempts.

    Raises:
        ConfigurationError: no region, no such profile, an unusable endpoint or configuration.
    """

    def __init__(
        self,
        *,
        session: boto3.Session | None = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        config: Config | None = None,
        kms_master_key_id: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self._clients = build_clients(session, region_name, endpoint_url, config)
        self._calls = BrokerCalls(self.clock)
        self._topics = Topics(self._calls, self._clients, kms_master_key_id)
        bindings = Bindings(self._calls, self._clients)
        self._queues = Queues(self._calls, self._clients, bindings, kms_master_key_id)
        self._sender = Sender(self._calls, self._clients)
        self._settler = Settler(self._calls, self._clients, self.clock)

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    def declare_topic(
        self,
        name: str,
        *,
        content_based_deduplication: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Topic:
        return self._topics.declare(name, content_based_deduplication=content_based_deduplication, tags=tags)

    def declare_queue(
        self,
        name: str,
        *topics: Topic,
        dead_letter_queue: Queue | NoDeadLetterQueue | None = None,
        max_receive_count: int | None = None,
        retention_seconds: int | None = None,
        event_filter: EventFilter | None = None,
        content_based_deduplication: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Queue:
        """Return the queue ``name``; see ``MessagingDriver.declare_queue``.

        A changed filter takes up to 15 minutes to apply everywhere on AWS. The name of a queue deleted
        less than a minute ago is not free yet: that raises ``DriverConnectionError``, worth a later try.
        """
        spec = QueueSpec(
            name,
            topics,
            dead_letter_queue,
            max_receive_count,
            retention_seconds,
            event_filter,
            content_based_deduplication,
        )
        return self._queues.declare(spec, tags or {})

    def get_topic(self, name: str) -> Topic:
        return self._topics.get(name)

    def get_queue(self, name: str) -> Queue:
        return self._queues.get(name)

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        """Hand messages to a topic; see ``MessagingDriver.publish``.

        Once the broker is out of reach the remaining messages are not tried, and reported as failed.
        """
        content_based = self._topics.content_based.get(topic.address, True)
        return self._sender.publish(topic, messages, content_based_deduplication=content_based)

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        content_based = self._queues.content_based.get(queue.address, True)
        return self._sender.send(queue, messages, delay_seconds, content_based_deduplication=content_based)

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(f"limit must be a whole number of at least 1, not {limit!r}")
        check_whole_seconds("wait_seconds", wait_seconds, 0, MAX_WAIT_SECONDS)
        check_whole_seconds(
            "visibility_timeout_seconds", visibility_timeout_seconds, 0, MAX_VISIBILITY_SECONDS
        )
        system_attributes = ["ApproximateReceiveCount", "MessageGroupId"]
        parameters: dict[str, Any] = {}
        if queue.is_fifo:
            system_attributes.append("MessageDeduplicationId")
            # An answer that got lost is given again to whoever asks under the same id.
            parameters["ReceiveRequestAttemptId"] = str(uuid.uuid4())
        deadline = self.clock.monotonic() + visibility_timeout_seconds

        def receive(**asked: Any) -> dict[str, Any]:
            # Read within the call, so that an answer of the wrong shape counts as one that was garbled.
            answer = self._clients.sqs.receive_message(**asked)
            return {"deliveries": [delivery_from(raw, queue, deadline) for raw in answer.get("Messages", ())]}

        answer = self._calls(
            receive,
            "sqs:ReceiveMessage",
            queue.name,
            QueueUrl=queue.address,
            MaxNumberOfMessages=min(limit, MAX_BATCH),
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=visibility_timeout_seconds,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=system_attributes,
            **parameters,
        )
        deliveries: list[Delivery] = answer["deliveries"]
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        return self._settler.acknowledge(deliveries)

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        check_whole_seconds("seconds", seconds, 0, MAX_VISIBILITY_SECONDS)
        return self._settler.defer(deliveries, seconds)

    def measure_queue(self, queue: Queue) -> QueueDepth:
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        )
        attributes = self._queues.attributes(queue, *names)
        return QueueDepth(*(int(attributes[name]) for name in names))

    def purge_queue(self, queue: Queue) -> None:
        """Remove all messages of a queue; AWS takes up to a minute and allows one purge a minute."""
        self._calls(self._clients.sqs.purge_queue, "sqs:PurgeQueue", queue.name, QueueUrl=queue.address)

    def delete_queue(self, queue: Queue) -> None:
        self._queues.delete(queue)

    def delete_topic(self, topic: Topic) -> None:
        self._topics.delete(topic)

    def close(self) -> None:
        """Let go of connections; idempotent. A receive under way ends when its wait does."""
        if self._calls.close():
            self._clients.close()
