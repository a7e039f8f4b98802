"""Queues: created, reconciled with the caller's options, bound, found by name, ARN or URL."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from melange.drivers.aws.addresses import Arn, is_arn, is_queue_url, parse_arn, queue_address, queue_place
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import (
    CREATE_QUEUE,
    DELETE_QUEUE,
    DEPTH_ATTRIBUTES,
    GET_QUEUE_ATTRIBUTES,
    GET_QUEUE_URL,
    LIST_QUEUES,
    MEASURE_QUEUE,
    SET_QUEUE_ATTRIBUTES,
    TAG_QUEUE,
    Attributes,
    Parameters,
)
from melange.drivers.aws.policies import allowed_topics
from melange.drivers.aws.subscriptions import SnsSubscriptions
from melange.drivers.base import NO_DEAD_LETTER_QUEUE, Binding, QueueDepth
from melange.drivers.queue_spec import DEFAULT_MAX_RECEIVE_COUNT, NamePrefix, QueueSpec
from melange.drivers.sqs_rules import FIFO_SUFFIX
from melange.errors import AccessDeniedError, ConfigurationError, QueueNotFoundError
from melange.messages import Queue, Topic

logger = logging.getLogger(__name__)

DEFAULT_MAX_QUEUE_BYTES = 1_048_576
_LOOKS_AT_A_NEW_QUEUE = 5


class SqsQueues:
    """Declares and finds queues. Thread-safe."""

    def __init__(
        self,
        calls: BrokerCalls,
        subscriptions: SnsSubscriptions,
        kms_master_key_id: str | None,
        prefix: NamePrefix,
    ) -> None:
        self._calls = calls
        self._prefix = prefix
        self._subscriptions = subscriptions
        self._kms_master_key_id = kms_master_key_id

    def declare(self, spec: QueueSpec, tags: Mapping[str, str]) -> Queue:
        """See ``AwsDriver.declare_queue``."""
        place = queue_place(self._prefix.add(spec.name), self._region)
        may_create = not (is_arn(spec.name) or is_queue_url(spec.name))
        spec = replace(spec, name=self._prefix.strip(place.name))
        spec.check()
        dead_letter_arn = None
        if isinstance(spec.dead_letter_queue, Queue):
            dead_letter_arn = self._attributes_of(spec.dead_letter_queue, "QueueArn")["QueueArn"]
        try:
            address = self._find(place.name, place.account)
        except QueueNotFoundError:
            if not may_create:
                raise
            address = self._create(spec, tags, dead_letter_arn)
            attributes = self._attributes_of_new(spec.name, address)
        else:
            if tags:
                self._calls(TAG_QUEUE, spec.name, QueueUrl=address, Tags=dict(tags))
            attributes = self.attributes(spec.name, address)
        changes = attributes_to_change(spec, attributes, dead_letter_arn, self._kms_master_key_id)
        if changes:
            self._calls(SET_QUEUE_ATTRIBUTES, spec.name, QueueUrl=address, Attributes=changes)
        queue = self._queue(spec.name, address, {**attributes, **changes})
        if spec.topics:
            self._bind(queue, attributes["QueueArn"], spec)
        return queue

    def get(self, name: str) -> Queue:
        """See ``MessagingDriver.get_queue``."""
        place = queue_place(self._prefix.add(name), self._region)
        address = self._find(place.name, place.account)
        return self._queue(self._prefix.strip(place.name), address, self.attributes(place.name, address))

    def address_of(self, name: str) -> str:
        """Return the address of an existing queue, by name, ARN or URL.

        Raises:
            QueueNotFoundError: the queue does not exist.
        """
        place = queue_place(self._prefix.add(name), self._region)
        return self._find(place.name, place.account)

    def addresses(self) -> Iterator[str]:
        """Yield the addresses of the queues with the driver's prefix; some may have been deleted meanwhile."""
        named: Parameters = {"QueueNamePrefix": self._prefix.text} if self._prefix.text else {}
        for url in self._calls.listed(LIST_QUEUES, "the queues", "QueueUrls", MaxResults=1_000, **named):
            yield queue_address(url, self._region)

    def bindings(self, queue: Queue) -> list[Binding]:
        """See ``BrokerAdministration.list_bindings``."""
        attributes = self._attributes_of(queue, "QueueArn", "Policy")
        return self._subscriptions.list(attributes["QueueArn"], self._topics_let_in(attributes))

    def measure(self, queue: Queue) -> QueueDepth:
        """See ``BrokerAdministration.measure_queue``."""
        counts = self._calls(
            MEASURE_QUEUE, queue.name, QueueUrl=queue.address, AttributeNames=list(DEPTH_ATTRIBUTES)
        )
        return QueueDepth(*counts)

    def name_of(self, address: str) -> str:
        """Return the name, without the prefix, of the queue with this URL or ARN."""
        return self._prefix.strip(address.replace(":", "/").rpartition("/")[2])

    def arn_of(self, queue: Queue) -> str:
        """Return the ARN of the queue."""
        return self._attributes_of(queue, "QueueArn")["QueueArn"]

    def delete(self, queue: Queue) -> None:
        """See ``BrokerAdministration.delete_queue``."""
        try:
            attributes = self._attributes_of(queue, "QueueArn", "Policy")
            self._subscriptions.unsubscribe(attributes["QueueArn"], self._topics_let_in(attributes))
            self._calls(DELETE_QUEUE, queue.name, QueueUrl=queue.address)
        except QueueNotFoundError:
            return

    @property
    def _region(self) -> str:
        return self._calls.clients.region_name

    def _find(self, name: str, account: str | None = None) -> str:
        owner: dict[str, Any] = {"QueueOwnerAWSAccountId": account} if account else {}
        return queue_address(self._calls(GET_QUEUE_URL, name, QueueName=name, **owner), self._region)

    def _create(self, spec: QueueSpec, tags: Mapping[str, str], dead_letter_arn: str | None) -> str:
        attributes = attributes_to_change(spec, {}, dead_letter_arn, self._kms_master_key_id)
        if spec.is_fifo:
            attributes["FifoQueue"] = "true"
        name = self._prefix.add(spec.name)
        try:
            url = self._calls(CREATE_QUEUE, name, QueueName=name, Attributes=attributes, tags=dict(tags))
        except ConfigurationError as refused:
            # Refused for its attributes, or created by another process just now with others: then it exists.
            try:
                return self._find(name)
            except QueueNotFoundError:
                raise refused from refused.__cause__
        return queue_address(url, self._region)

    def _attributes_of_new(self, name: str, address: str) -> Attributes:
        # A new queue takes a second before it answers everywhere.
        for attempt in range(1, _LOOKS_AT_A_NEW_QUEUE):
            try:
                return self.attributes(name, address)
            except QueueNotFoundError:
                self._calls.wait(attempt / 2)
        return self.attributes(name, address)

    def _attributes_of(self, queue: Queue, *names: str) -> Attributes:
        return self.attributes(queue.name, queue.address, *names)

    def attributes(self, name: str, address: str, *names: str) -> Attributes:
        """Return these attributes of a queue; without names, all."""
        attributes: Attributes = self._calls(
            GET_QUEUE_ATTRIBUTES, name, QueueUrl=address, AttributeNames=list(names) or ["All"]
        )
        return attributes

    def _bind(self, queue: Queue, queue_arn: str, spec: QueueSpec) -> None:
        def read_policy() -> str | None:
            return self._attributes_of(queue, "Policy").get("Policy")

        self._subscriptions.let_in(queue, queue_arn, spec.topics, read_policy)
        for topic in spec.topics:
            self._subscriptions.subscribe(queue_arn, topic, spec.event_filter)

    def _queue(self, name: str, address: str, attributes: Attributes) -> Queue:
        dead_letter_arn, max_receive_count = parse_redrive_policy(attributes.get("RedrivePolicy"))
        dead_letter_queue = (
            self._dead_letter_queue(parse_arn(dead_letter_arn, "sqs"), address) if dead_letter_arn else None
        )
        return Queue(
            name=name,
            address=address,
            is_fifo=name.endswith(FIFO_SUFFIX),
            max_message_bytes=_max_bytes(attributes),
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count if dead_letter_queue else None,
        )

    def _dead_letter_queue(self, arn: Arn, source_address: str) -> Queue | None:
        """Return the dead-letter queue, without its own dead-letter queue."""
        # It is in the account and region of its source, so only the name in its address differs.
        address = f"{source_address.rpartition('/')[0]}/{arn.name}"
        try:
            attributes = self.attributes(arn.name, address)
        except AccessDeniedError:
            # Sending to it is another permission: a role may have that one and not this one.
            attributes = {}
        except QueueNotFoundError:
            logger.warning("the dead-letter queue %s does not exist: declare it again", arn)
            return None
        name = self._prefix.strip(arn.name)
        return Queue(name, address, name.endswith(FIFO_SUFFIX), _max_bytes(attributes))

    def _topics_let_in(self, attributes: Attributes) -> list[Topic]:
        arns = allowed_topics(attributes.get("Policy"))
        return [
            Topic(self._prefix.strip(arn.rpartition(":")[2]), arn, arn.endswith(FIFO_SUFFIX)) for arn in arns
        ]


def attributes_to_change(
    spec: QueueSpec, current: Attributes, dead_letter_arn: str | None, kms_master_key_id: str | None
) -> Attributes:
    """Return the attributes that differ from the ``current`` ones; {} stands for a new queue.

    ``dead_letter_arn`` is that of the dead-letter queue in the specification, if it has one.

    Raises:
        ConfigurationError: a receive count is given without a dead-letter queue.
    """
    wanted: Attributes = {}
    if spec.retention_seconds is not None:
        wanted["MessageRetentionPeriod"] = str(spec.retention_seconds)
    if kms_master_key_id:
        wanted["KmsMasterKeyId"] = kms_master_key_id
    redrive = _redrive_policy(spec, current.get("RedrivePolicy"), dead_letter_arn)
    if redrive is not None:
        wanted["RedrivePolicy"] = redrive
    return {name: value for name, value in wanted.items() if current.get(name, "") != value}


def parse_redrive_policy(text: str | None) -> tuple[str | None, int | None]:
    """Return the ARN of the dead-letter queue and the receive count at which messages go there."""
    if not text:
        return None, None
    policy: dict[str, Any] = json.loads(text)
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])


def _redrive_policy(spec: QueueSpec, current_text: str | None, dead_letter_arn: str | None) -> str | None:
    """Return the redrive policy to set, ``""`` to remove it, None to leave it."""
    if spec.dead_letter_queue is NO_DEAD_LETTER_QUEUE:
        return ""
    current_arn, current_count = parse_redrive_policy(current_text)
    target = current_arn if spec.dead_letter_queue is None else dead_letter_arn
    if target is None:
        if spec.max_receive_count is None:
            return None
        raise ConfigurationError(
            f"queue {spec.name!r} has no dead-letter queue: max_receive_count= needs dead_letter_queue="
        )
    count = spec.max_receive_count or current_count or DEFAULT_MAX_RECEIVE_COUNT
    if (target, count) == (current_arn, current_count):
        return None
    return json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": str(count)})


def _max_bytes(attributes: Attributes) -> int:
    return int(attributes.get("MaximumMessageSize", DEFAULT_MAX_QUEUE_BYTES))
