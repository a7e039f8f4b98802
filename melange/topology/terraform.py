"""The topology as Terraform's JSON, for the provider hashicorp/aws."""

from __future__ import annotations

import json
import re
from typing import Any

from melange.drivers.aws.policies import topics_statement
from melange.drivers.aws.subscriptions import filter_attributes
from melange.errors import ConfigurationError
from melange.topology.model import (
    TOPOLOGY_TAG,
    DeclaredBinding,
    DeclaredPayloads,
    DeclaredQueue,
    DeclaredTopic,
    Topology,
    is_address,
    is_fifo,
    plain_name,
)

PAYLOAD_RULE = "delete-old-payloads"
"""The lifecycle rule that deletes the payloads of large events from their bucket."""

DAYS_OF_UPLOADS = 1
"""How long the bucket of large events keeps uploads that were never finished."""

_OWN_ACCOUNT = "${data.aws_caller_identity.current.account_id}"

Resources = dict[str, dict[str, dict[str, Any]]]


def to_terraform(topology: Topology, key: str | None = None) -> dict[str, Any]:
    """Return a ``*.tf.json`` document. Topics and queues given by their address are not in it.

    ``key`` is the customer key that encrypts topics and queues.

    Raises:
        ConfigurationError: two names are the same as identifiers of Terraform.
    """
    resources: Resources = {}
    for topic in topology.topics:
        if not is_address(topic.name):
            _add(resources, "aws_sns_topic", topic.name, _topic(topology, topic, key))
    for queue in topology.queues:
        if is_address(queue.name):
            continue
        _add(resources, "aws_sqs_queue", queue.name, _queue(topology, queue, key))
        if queue.dead_letter_queue is not None:
            _add(resources, "aws_sqs_queue_redrive_policy", queue.name, _redrive(queue))
        sources = topology.senders(queue)
        if sources:
            _add(resources, "aws_sqs_queue_policy", queue.name, _policy(queue, sources))
        for binding in queue.bindings:
            name = f"{_identifier(binding.topic)}_to_{_identifier(queue.name)}"
            _add(resources, "aws_sns_topic_subscription", name, _subscription(queue, binding))
    for payloads in topology.payloads:
        for kind, arguments in _bucket(payloads).items():
            _add(resources, kind, payloads.bucket, arguments)
    return {
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws", "version": ">= 5.0"}}},
        "data": {"aws_caller_identity": {"current": {}}},
        "resource": resources,
    }


def _add(resources: Resources, kind: str, name: str, arguments: dict[str, Any]) -> None:
    own = resources.setdefault(kind, {})
    if _identifier(name) in own:
        raise ConfigurationError(
            f"two names of the topology become {kind}.{_identifier(name)} in Terraform: rename one of them"
        )
    own[_identifier(name)] = arguments


def _topic(topology: Topology, topic: DeclaredTopic, key: str | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {"name": topology.broker_name(topic.name)}
    if is_fifo(topic.name):
        arguments["fifo_topic"] = True
    if key:
        arguments["kms_master_key_id"] = key
    return arguments


def _queue(topology: Topology, queue: DeclaredQueue, key: str | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "name": topology.broker_name(queue.name),
        "tags": {**queue.tags, TOPOLOGY_TAG: topology.name},
    }
    if is_fifo(queue.name):
        arguments["fifo_queue"] = True
    if queue.retention_seconds is not None:
        arguments["message_retention_seconds"] = queue.retention_seconds
    if key:
        arguments["kms_master_key_id"] = key
    return arguments


def _redrive(queue: DeclaredQueue) -> dict[str, Any]:
    assert queue.dead_letter_queue is not None
    policy = {
        "deadLetterTargetArn": _queue_arn(queue.dead_letter_queue),
        "maxReceiveCount": queue.max_receive_count,
    }
    return {"queue_url": _attribute("aws_sqs_queue", queue.name, "id"), "redrive_policy": json.dumps(policy)}


def _policy(queue: DeclaredQueue, sources: list[str]) -> dict[str, Any]:
    arns = [_topic_arn(name) for name in sources]
    accounts = [arn.split(":")[4] if is_address(arn) else _OWN_ACCOUNT for arn in arns]
    statement = topics_statement(_queue_arn(queue.name), arns, sorted(set(accounts)))
    return {
        "queue_url": _attribute("aws_sqs_queue", queue.name, "id"),
        "policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    }


def _subscription(queue: DeclaredQueue, binding: DeclaredBinding) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "topic_arn": _topic_arn(binding.topic),
        "protocol": "sqs",
        "endpoint": _queue_arn(queue.name),
        "raw_message_delivery": True,
    }
    if binding.event_filter is not None and binding.event_filter.event_type_names:
        attributes = filter_attributes(binding.event_filter)
        arguments["filter_policy"] = attributes["FilterPolicy"]
        arguments["filter_policy_scope"] = attributes["FilterPolicyScope"]
    if queue.dead_letter_queue is not None:
        arguments["redrive_policy"] = json.dumps({"deadLetterTargetArn": _queue_arn(queue.dead_letter_queue)})
    # SNS confirms a subscription at once only if the queue lets the topic in.
    policies = [queue.name, queue.dead_letter_queue] if queue.dead_letter_queue else [queue.name]
    arguments["depends_on"] = [
        f"aws_sqs_queue_policy.{_identifier(name)}" for name in policies if name and not is_address(name)
    ]
    return arguments


def _bucket(payloads: DeclaredPayloads) -> dict[str, dict[str, Any]]:
    """Return the resources of the bucket of large events by their kind."""
    name = _identifier(payloads.bucket)
    rule = {
        "id": PAYLOAD_RULE,
        "status": "Enabled",
        "filter": {"prefix": payloads.prefix},
        "expiration": {"days": payloads.days},
        "abort_incomplete_multipart_upload": {"days_after_initiation": DAYS_OF_UPLOADS},
    }
    return {
        "aws_s3_bucket": {"bucket": payloads.bucket},
        "aws_s3_bucket_lifecycle_configuration": {
            "bucket": f"${{aws_s3_bucket.{name}.id}}",
            "rule": [rule],
        },
    }


def _topic_arn(name: str) -> str:
    return name if is_address(name) else _attribute("aws_sns_topic", name, "arn")


def _queue_arn(name: str) -> str:
    return name if is_address(name) else _attribute("aws_sqs_queue", name, "arn")


def _attribute(kind: str, name: str, attribute: str) -> str:
    return f"${{{kind}.{_identifier(name)}.{attribute}}}"


def _identifier(name: str) -> str:
    """Return the name as an identifier of Terraform."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", plain_name(name))
    return found if not found[:1].isdigit() else f"_{found}"
