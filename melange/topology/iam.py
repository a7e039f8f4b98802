"""IAM policies with the permissions that each role needs for the topology, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from melange.topology.model import Topology, is_address
from melange.topology.names import Account, broker_name, queue_arn, topic_arn

Statement = dict[str, Any]

PUBLISH = ("sns:GetTopicAttributes", "sns:Publish")
SEND = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage")
CONSUME = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
)
LOOK = ("sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic")
LOOK_AT_QUEUES = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags")
SEARCH = ("sns:GetSubscriptionAttributes", "sns:ListSubscriptions", "sqs:ListQueues")
"""Plan and doctor look at all subscriptions of the account, and at the tags of all queues with the prefix."""
CHANGE_TOPICS = ("sns:CreateTopic", "sns:Subscribe")
CHANGE_QUEUES = ("sqs:CreateQueue", "sqs:SetQueueAttributes", "sqs:TagQueue")
CHANGE_SUBSCRIPTIONS = ("sns:SetSubscriptionAttributes", "sns:Unsubscribe")
PRUNE = ("sqs:DeleteQueue",)
DEAD_LETTERS = (
    "sqs:CancelMessageMoveTask",
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:ListDeadLetterSourceQueues",
    "sqs:ListMessageMoveTasks",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
    "sqs:StartMessageMoveTask",
)


PAYLOADS = {
    "publisher": ("s3:PutObject",),
    "relay": ("s3:PutObject",),
    "consumer": ("s3:DeleteObject", "s3:GetObject"),
    "operator": ("s3:GetObject",),
}
"""What each role does with large events."""


def to_iam(topology: Topology, place: Account, key: str | None = None) -> dict[str, Any]:
    """Return a policy for each role that the topology has: publisher, consumer, relay, operator.

    The programs use ``declare=False``. The operator plans, applies with ``--prune``, diagnoses, and works on dead letters.
    ``key`` is the ARN of the customer key that encrypts topics and queues.
    """
    policies = {
        "publisher": _publishing(topology, place, "publisher"),
        "consumer": _consuming(topology, place),
        "relay": _publishing(topology, place, "outbox"),
        "operator": _operating(topology, place),
    }
    for role, actions in PAYLOADS.items():
        if policies[role]:
            policies[role] += _statements("LargeEvents", actions, _payload_arns(topology, place))
    if key:
        for role, statements in policies.items():
            if statements:
                statements.append(_statement("UseKey", _key_actions(role), [key]))
    return {
        role: {"Version": "2012-10-17", "Statement": statements}
        for role, statements in policies.items()
        if statements
    }


def _payload_arns(topology: Topology, place: Account) -> list[str]:
    return [f"arn:{place.partition}:s3:::{one.bucket}/{one.prefix}*" for one in topology.payloads]


def _publishing(topology: Topology, place: Account, through: str) -> list[Statement]:
    topics = [topic_arn(topology, one.target, place) for one in topology.publishers if one.through == through]
    queues = [
        queue_arn(topology, one.target, place)
        for one in topology.publishers
        if one.through == "queue publisher" and through == "publisher"
    ]
    return [*_statements("Publish", PUBLISH, topics), *_statements("Send", SEND, queues)]


def _consuming(topology: Topology, place: Account) -> list[Statement]:
    queues = [queue for queue in topology.queues if queue.is_consumed]
    topics = [binding.topic for queue in queues for binding in queue.bindings]
    served = [(queue.dead_letter_queue, queue) for queue in queues if queue.dead_letter_queue is not None]
    arns = [queue_arn(topology, name, place) for name, _ in served]
    named = [queue_arn(topology, name, place) for name, queue in served if not queue.keeps_dead_letter_queue]
    return [
        *_statements(
            "LookUpTopics", ("sns:GetTopicAttributes",), [topic_arn(topology, name, place) for name in topics]
        ),
        *_statements("Consume", CONSUME, [queue_arn(topology, queue.name, place) for queue in queues]),
        *_statements("DeadLetter", ("sqs:GetQueueAttributes", "sqs:SendMessage"), arns),
        *_statements("LookUpDeadLetters", ("sqs:GetQueueUrl",), named),
    ]


def _operating(topology: Topology, place: Account) -> list[Statement]:
    topics = [topic_arn(topology, topic.name, place) for topic in topology.topics]
    queues = [queue_arn(topology, queue.name, place) for queue in topology.queues]
    own = [queue_arn(topology, queue.name, place) for queue in topology.queues if not is_address(queue.name)]
    # Looking for a mark, and pruning, concern queues of old names: the prefix is all that is known of those.
    everything = f"arn:{place.partition}:sqs:{place.region}:{place.account}:{broker_name(topology, '*')}"
    return [
        *_statements("LookAtTopics", (*LOOK, *CHANGE_TOPICS), topics),
        *_statements(
            "LookAtQueues", LOOK_AT_QUEUES, [everything, *(one for one in queues if one not in own)]
        ),
        *_statements("ChangeQueues", CHANGE_QUEUES, own),
        *_statements("Search", (*SEARCH, *CHANGE_SUBSCRIPTIONS), ["*"]),
        _statement("PruneQueues", PRUNE, [everything])
        | {"Condition": {"StringEquals": {"aws:ResourceTag/melange-topology": topology.name}}},
        *_statements("WorkOnDeadLetters", DEAD_LETTERS, queues),
    ]


def _key_actions(role: str) -> Sequence[str]:
    if role == "operator":
        return ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GetKeyPolicy")
    return ("kms:Decrypt", "kms:GenerateDataKey")


def _statements(name: str, actions: Iterable[str], resources: Sequence[str]) -> list[Statement]:
    return [_statement(name, actions, resources)] if resources else []


def _statement(name: str, actions: Iterable[str], resources: Sequence[str]) -> Statement:
    return {"Sid": name, "Effect": "Allow", "Action": sorted(actions), "Resource": sorted(set(resources))}
