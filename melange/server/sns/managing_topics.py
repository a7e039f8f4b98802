"""Operations on topics: creating, changing and deleting them, their tags and their policies."""

from __future__ import annotations

import json
import re
from typing import Any

from melange.server.calls import Call, Parameters, page
from melange.server.errors import ServiceError, invalid_parameter
from melange.server.policies import is_well_formed, permission
from melange.server.sns.topics import (
    OWNER_ACTIONS,
    Topic,
    check_access,
    check_delivery_policy,
    check_topic_arn,
    find_topic,
    topic_arn,
)

PAGE_SIZE = 100

_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
_FIFO_NAME = re.compile(r"(?=.{6,256}\Z)[A-Za-z0-9_-]+\.fifo")
_FREE_TEXT = {"DisplayName", "KmsMasterKeyId"}
_DOCUMENTS = {"Policy", "DeliveryPolicy", "ArchivePolicy", "DataProtectionPolicy"}
_CHOICES = {
    "ContentBasedDeduplication": ("true", "false"),
    "FifoThroughputScope": ("Topic", "MessageGroup"),
    "SignatureVersion": ("1", "2"),
    "TracingConfig": ("PassThrough", "Active"),
}
_FIFO_ONLY = {"ContentBasedDeduplication", "FifoThroughputScope", "ArchivePolicy"}
_FEEDBACK = re.compile(
    r"(?:HTTP|Firehose|Lambda|Application|SQS)(?:SuccessFeedbackRoleArn|SuccessFeedbackSampleRate|FailureFeedbackRoleArn)"
)
_ACTIONS = {*OWNER_ACTIONS, "Receive"}
_MESSAGE_BYTES = range(1_024, 1_048_577)


def create_topic(call: Call) -> Parameters:
    name, attributes = call.parameters.get("Name", ""), call.parameters.get("Attributes", {})
    tags = _tags(call.parameters.get("Tags", []))
    is_fifo = attributes.get("FifoTopic", "").lower() == "true"
    if not (_FIFO_NAME if is_fifo else _NAME).fullmatch(name):
        raise invalid_parameter("Topic Name")
    checked = {
        attribute: _check_attribute(attribute, value, is_fifo=is_fifo, prefix="Attributes Reason: ")
        for attribute, value in attributes.items()
        if attribute != "FifoTopic"
    }
    if is_fifo:
        checked["FifoTopic"] = "true"
    arn = topic_arn(call.region, call.account, name)
    with call.broker.lock:
        existing = call.broker.topics.get(arn)
        if existing is None:
            call.broker.topics[arn] = Topic(arn, checked, tags)
        elif any(existing.given.get(attribute) != value for attribute, value in checked.items()):
            raise invalid_parameter("Attributes Reason: Topic already exists with different attributes")
        elif not tags.items() <= existing.tags.items():
            raise invalid_parameter("Tags Reason: Topic already exists with different tags")
    return {"TopicArn": arn}


def delete_topic(call: Call) -> Parameters:
    arn, broker = check_topic_arn(call), call.broker
    with broker.lock:
        if arn in broker.topics:  # deleting twice is not an error
            topic = find_topic(call, "DeleteTopic")
            topic.window.clear()  # another topic may get its name
            for subscription_arn in topic.subscriptions:
                del broker.subscriptions[subscription_arn]
            del broker.topics[arn]
    return {}


def list_topics(call: Call) -> Parameters:
    with call.broker.lock:
        found = [
            topic.arn
            for topic in call.broker.topics.values()
            if (topic.region, topic.account) == (call.region, call.account)
        ]
    chosen, token = page(found, call.parameters.get("NextToken"), PAGE_SIZE)
    return {"Topics": [{"TopicArn": arn} for arn in chosen]} | ({"NextToken": token} if token else {})


def get_topic_attributes(call: Call) -> Parameters:
    with call.broker.lock:
        topic = find_topic(call, "GetTopicAttributes")
        return {"Attributes": topic.described()}


def set_topic_attributes(call: Call) -> Parameters:
    name, value = call.parameters.get("AttributeName", ""), call.parameters.get("AttributeValue", "")
    with call.broker.lock:
        topic = find_topic(call, "SetTopicAttributes")
        topic.set_attributes({name: _check_attribute(name, value, is_fifo=topic.is_fifo)})
    return {}


def add_permission(call: Call) -> Parameters:
    label = call.parameters.get("Label", "")
    accounts, actions = (call.parameters.get(name, []) for name in ("AWSAccountId", "ActionName"))
    with call.broker.lock:
        topic = find_topic(call, "AddPermission")
        if not set(actions) <= _ACTIONS:
            raise invalid_parameter("Policy statement action out of service scope!")
        document: dict[str, Any] = json.loads(topic.attributes["Policy"])
        if any(statement.get("Sid") == label for statement in document["Statement"]):
            raise invalid_parameter("Statement already exists")
        document["Statement"].append(
            permission(label, accounts, [f"SNS:{action}" for action in actions], topic.arn)
        )
        topic.set_attributes({"Policy": json.dumps(document)})
    return {}


def remove_permission(call: Call) -> Parameters:
    with call.broker.lock:
        topic = find_topic(call, "RemovePermission")
        document: dict[str, Any] = json.loads(topic.attributes["Policy"])
        label = call.parameters.get("Label")
        document["Statement"] = [one for one in document["Statement"] if one.get("Sid") != label]
        topic.set_attributes({"Policy": json.dumps(document)})
    return {}


def list_tags_for_resource(call: Call) -> Parameters:
    with call.broker.lock:
        tags = _tagged(call, "ListTagsForResource").tags
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tag_resource(call: Call) -> Parameters:
    tags = _tags(call.parameters.get("Tags", []))
    with call.broker.lock:
        _tagged(call, "TagResource").tags |= tags
    return {}


def untag_resource(call: Call) -> Parameters:
    with call.broker.lock:
        topic = _tagged(call, "UntagResource")
        for key in call.parameters.get("TagKeys", []):
            topic.tags.pop(key, None)
    return {}


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    found = {tag.get("Key", ""): tag.get("Value", "") for tag in tags}
    if len(found) < len(tags):
        raise invalid_parameter("Duplicated keys are not allowed.")
    return found


def _tagged(call: Call, action: str) -> Topic:
    topic = call.broker.topics.get(check_topic_arn(call, "ResourceArn"))
    if topic is None:
        raise ServiceError("ResourceNotFound", "Topic does not exist", 404)
    check_access(call, topic, action)
    return topic


def _check_attribute(name: str, value: str, *, is_fifo: bool, prefix: str = "") -> str:
    """Return an attribute's value as it is kept, or raise what SNS answers to it."""
    if name in _FIFO_ONLY and not is_fifo:
        raise invalid_parameter("AttributeName" if not prefix else f"{prefix}Unknown attribute {name}")
    if name in _FREE_TEXT or _FEEDBACK.fullmatch(name):
        return value
    if name in _CHOICES:
        chosen = next((one for one in _CHOICES[name] if one.lower() == value.lower()), None)
        if chosen is None:
            raise invalid_parameter(f"{prefix}{name}: Invalid value [{value}].")
        return chosen
    if name == "MaximumMessageSize":
        if not (value.isascii() and value.isdigit() and len(value) < 9 and int(value) in _MESSAGE_BYTES):
            raise invalid_parameter(f"{prefix}{name}: Invalid value [{value}].")
        return value
    if name in _DOCUMENTS:
        return _check_document(name, value, prefix)
    raise invalid_parameter("AttributeName" if not prefix else f"{prefix}Unknown attribute {name}")


def _check_document(name: str, value: str, prefix: str) -> str:
    if not value:
        return value
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise invalid_parameter(f"{prefix}{name}: failed to parse JSON")
    if name == "DeliveryPolicy":
        _check_delivery_policy(document, prefix)
    if name != "Policy":
        return value
    if not isinstance(document.get("Statement"), list | dict) or not is_well_formed(document):
        raise invalid_parameter("Policy Error: null")
    if isinstance(document["Statement"], dict):
        document["Statement"] = [document["Statement"]]
        return json.dumps(document)
    return value


def _check_delivery_policy(document: dict[str, Any], prefix: str) -> None:
    policy = document.get("http") or {}
    if not isinstance(policy, dict):
        raise invalid_parameter(f"{prefix}DeliveryPolicy: http must be an object")
    check_delivery_policy(policy, "defaultHealthyRetryPolicy", "defaultRequestPolicy", prefix)
