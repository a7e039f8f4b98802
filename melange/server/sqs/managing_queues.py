"""Operations on queues: creating, finding, changing and deleting them, their tags and their policies."""

from __future__ import annotations

import json
import re
from typing import Any

from melange.server.calls import DEFAULT_REGION, Call, Parameters, page
from melange.server.errors import ServiceError, invalid_value, missing_parameter, no_such_queue, sqs_error
from melange.server.policies import permission
from melange.server.sqs.queue_attributes import (
    COMPUTED,
    SETTABLE,
    check_names,
    check_values,
    is_same,
    unknown_attribute,
)
from melange.server.sqs.queues import Queue, check_access, find_queue, queue_arn

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FIFO_NAME = re.compile(r"(?=.{6,80}\Z)[A-Za-z0-9_-]+\.fifo")
_LOCKED_SECONDS = 60
_MAX_PAGE = 1_000


def create_queue(call: Call) -> Parameters:
    name, attributes = call.parameters.get("QueueName"), call.parameters.get("Attributes", {})
    if not name:
        raise missing_parameter("QueueName")
    is_fifo = attributes.get("FifoQueue", "").lower() == "true"
    _check_name(name, is_fifo=is_fifo)
    if "FifoQueue" in attributes and not is_fifo:
        raise unknown_attribute("FifoQueue")
    attributes = check_values(attributes, is_fifo=is_fifo)
    arn = queue_arn(call.region, call.account, name)
    broker = call.broker
    with broker.lock:
        existing = broker.queues.get(arn)
        if existing is not None:
            for attribute, value in attributes.items():
                if not is_same(attribute, existing.attributes.get(attribute), value):
                    raise ServiceError(
                        "QueueAlreadyExists",
                        "A queue already exists with the same name and a different value for attribute "
                        f"{attribute}",
                    )
        else:
            deleted_at = broker.deleted_queues.get(arn, 0.0)
            if broker.strict and deleted_at + _LOCKED_SECONDS > broker.now():
                raise sqs_error(
                    "QueueDeletedRecently",
                    "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
                )
            _check_redrive(call, attributes, arn, is_fifo=is_fifo)
            broker.queues[arn] = Queue(broker, arn, attributes, call.parameters.get("tags"))
            _find_dead_letter_queues(call)
    return {"QueueUrl": _url(call, arn)}


def get_queue_url(call: Call) -> Parameters:
    name = call.parameters.get("QueueName")
    if not name:
        raise missing_parameter("QueueName")
    arn = queue_arn(call.region, call.parameters.get("QueueOwnerAWSAccountId") or call.account, name)
    with call.broker.lock:
        queue = call.broker.queues.get(arn)
        if queue is None:
            raise no_such_queue()
        check_access(call, queue, "GetQueueUrl")
    return {"QueueUrl": _url(call, arn)}


def list_queues(call: Call) -> Parameters:
    prefix, limit = call.parameters.get("QueueNamePrefix", ""), _page_size(call)
    with call.broker.lock:
        found = [
            queue.arn
            for queue in call.broker.queues.values()
            if (queue.region, queue.account) == (call.region, call.account) and queue.name.startswith(prefix)
        ]
    return _page_of_urls(call, "QueueUrls", sorted(found), limit)


def list_dead_letter_source_queues(call: Call) -> Parameters:
    limit = _page_size(call)
    with call.broker.lock:
        target = find_queue(call, "ListDeadLetterSourceQueues")
        found = [
            queue.arn for queue in call.broker.queues.values() if queue.stored.dead_letters is target.stored
        ]
    return {"queueUrls": []} | _page_of_urls(call, "queueUrls", sorted(found), limit)


def get_queue_attributes(call: Call) -> Parameters:
    names = call.parameters.get("AttributeNames", [])
    check_names(names)
    with call.broker.lock:
        queue = find_queue(call, "GetQueueAttributes")
        found = {
            name: queue.attributes[name]
            for name in SETTABLE
            if name in queue.attributes and _asks(names, name)
        }
        if any(_asks(names, name) for name in COMPUTED):
            computed = _compute(queue)
            found |= {name: computed[name] for name in COMPUTED if _asks(names, name)}
    return {"Attributes": found} if found else {}


def set_queue_attributes(call: Call) -> Parameters:
    attributes = call.parameters.get("Attributes", {})
    with call.broker.lock:
        queue = find_queue(call, "SetQueueAttributes")
        if "FifoQueue" in attributes:
            if not queue.is_fifo:
                raise unknown_attribute("FifoQueue")
            if attributes["FifoQueue"].lower() != "true":
                raise ServiceError(
                    "InvalidAttributeValue",
                    "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
                )
        checked = check_values(attributes, is_fifo=queue.is_fifo)
        _check_redrive(call, checked, queue.arn, is_fifo=queue.is_fifo)
        queue.set_attributes(checked)
        queue.stored.waiters.wake_all()
    return {}


def delete_queue(call: Call) -> Parameters:
    broker = call.broker
    with broker.lock:
        queue = find_queue(call, "DeleteQueue")
        del broker.queues[queue.arn]
        broker.deleted_queues[queue.arn] = broker.now()
        queue.purge()
        broker.event_log.add("queue deleted", broker.now(), queue.arn, "", call.caller)
        _find_dead_letter_queues(call)
        queue.stored.waiters.wake_all()
    return {}


def purge_queue(call: Call) -> Parameters:
    broker = call.broker
    with broker.lock:
        queue = find_queue(call, "PurgeQueue")
        now = broker.now()
        if broker.strict and queue.purged_at + _LOCKED_SECONDS > now:
            raise sqs_error(
                "PurgeQueueInProgress",
                f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds.",
                403,
            )
        queue.purged_at = now
        queue.purge()
        broker.event_log.add("purged", now, queue.arn, "", call.caller)
    return {}


def list_queue_tags(call: Call) -> Parameters:
    with call.broker.lock:
        tags = dict(find_queue(call, "ListQueueTags").tags)
    return {"Tags": tags} if tags else {}


def tag_queue(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call, "TagQueue")
        queue.tags |= call.parameters.get("Tags", {})
    return {}


def untag_queue(call: Call) -> Parameters:
    with call.broker.lock:
        queue = find_queue(call, "UntagQueue")
        for key in call.parameters.get("TagKeys", []):
            queue.tags.pop(key, None)
    return {}


def add_permission(call: Call) -> Parameters:
    label = _label(call)
    accounts, actions = (call.parameters.get(name, []) for name in ("AWSAccountIds", "Actions"))
    for name, values in (("AWSAccountIds", accounts), ("Actions", actions)):
        if not values:
            raise missing_parameter(name)
    with call.broker.lock:
        queue = find_queue(call, "AddPermission")
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
        queue = find_queue(call, "RemovePermission")
        document = _policy_of(queue)
        left = [statement for statement in document["Statement"] if statement.get("Sid") != label]
        if len(left) == len(document["Statement"]):
            raise invalid_value(label, "Label", "can't find label.")
        document["Statement"] = left
        queue.set_attributes({"Policy": json.dumps(document) if left else ""})
    return {}


def _check_name(name: str, *, is_fifo: bool) -> None:
    if is_fifo:
        if not _FIFO_NAME.fullmatch(name):
            raise ServiceError(
                "InvalidParameterValue",
                "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end "
                "with .fifo suffix and be 1 to 80 in length.",
            )
    elif not _NAME.fullmatch(name):
        raise ServiceError(
            "InvalidParameterValue",
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        )


def _check_redrive(call: Call, attributes: dict[str, str], source_arn: str, *, is_fifo: bool) -> None:
    policy = attributes.get("RedrivePolicy")
    if not policy:
        return
    target_arn = json.loads(policy)["deadLetterTargetArn"]
    target = call.broker.queues.get(target_arn)
    if target is None:
        reason = "Dead letter target does not exist."
    elif target.region != source_arn.split(":")[3]:
        reason = "Dead-letter queue must be in the same region as the source."
    elif target.is_fifo != is_fifo:
        reason = "Dead-letter queue must be same type of queue as the source."
    elif not _allows_redrive(target, source_arn):
        reason = "Queue does not have permission to use the dead-letter queue."
    else:
        return
    raise invalid_value(policy, "RedrivePolicy", reason)


def _allows_redrive(target: Queue, source_arn: str) -> bool:
    allowed = json.loads(target.attributes.get("RedriveAllowPolicy") or '{"redrivePermission":"allowAll"}')
    return allowed["redrivePermission"] == "allowAll" or source_arn in allowed.get("sourceQueueArns", [])


def _find_dead_letter_queues(call: Call) -> None:
    for queue in call.broker.queues.values():
        queue.find_dead_letter_queue()


def _asks(names: list[str], name: str) -> bool:
    return "All" in names or name in names


def _compute(queue: Queue) -> dict[str, str]:
    depth = queue.stored.measure(queue.broker.now())
    return {
        "ApproximateNumberOfMessages": str(depth.visible),
        "ApproximateNumberOfMessagesDelayed": str(depth.delayed),
        "ApproximateNumberOfMessagesNotVisible": str(depth.in_flight),
        "CreatedTimestamp": str(int(queue.created_at)),
        "LastModifiedTimestamp": str(int(queue.modified_at)),
        "QueueArn": queue.arn,
    }


def _page_size(call: Call) -> int | None:
    size: int | None = call.parameters.get("MaxResults")
    if size is not None and not 1 <= size <= _MAX_PAGE:
        raise ServiceError("InvalidParameterValue", "MaxResults must be between 1 and 1000.")
    return size


def _page_of_urls(call: Call, name: str, arns: list[str], size: int | None) -> Parameters:
    chosen, token = page(arns, call.parameters.get("NextToken"), size or _MAX_PAGE)
    found: Parameters = {name: [_url(call, arn) for arn in chosen]} if chosen else {}
    return found | ({"NextToken": token} if token and size else {})


def _url(call: Call, arn: str) -> str:
    """Return the queue's URL, with its region unless that is the default one: two queues never have one URL."""
    region, account, name = arn.split(":")[3:]
    in_region = "" if region == DEFAULT_REGION else f"/{region}"
    return f"{call.base_url}{in_region}/{account}/{name}"


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
