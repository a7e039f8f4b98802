"""The topology as a CloudFormation template."""

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
from melange.topology.terraform import DAYS_OF_UPLOADS, PAYLOAD_RULE

_OWN_ACCOUNT = {"Ref": "AWS::AccountId"}

Resource = dict[str, Any]


def to_cloudformation(topology: Topology, key: str | None = None) -> dict[str, Any]:
    """Return a template. Topics and queues given by their address are not in it.

    ``key`` is the customer key that encrypts topics and queues.

    Raises:
        ConfigurationError: two names are the same as logical ids of CloudFormation.
    """
    resources: dict[str, Resource] = {}
    for topic in topology.topics:
        if not is_address(topic.name):
            _add(resources, _topic_id(topic.name), _topic(topology, topic, key))
    for queue in topology.queues:
        if is_address(queue.name):
            continue
        _add(resources, _queue_id(queue.name), _queue(topology, queue, key))
        sources = topology.senders(queue)
        if sources:
            _add(resources, _policy_id(queue.name), _policy(queue, sources))
        for binding in queue.bindings:
            subscription = _subscription(queue, binding)
            _add(resources, _logical_id("Binding", binding.topic, "to", queue.name), subscription)
    for payloads in topology.payloads:
        _add(resources, *_bucket(payloads))
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Topics and queues of {topology.name}",
        "Resources": resources,
    }


def _add(resources: dict[str, Resource], name: str, resource: Resource) -> None:
    if name in resources:
        raise ConfigurationError(
            f"two names of the topology become {name} in CloudFormation, which takes letters and digits: rename one of them"
        )
    resources[name] = resource


def _topic(topology: Topology, topic: DeclaredTopic, key: str | None) -> Resource:
    properties: dict[str, Any] = {"TopicName": topology.broker_name(topic.name)}
    if is_fifo(topic.name):
        properties["FifoTopic"] = True
    if key:
        properties["KmsMasterKeyId"] = key
    return {"Type": "AWS::SNS::Topic", "Properties": properties}


def _queue(topology: Topology, queue: DeclaredQueue, key: str | None) -> Resource:
    tags = {**queue.tags, TOPOLOGY_TAG: topology.name}
    properties: dict[str, Any] = {
        "QueueName": topology.broker_name(queue.name),
        "Tags": [{"Key": name, "Value": value} for name, value in sorted(tags.items())],
    }
    if is_fifo(queue.name):
        properties["FifoQueue"] = True
    if queue.retention_seconds is not None:
        properties["MessageRetentionPeriod"] = queue.retention_seconds
    if queue.dead_letter_queue is not None:
        properties["RedrivePolicy"] = {
            "deadLetterTargetArn": _queue_arn(queue.dead_letter_queue),
            "maxReceiveCount": queue.max_receive_count,
        }
    if key:
        properties["KmsMasterKeyId"] = key
    # A stack that is deleted, or a queue that is renamed, must not take messages with it.
    return {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": properties,
    }


def _policy(queue: DeclaredQueue, sources: list[str]) -> Resource:
    accounts: list[Any] = sorted({name.split(":")[4] for name in sources if is_address(name)})
    if not all(map(is_address, sources)):
        accounts.append(_OWN_ACCOUNT)
    statement = topics_statement(_queue_arn(queue.name), [_topic_arn(name) for name in sources], accounts)
    return {
        "Type": "AWS::SQS::QueuePolicy",
        "Properties": {
            "Queues": [{"Ref": _queue_id(queue.name)}],
            "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        },
    }


def _subscription(queue: DeclaredQueue, binding: DeclaredBinding) -> Resource:
    properties: dict[str, Any] = {
        "TopicArn": _topic_arn(binding.topic),
        "Protocol": "sqs",
        "Endpoint": _queue_arn(queue.name),
        "RawMessageDelivery": True,
    }
    if binding.event_filter is not None and binding.event_filter.event_type_names:
        attributes = filter_attributes(binding.event_filter)
        properties["FilterPolicy"] = json.loads(attributes["FilterPolicy"])
        properties["FilterPolicyScope"] = attributes["FilterPolicyScope"]
    if queue.dead_letter_queue is not None:
        properties["RedrivePolicy"] = {"deadLetterTargetArn": _queue_arn(queue.dead_letter_queue)}
    policies = [queue.name, queue.dead_letter_queue] if queue.dead_letter_queue else [queue.name]
    return {
        "Type": "AWS::SNS::Subscription",
        # SNS confirms a subscription at once only if the queue lets the topic in.
        "DependsOn": [_policy_id(name) for name in policies if not is_address(name)],
        "Properties": properties,
    }


def _bucket(payloads: DeclaredPayloads) -> tuple[str, dict[str, Any]]:
    """Return the logical id of the bucket of large events, and its resource."""
    rule = {
        "Id": PAYLOAD_RULE,
        "Status": "Enabled",
        "Prefix": payloads.prefix,
        "ExpirationInDays": payloads.days,
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAYS_OF_UPLOADS},
    }
    return _logical_id("Payloads", payloads.bucket), {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {"BucketName": payloads.bucket, "LifecycleConfiguration": {"Rules": [rule]}},
    }


def _topic_id(name: str) -> str:
    return _logical_id("Topic", name)


def _queue_id(name: str) -> str:
    return _logical_id("Queue", name)


def _policy_id(name: str) -> str:
    return _logical_id("Policy", name)


def _topic_arn(name: str) -> Any:
    return name if is_address(name) else {"Ref": _topic_id(name)}


def _queue_arn(name: str) -> Any:
    return name if is_address(name) else {"Fn::GetAtt": [_queue_id(name), "Arn"]}


def _logical_id(kind: str, *names: str) -> str:
    """Return the name as a logical id of CloudFormation: letters and digits."""
    words = re.findall(r"[A-Za-z0-9]+", " ".join(map(plain_name, names)))
    return kind + "".join(word[:1].upper() + word[1:] for word in words)
