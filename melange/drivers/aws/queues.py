"""Queues: created, reconciled with what the caller named, bound, found by name or ARN."""

# MERGED DOCS: A caller's spec as the SQS attributes that have to change. Pure: dictionaries in, dictionaries out.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from melange.drivers.aws.clients import BrokerCalls, Clients
from melange.drivers.aws.policy import Bindings
from melange.drivers.aws.wire import Arn, is_arn, parse_arn
from melange.drivers.base import NO_DEAD_LETTER_QUEUE
from melange.drivers.queue_spec import DEFAULT_MAX_RECEIVE_COUNT, QueueSpec
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_queue_name
from melange.errors import AccessDeniedError, ConfigurationError, QueueNotFoundError
from melange.messages import Queue

Attributes = dict[str, str]


def attributes_to_change(
    spec: QueueSpec, current: Attributes, dead_letter_arn: str | None, kms_master_key_id: str | None
) -> Attributes:
    """Return the attributes that differ from the ``current`` ones; {} stands for a queue to be made.

    ``dead_letter_arn`` is that of the dead-letter queue in the spec, if one is named.

    Raises:
        ConfigurationError: a receive count is named, and there is no dead-letter queue to go with it.
    """
    wanted: Attributes = {}
    if spec.retention_seconds is not None:
        wanted["MessageRetentionPeriod"] = str(spec.retention_seconds)
    if spec.content_based_deduplication is not None and spec.is_fifo:
        wanted["ContentBasedDeduplication"] = "true" if spec.content_based_deduplication else "false"
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
    policy = json.loads(text)
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])


def _redrive_policy(spec: QueueSpec, current_text: str | None, dead_letter_arn: str | None) -> str | None:
    """Return the redrive policy to set, ``""`` to take it off, None to leave it."""
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


logger = logging.getLogger(__name__)

DEFAULT_MAX_QUEUE_BYTES = 1_048_576
_LOOKS_AT_A_NEW_QUEUE = 5


class Queues:
    """Declares and finds queues. Thread-safe."""

    def __init__(
        self, calls: BrokerCalls, clients: Clients, bindings: Bindings, kms_master_key_id: str | None
    ) -> None:
        self._calls = calls
        self._clients = clients
        self._bindings = bindings
        self._kms_master_key_id = kms_master_key_id
        self.content_based: dict[str, bool] = {}
        """By address: whether the queue derives deduplication ids itself, as far as this driver knows."""

    def declare(self, spec: QueueSpec, tags: Mapping[str, str]) -> Queue:
        """See ``MessagingDriver.declare_queue``."""
        spec.check()
        name = spec.name
        dead_letter_arn = None
        if isinstance(spec.dead_letter_queue, Queue):
            dead_letter_arn = self.attributes(spec.dead_letter_queue, "QueueArn")["QueueArn"]
        address, attributes = self._find_or_create(spec, tags, dead_letter_arn)
        changes = attributes_to_change(spec, attributes, dead_letter_arn, self._kms_master_key_id)
        if changes:
            self._calls(
                self._clients.sqs.set_queue_attributes,
                "sqs:SetQueueAttributes",
                name,
                QueueUrl=address,
                Attributes=changes,
            )
        queue = self._queue(name, address, {**attributes, **changes})
        if spec.topics:
            arn = attributes["QueueArn"]
            self._bindings.let_in(
                queue, arn, spec.topics, lambda: self._attributes(name, address, "Policy").get("Policy")
            )
            for topic in spec.topics:
                self._bindings.subscribe(arn, topic, spec.event_filter)
        return queue

    def get(self, name: str) -> Queue:
        """See ``MessagingDriver.get_queue``."""
        if is_arn(name):
            arn = parse_arn(name, "sqs")
            region = self._clients.region_name
            if arn.region != region:
                raise ConfigurationError(
                    f"queue {name} is in another region than this driver's, {region}: pass region_name="
                )
            address = self._address(arn.name, arn.account)
            return self._queue(arn.name, address, self._attributes(arn.name, address))
        check_queue_name(name)
        address = self._address(name)
        return self._queue(name, address, self._attributes(name, address))

    def attributes(self, queue: Queue, *names: str) -> Attributes:
        """Return the queue's attributes of these names."""
        return self._attributes(queue.name, queue.address, *names)

    def delete(self, queue: Queue) -> None:
        """See ``BrokerAdministration.delete_queue``."""
        try:
            attributes = self.attributes(queue, "QueueArn", "Policy")
            self._bindings.unsubscribe_all(attributes["QueueArn"], attributes.get("Policy"))
            self._calls(self._clients.sqs.delete_queue, "sqs:DeleteQueue", queue.name, QueueUrl=queue.address)
        except QueueNotFoundError:
            return

    def _find_or_create(
        self, spec: QueueSpec, tags: Mapping[str, str], dead_letter_arn: str | None
    ) -> tuple[str, Attributes]:
        try:
            address = self._address(spec.name)
        except QueueNotFoundError:
            address = self._create(spec, tags, dead_letter_arn)
            return address, self._attributes_of_new(spec.name, address)
        if tags:
            self._calls(
                self._clients.sqs.tag_queue,
                "sqs:TagQueue",
                spec.name,
                QueueUrl=address,
                Tags=dict(tags),
            )
        return address, self._attributes(spec.name, address)

    def _create(self, spec: QueueSpec, tags: Mapping[str, str], dead_letter_arn: str | None) -> str:
        attributes = attributes_to_change(spec, {}, dead_letter_arn, self._kms_master_key_id)
        if spec.is_fifo:
            attributes["FifoQueue"] = "true"
        try:
            answer = self._calls(
                self._clients.sqs.create_queue,
                "sqs:CreateQueue",
                spec.name,
                QueueName=spec.name,
                Attributes=attributes,
                tags=dict(tags),
            )
        except ConfigurationError:
            # Refused for its attributes, or made by somebody else just now with others: then it is there.
            try:
                return self._address(spec.name)
            except QueueNotFoundError:
                pass
            raise
        return str(answer["QueueUrl"])

    def _attributes_of_new(self, name: str, address: str) -> Attributes:
        # SQS asks for a second of patience before a new queue answers everywhere.
        for attempt in range(1, _LOOKS_AT_A_NEW_QUEUE):
            try:
                return self._attributes(name, address)
            except QueueNotFoundError:
                self._calls.wait(attempt / 2)
        return self._attributes(name, address)

    def _address(self, name: str, account: str | None = None) -> str:
        owner: dict[str, Any] = {"QueueOwnerAWSAccountId": account} if account else {}
        answer = self._calls(
            self._clients.sqs.get_queue_url, "sqs:GetQueueUrl", name, QueueName=name, **owner
        )
        return str(answer["QueueUrl"])

    def _attributes(self, name: str, address: str, *names: str) -> Attributes:
        answer = self._calls(
            self._clients.sqs.get_queue_attributes,
            "sqs:GetQueueAttributes",
            name,
            QueueUrl=address,
            AttributeNames=list(names) or ["All"],
        )
        attributes: Attributes = answer.get("Attributes", {})
        return attributes

    def _queue(self, name: str, address: str, attributes: Attributes) -> Queue:
        self.content_based[address] = attributes.get("ContentBasedDeduplication") == "true"
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
        """Return the dead-letter queue, without following on to a dead-letter queue of its own."""
        # It lives in its source's account and region, so its address differs in the name alone.
        address = f"{source_address.rpartition('/')[0]}/{arn.name}"
        try:
            attributes = self._attributes(arn.name, address)
        except AccessDeniedError:
            # Sending to it is another permission: whoever lacks this one may well have that.
            attributes = {}
        except QueueNotFoundError:
            logger.warning("the dead-letter queue %s is gone: declare it again", arn)
            return None
        self.content_based[address] = attributes.get("ContentBasedDeduplication", "true") == "true"
        return Queue(arn.name, address, arn.name.endswith(FIFO_SUFFIX), _max_bytes(attributes))


def _max_bytes(attributes: Attributes) -> int:
    return int(attributes.get("MaximumMessageSize", DEFAULT_MAX_QUEUE_BYTES))
