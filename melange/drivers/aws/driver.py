"""The driver for Amazon SNS and SQS: topics are SNS topics, queues are SQS queues, bindings are subscriptions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, get_args

import boto3
from botocore.config import Config

from melange.clock import Clock, SystemClock
from melange.drivers.aws import batches, operations
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.clients import DEFAULT_CALL_TIMEOUT_SECONDS, Clients
from melange.drivers.aws.operations import Entry
from melange.drivers.aws.queues import SqsQueues
from melange.drivers.aws.subscriptions import SnsSubscriptions
from melange.drivers.aws.topics import SnsTopics
from melange.drivers.aws.transport import TransportName
from melange.drivers.aws.wire import Received, publish_entry, send_entry
from melange.drivers.base import (
    Binding,
    BrokerAdministration,
    Capabilities,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    QueueDepth,
)
from melange.drivers.queue_spec import NamePrefix, QueueSpec
from melange.drivers.sqs_rules import (
    MAX_VISIBILITY_SECONDS,
    SQS_CAPABILITIES,
    check_delay,
    check_message,
    check_receive,
    check_whole_seconds,
)
from melange.errors import ConfigurationError, Failure, InvalidMessageError
from melange.messages import Delivery, Message, Queue, Topic

if TYPE_CHECKING:
    from melange.drivers.aws.dead_letters import SqsDeadLetters
    from melange.drivers.aws.inspection import AwsAccount
    from melange.drivers.inspection import BrokerInspection

_ON_THE_WAY_SECONDS = 10
"""A call late in a lease may arrive at SQS this much later."""


class AwsDriver(MessagingDriver, BrokerAdministration):
    """SNS and SQS through boto3; safe to share between threads, and usable in a process that was forked.

    boto3 finds credentials, region and endpoints as usual; creating the driver makes no calls to SNS and SQS.
    Throttled and failed calls are retried with growing pauses and jitter, then raise ``DriverConnectionError``. A
    forked process builds its own clients at its first call.

    Args:
        session: the boto3 session of the clients.
        region_name: instead of the session's, ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the profile's.
        endpoint_url: another SNS and SQS, such as a local server.
        config: botocore settings, merged over melange's own. Its timeouts and number of attempts apply to each
            attempt within ``call_timeout_seconds``; a long poll reads for 30 s, or longer if ``config`` says so.
        prefix: stands before the names of topics and queues, such as ``staging-``; ARNs and URLs are left alone.
        kms_master_key_id: the customer key with which declared topics and queues are encrypted. Its
            policy must let ``sns.amazonaws.com`` use ``kms:GenerateDataKey*`` and ``kms:Decrypt``.
        call_timeout_seconds: the limit of one call to SNS or SQS, including its retries; a ``publish`` or ``send``
            makes one call for each ten messages. A receive takes its wait in addition.
        clock: the clock of deadlines and of waits between attempts.
        transport: how messages travel. ``"direct"`` writes and signs the requests itself, at a fraction of botocore's CPU
            time; ``"botocore"`` calls boto3's clients; ``"auto"`` is direct unless something hooks into botocore (moto,
            ``Stubber``, tracing, an event handler), which then sees every call. Other calls go through boto3.

    Raises:
        ConfigurationError: no region, no such profile, an unusable endpoint or configuration.
        AccessDeniedError: the provider of the credentials failed; another try may succeed.
    """

    def __init__(
        self,
        *,
        session: boto3.Session | None = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        config: Config | None = None,
        prefix: str = "",
        kms_master_key_id: str | None = None,
        call_timeout_seconds: float = DEFAULT_CALL_TIMEOUT_SECONDS,
        clock: Clock | None = None,
        transport: TransportName = "auto",
    ) -> None:
        if transport not in get_args(TransportName):
            raise ConfigurationError(f"transport must be 'auto', 'botocore' or 'direct', not {transport!r}")
        if isinstance(call_timeout_seconds, bool) or not 0 < call_timeout_seconds < math.inf:
            raise ConfigurationError(
                f"call_timeout_seconds must be a number above 0, not {call_timeout_seconds!r}"
            )
        self.clock = clock or SystemClock()
        clients = Clients(
            session, region_name, endpoint_url, config, call_timeout_seconds, transport=transport
        )
        self._calls = BrokerCalls(clients, self.clock, call_timeout_seconds)
        self.prefix = prefix
        self._names = NamePrefix(prefix)
        self._subscriptions = SnsSubscriptions(self._calls)
        self._topics = SnsTopics(self._calls, kms_master_key_id, self._names)
        self._queues = SqsQueues(self._calls, self._subscriptions, kms_master_key_id, self._names)

    @property
    def capabilities(self) -> Capabilities:
        return SQS_CAPABILITIES

    @property
    def broker(self) -> Hashable:
        """What tells its SNS and SQS from those of other drivers: region, endpoint, and the session if one was given."""
        return self._calls.clients.identity

    @property
    def dead_letter_access(self) -> SqsDeadLetters:
        """The administration of dead letters; see ``melange.drivers.dead_letters``."""
        from melange.drivers.aws.dead_letters import SqsDeadLetters  # noqa: PLC0415 - see inspection

        return SqsDeadLetters(self._calls, self._queues)

    def declare_topic(self, name: str, *, tags: Mapping[str, str] | None = None) -> Topic:
        return self._topics.declare(name, tags)

    def declare_queue(
        self,
        name: str,
        *topics: Topic,
        dead_letter_queue: Queue | NoDeadLetterQueue | None = None,
        max_receive_count: int | None = None,
        retention_seconds: int | None = None,
        event_filter: EventFilter | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Queue:
        """Return the queue ``name``; see ``MessagingDriver.declare_queue``.

        A queue given by ARN or URL must exist; its settings and bindings are declared like those of any other. A changed
        filter takes up to 15 minutes to apply everywhere on AWS. The name of a queue deleted less than a minute ago is
        not free yet: that raises ``DriverConnectionError``; try again later.
        """
        spec = QueueSpec(
            name=name,
            topics=topics,
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count,
            retention_seconds=retention_seconds,
            event_filter=event_filter,
        )
        return self._queues.declare(spec, tags or {})

    def get_topic(self, name: str) -> Topic:
        return self._topics.get(name)

    def get_queue(self, name: str) -> Queue:
        """Return an existing queue, by name, ARN or URL; see ``MessagingDriver.get_queue``."""
        return self._queues.get(name)

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        """Publish messages to a topic; see ``MessagingDriver.publish``.

        If the broker becomes unavailable, the remaining messages are reported as failed without a try.
        """
        self._calls.check_open()
        for message in messages:
            check_message(message, max_bytes=topic.max_message_bytes, is_fifo=topic.is_fifo)
        return batches.send(
            self._calls, operations.PUBLISH, topic, messages, publish_entry, size_of=batches.size_at_most
        )

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        self._calls.check_open()
        check_delay(queue, delay_seconds)
        for message in messages:
            check_message(message, max_bytes=queue.max_message_bytes, is_fifo=queue.is_fifo)
        entry_of = partial(send_entry, delay_seconds=delay_seconds)
        return batches.send(
            self._calls, operations.SEND, queue, messages, entry_of, size_of=batches.size_at_most
        )

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        check_receive(limit, wait_seconds, visibility_timeout_seconds)
        return batches.receive(
            self._calls, queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        self._calls.check_open()
        return batches.settle(self._calls, operations.DELETE, deliveries, _handle_of)

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        """Make the deliveries visible again after ``seconds``; see ``MessagingDriver.defer``.

        SQS keeps a message invisible for at most twelve hours, counted from its receive: a longer delay ends there.
        """
        self._calls.check_open()
        check_whole_seconds("seconds", seconds, 0, MAX_VISIBILITY_SECONDS)

        def entry_of(delivery: Delivery) -> Entry:
            return {**_handle_of(delivery), "VisibilityTimeout": min(seconds, self._seconds_left(delivery))}

        return batches.settle(self._calls, operations.CHANGE_VISIBILITY, deliveries, entry_of)

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        """Send a copy of the message to the dead-letter queue; see ``MessagingDriver.dead_letter``.

        The body is sent as received, with its SNS envelope if it had one. Attributes keep their types, and the trace
        header is kept. If the limits leave too little space, the note is shortened, then left out; the last resort is
        exactly what was received.
        """
        queue = delivery.queue.dead_letter_queue
        if queue is None or not isinstance(delivery.received, Received):
            super().dead_letter(delivery, note)
            return
        from melange.drivers.aws.dead_letters import copies_of  # noqa: PLC0415 - see inspection

        *larger, bare = copies_of(delivery, delivery.received, queue, note)
        for copy in larger:
            try:
                self._calls(operations.SEND_COPY, queue.name, QueueUrl=queue.address, **copy)
            except InvalidMessageError:
                continue
            return
        self._calls(operations.SEND_COPY, queue.name, QueueUrl=queue.address, **bare)

    def list_bindings(self, queue: Queue) -> list[Binding]:
        """Return the bindings of the queue; see ``BrokerAdministration.list_bindings``.

        Checks the topics that the queue's policy allows. Needs ``sns:ListSubscriptionsByTopic`` on them and
        ``sns:GetSubscriptionAttributes``.
        """
        return self._queues.bindings(queue)

    def inspection(self) -> BrokerInspection:
        """Return an inspection of SNS and SQS, for ``melange.topology``; docs/topology.md lists its permissions."""
        # Few programs inspect, and all that use this driver import this module.
        from melange.drivers.aws.inspection import AwsInspection  # noqa: PLC0415

        return AwsInspection(self._calls, self._topics, self._queues, self._subscriptions, self._names)

    def account(self) -> AwsAccount:
        """Return a view of all topics and queues with the driver's prefix, for ``melange.console``."""
        from melange.drivers.aws.inspection import AwsAccount  # noqa: PLC0415 - as above

        return AwsAccount(self, self._calls, self._queues)

    def measure_queue(self, queue: Queue) -> QueueDepth:
        return self._queues.measure(queue)

    def purge_queue(self, queue: Queue) -> None:
        """Remove all messages of a queue; AWS takes up to a minute and allows one purge a minute."""
        self._calls(operations.PURGE_QUEUE, queue.name, QueueUrl=queue.address)

    def delete_queue(self, queue: Queue) -> None:
        self._queues.delete(queue)

    def delete_topic(self, topic: Topic) -> None:
        self._topics.delete(topic)

    def close(self) -> None:
        """Release connections. Idempotent. A waiting receive ends with its wait."""
        self._calls.close()

    def _seconds_left(self, delivery: Delivery) -> int:
        if not isinstance(delivery.received, Received):
            return MAX_VISIBILITY_SECONDS
        elapsed = math.ceil(self.clock.monotonic() - delivery.received.asked_at)
        return max(0, MAX_VISIBILITY_SECONDS - elapsed - _ON_THE_WAY_SECONDS)


def _handle_of(delivery: Delivery) -> Entry:
    return {"ReceiptHandle": delivery.receipt_handle}
