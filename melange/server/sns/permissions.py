"""AddPermission and RemovePermission of SNS: statements in the policy of a topic."""

from __future__ import annotations

import json
from typing import Any

from melange.server.calls import Call, Parameters
from melange.server.errors import invalid_parameter
from melange.server.policies import permission
from melange.server.sns.managing_topics import find_topic
from melange.server.sns.topics import OWNER_ACTIONS

_ACTIONS = {*OWNER_ACTIONS, "Receive"}


def add_permission(call: Call) -> Parameters:
    label = call.parameters.get("Label", "")
    accounts, actions = (call.parameters.get(name, []) for name in ("AWSAccountId", "ActionName"))
    with call.broker.lock:
        topic = find_topic(call, call.parameters.get("TopicArn"), "AddPermission")
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
        topic = find_topic(call, call.parameters.get("TopicArn"), "RemovePermission")
        document: dict[str, Any] = json.loads(topic.attributes["Policy"])
        label = call.parameters.get("Label")
        document["Statement"] = [one for one in document["Statement"] if one.get("Sid") != label]
        topic.set_attributes({"Policy": json.dumps(document)})
    return {}
