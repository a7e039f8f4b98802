"""Every call of the driver: its method, its permission, and the reader of its answer.

An incomplete answer raises ``UnreadableAnswer``: it came from a server that is not AWS, or was garbled on the way. The
call is then retried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from melange.errors import ConfigurationError, InvalidMessageError, MelangeError

Answer = dict[str, Any]
Attributes = dict[str, str]
Entry = dict[str, Any]
Parameters = dict[str, Any]

ClientName = Literal["sns", "sqs", "polling", "sts", "kms"]
"""``polling`` is SQS with the timeouts of a long poll."""


class UnreadableAnswer(Exception):
    """An answer does not fit the call."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of call."""

    client: ClientName
    method: str
    permission: str
    """The action in an IAM policy, also used in errors."""
    read: Callable[[Answer], Any] = lambda answer: answer
    refusal: type[MelangeError] = ConfigurationError
    """Creates the error for a refused parameter."""
    target: str = ""
    entries: str = ""
    """Of batches: the parameters that take the address and the entries."""


def _text(name: str) -> Callable[[Answer], str]:
    def read(answer: Answer) -> str:
        value = answer.get(name)
        if not isinstance(value, str) or not value:
            raise UnreadableAnswer(f"it has no {name}")
        return value

    return read


def _attributes(answer: Answer) -> Attributes:
    attributes = answer.get("Attributes") or {}
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise UnreadableAnswer("its attributes are not text")
    if not attributes.get("MaximumMessageSize", "0").isdecimal():
        raise UnreadableAnswer("its MaximumMessageSize is not a number")
    return attributes


def _depth(answer: Answer) -> tuple[int, ...]:
    attributes = _attributes(answer)
    counts = [attributes.get(name, "") for name in DEPTH_ATTRIBUTES]
    if not all(count.isdecimal() for count in counts):
        raise UnreadableAnswer("it does not count the messages")
    return tuple(map(int, counts))


DEPTH_ATTRIBUTES = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)

PUBLISH = Operation(
    "sns",
    "publish_batch",
    "sns:Publish",
    refusal=InvalidMessageError,
    target="TopicArn",
    entries="PublishBatchRequestEntries",
)
PUBLISH_ONE = Operation("sns", "publish", "sns:Publish", _text("MessageId"), InvalidMessageError)
SEND = Operation(
    "sqs",
    "send_message_batch",
    "sqs:SendMessage",
    refusal=InvalidMessageError,
    target="QueueUrl",
    entries="Entries",
)
SEND_COPY = Operation(
    "sqs", "send_message", "sqs:SendMessage", _text("MessageId"), refusal=InvalidMessageError
)
DELETE = Operation(
    "sqs",
    "delete_message_batch",
    "sqs:DeleteMessage",
    target="QueueUrl",
    entries="Entries",
)
CHANGE_VISIBILITY = Operation(
    "sqs",
    "change_message_visibility_batch",
    "sqs:ChangeMessageVisibility",
    target="QueueUrl",
    entries="Entries",
)
RECEIVE = Operation("polling", "receive_message", "sqs:ReceiveMessage")
RECEIVE_AT_ONCE = replace(RECEIVE, client="sqs")

GET_QUEUE_URL = Operation("sqs", "get_queue_url", "sqs:GetQueueUrl", _text("QueueUrl"))
GET_QUEUE_ATTRIBUTES = Operation("sqs", "get_queue_attributes", "sqs:GetQueueAttributes", _attributes)
MEASURE_QUEUE = replace(GET_QUEUE_ATTRIBUTES, read=_depth)
CREATE_QUEUE = Operation("sqs", "create_queue", "sqs:CreateQueue", _text("QueueUrl"))
SET_QUEUE_ATTRIBUTES = Operation("sqs", "set_queue_attributes", "sqs:SetQueueAttributes")
TAG_QUEUE = Operation("sqs", "tag_queue", "sqs:TagQueue")
LIST_QUEUES = Operation("sqs", "list_queues", "sqs:ListQueues")
LIST_QUEUE_TAGS = Operation(
    "sqs", "list_queue_tags", "sqs:ListQueueTags", lambda answer: answer.get("Tags") or {}
)
PURGE_QUEUE = Operation("sqs", "purge_queue", "sqs:PurgeQueue")
DELETE_QUEUE = Operation("sqs", "delete_queue", "sqs:DeleteQueue")

LIST_SOURCE_QUEUES = Operation("sqs", "list_dead_letter_source_queues", "sqs:ListDeadLetterSourceQueues")
START_MOVE = Operation("sqs", "start_message_move_task", "sqs:StartMessageMoveTask")
LIST_MOVES = Operation("sqs", "list_message_move_tasks", "sqs:ListMessageMoveTasks")
CANCEL_MOVE = Operation("sqs", "cancel_message_move_task", "sqs:CancelMessageMoveTask")

CREATE_TOPIC = Operation("sns", "create_topic", "sns:CreateTopic", _text("TopicArn"))
GET_TOPIC_ATTRIBUTES = Operation("sns", "get_topic_attributes", "sns:GetTopicAttributes", _attributes)
SET_TOPIC_ATTRIBUTES = Operation("sns", "set_topic_attributes", "sns:SetTopicAttributes")
TAG_TOPIC = Operation("sns", "tag_resource", "sns:TagResource")
DELETE_TOPIC = Operation("sns", "delete_topic", "sns:DeleteTopic")
LIST_TOPICS = Operation("sns", "list_topics", "sns:ListTopics")

SUBSCRIBE = Operation("sns", "subscribe", "sns:Subscribe", _text("SubscriptionArn"))
UNSUBSCRIBE = Operation("sns", "unsubscribe", "sns:Unsubscribe")
GET_SUBSCRIPTION_ATTRIBUTES = Operation(
    "sns", "get_subscription_attributes", "sns:GetSubscriptionAttributes", _attributes
)
SET_SUBSCRIPTION_ATTRIBUTES = Operation("sns", "set_subscription_attributes", "sns:SetSubscriptionAttributes")
LIST_SUBSCRIPTIONS = Operation("sns", "list_subscriptions_by_topic", "sns:ListSubscriptionsByTopic")

LIST_ALL_SUBSCRIPTIONS = Operation("sns", "list_subscriptions", "sns:ListSubscriptions")

DESCRIBE_KEY = Operation("kms", "describe_key", "kms:DescribeKey")
GET_KEY_POLICY = Operation("kms", "get_key_policy", "kms:GetKeyPolicy", _text("Policy"))

GET_CALLER_IDENTITY = Operation("sts", "get_caller_identity", "sts:GetCallerIdentity", _text("Account"))
