"""IAM policies with the permissions that each role needs for the topology, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from melange.topology.model import Topology, is_address

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
DELETE_QUEUES = ("sqs:DeleteQueue",)
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


@dataclass(frozen=True, slots=True)
class Account:
    """Where the topology is, for ARNs; the defaults are placeholders to be replaced."""

    region: str = "REGION"
    id: str = "ACCOUNT"
    partition: str = "aws"


def to_iam(topology: Topology, account: Account, key: str | None = None) -> dict[str, Any]:
    """Return a policy for each role that the topology has: publisher, consumer, relay, operator.

    The programs use ``declare=False``. The operator plans, applies with ``--prune``, diagnoses, and works on dead letters.
    ``key`` is the ARN of the customer key that encrypts topics and queues.
    """
    policies = {
        "publisher": _publishing(topology, account, "publisher"),
        "consumer": _consuming(topology, account),
        "relay": _publishing(topology, account, "outbox"),
        "operator": _operating(topology, account),
    }
    for role, actions in PAYLOADS.items():
        if policies[role]:
            policies[role] += _statements("LargeEvents", actions, _payload_arns(topology, account))
    if key:
        for role, statements in policies.items():
            if statements:
                statements.append(_statement("UseKey", _key_actions(role), [key]))
    return {
        role: {"Version": "2012-10-17", "Statement": statements}
        for role, statements in policies.items()
        if statements
    }


def _payload_arns(topology: Topology, account: Account) -> list[str]:
    return [f"arn:{account.partition}:s3:::{one.bucket}/{one.prefix}*" for one in topology.payloads]


def _publishing(topology: Topology, account: Account, through: str) -> list[Statement]:
    topics = [
        _topic_arn(topology, one.target, account) for one in topology.publishers if one.through == through
    ]
    queues = [
        _queue_arn(topology, one.target, account)
        for one in topology.publishers
        if one.through == "queue publisher" and through == "publisher"
    ]
    return [*_statements("Publish", PUBLISH, topics), *_statements("Send", SEND, queues)]


def _consuming(topology: Topology, account: Account) -> list[Statement]:
    queues = [queue for queue in topology.queues if queue.is_consumed]
    topics = [binding.topic for queue in queues for binding in queue.bindings]
    served = [(queue.dead_letter_queue, queue) for queue in queues if queue.dead_letter_queue is not None]
    arns = [_queue_arn(topology, name, account) for name, _ in served]
    named = [
        _queue_arn(topology, name, account) for name, queue in served if not queue.keeps_dead_letter_queue
    ]
    return [
        *_statements(
            "LookUpTopics",
            ("sns:GetTopicAttributes",),
            [_topic_arn(topology, name, account) for name in topics],
        ),
        *_statements("Consume", CONSUME, [_queue_arn(topology, queue.name, account) for queue in queues]),
        *_statements("DeadLetter", ("sqs:GetQueueAttributes", "sqs:SendMessage"), arns),
        *_statements("LookUpDeadLetters", ("sqs:GetQueueUrl",), named),
    ]


def _operating(topology: Topology, account: Account) -> list[Statement]:
    topics = [_topic_arn(topology, topic.name, account) for topic in topology.topics]
    queues = [_queue_arn(topology, queue.name, account) for queue in topology.queues]
    own = [
        _queue_arn(topology, queue.name, account) for queue in topology.queues if not is_address(queue.name)
    ]
    # Looking for a mark, and pruning, concern queues of old names: the prefix is all that is known of those.
    everything = f"arn:{account.partition}:sqs:{account.region}:{account.id}:{topology.broker_name('*')}"
    return [
        *_statements("LookAtTopics", (*LOOK, *CHANGE_TOPICS), topics),
        *_statements(
            "LookAtQueues", LOOK_AT_QUEUES, [everything, *(one for one in queues if one not in own)]
        ),
        *_statements("ChangeQueues", CHANGE_QUEUES, own),
        *_statements("Search", (*SEARCH, *CHANGE_SUBSCRIPTIONS), ["*"]),
        _statement("PruneQueues", DELETE_QUEUES, [everything])
        | {"Condition": {"StringEquals": {"aws:ResourceTag/melange-topology": topology.name}}},
        *_statements("WorkOnDeadLetters", DEAD_LETTERS, queues),
    ]


def _topic_arn(topology: Topology, name: str, account: Account) -> str:
    """Return the ARN of a topic."""
    if is_address(name):
        return name
    return f"arn:{account.partition}:sns:{account.region}:{account.id}:{topology.broker_name(name)}"


def _queue_arn(topology: Topology, name: str, account: Account) -> str:
    """Return the ARN of a queue."""
    if name.startswith("arn:"):
        return name
    owner = name.rstrip("/").split("/")[-2] if is_address(name) else account.id
    return f"arn:{account.partition}:sqs:{account.region}:{owner}:{topology.broker_name(name)}"


def _key_actions(role: str) -> Sequence[str]:
    if role == "operator":
        return ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GetKeyPolicy")
    return ("kms:Decrypt", "kms:GenerateDataKey")


def _statements(name: str, actions: Iterable[str], resources: Sequence[str]) -> list[Statement]:
    return [_statement(name, actions, resources)] if resources else []


def _statement(name: str, actions: Iterable[str], resources: Sequence[str]) -> Statement:
    return {"Sid": name, "Effect": "Allow", "Action": sorted(actions), "Resource": sorted(set(resources))}
