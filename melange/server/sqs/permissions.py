"""AddPermission and RemovePermission of SQS: statements in the policy of a queue."""

from __future__ import annotations

import json
import re
from typing import Any

from melange.server.calls import Call, Parameters
from melange.server.errors import invalid_value, missing_parameter
from melange.server.policies import permission
from melange.server.sqs.queues import Queue, find_queue

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,80}")


def add_permission(call: Call) -> Parameters:
    label = _label(call)
    accounts, actions = (call.parameters.get(name, []) for name in ("AWSAccountIds", "Actions"))
    for name, values in (("AWSAccountIds", accounts), ("Actions", actions)):
        if not values:
            raise missing_parameter(name)
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        document = _policy_of(queue)
        if any(statement.get("Sid") == label for statement in document["Statement"]):
            raise invalid_value(label, "Label", "Already exists.")
        document["Statement"].append(
            permission(label, accounts, [f"SQS:{action}" for action in actions], queue.arn)
        )
        queue.set_attributes({"Policy": json.dumps(document)})
    return {}


def remove_permission(call: Call) -> Parameters:
    label = _label(call)
    with call.broker.lock:
        queue = find_queue(call.broker, call.parameters.get("QueueUrl"), call.region, call.account)
        document = _policy_of(queue)
        left = [statement for statement in document["Statement"] if statement.get("Sid") != label]
        if len(left) == len(document["Statement"]):
            raise invalid_value(label, "Label", "can't find label.")
        document["Statement"] = left
        queue.set_attributes({"Policy": json.dumps(document) if left else ""})
    return {}


def _label(call: Call) -> str:
    label: str = call.parameters.get("Label", "")
    if not label:
        raise missing_parameter("Label")
    if not _LABEL.fullmatch(label):
        raise invalid_value(
            label,
            "Label",
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        )
    return label


def _policy_of(queue: Queue) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(queue.attributes.get("Policy") or "{}")
    document.setdefault("Version", "2008-10-17")
    document.setdefault("Id", f"{queue.arn}/SQSDefaultPolicy")
    statements = document.get("Statement", [])
    document["Statement"] = statements if isinstance(statements, list) else [statements]
    return document
