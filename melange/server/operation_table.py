"""The operations of SQS, SNS and STS by their names. Each is a function from a ``Call`` to its result."""

from __future__ import annotations

from melange.server.calls import Call, Operation, Parameters
from melange.server.sns import managing_topics, publishing, subscribing
from melange.server.sqs import managing_queues, move_tasks, receiving, sending


def get_caller_identity(call: Call) -> Parameters:
    return {
        "UserId": call.caller.user_id,
        "Account": call.account,
        "Arn": f"arn:aws:iam::{call.account}:root",
    }


OPERATIONS: dict[str, dict[str, Operation]] = {
    "sqs": {
        "AddPermission": managing_queues.add_permission,
        "CancelMessageMoveTask": move_tasks.cancel_message_move_task,
        "ChangeMessageVisibility": receiving.change_message_visibility,
        "ChangeMessageVisibilityBatch": receiving.change_message_visibility_batch,
        "CreateQueue": managing_queues.create_queue,
        "DeleteMessage": receiving.delete_message,
        "DeleteMessageBatch": receiving.delete_message_batch,
        "DeleteQueue": managing_queues.delete_queue,
        "GetQueueAttributes": managing_queues.get_queue_attributes,
        "GetQueueUrl": managing_queues.get_queue_url,
        "ListDeadLetterSourceQueues": managing_queues.list_dead_letter_source_queues,
        "ListMessageMoveTasks": move_tasks.list_message_move_tasks,
        "ListQueueTags": managing_queues.list_queue_tags,
        "ListQueues": managing_queues.list_queues,
        "PurgeQueue": managing_queues.purge_queue,
        "ReceiveMessage": receiving.receive_message,
        "RemovePermission": managing_queues.remove_permission,
        "SendMessage": sending.send_message,
        "SendMessageBatch": sending.send_message_batch,
        "SetQueueAttributes": managing_queues.set_queue_attributes,
        "StartMessageMoveTask": move_tasks.start_message_move_task,
        "TagQueue": managing_queues.tag_queue,
        "UntagQueue": managing_queues.untag_queue,
    },
    "sns": {
        "AddPermission": managing_topics.add_permission,
        "ConfirmSubscription": subscribing.confirm_subscription,
        "CreateTopic": managing_topics.create_topic,
        "DeleteTopic": managing_topics.delete_topic,
        "GetSubscriptionAttributes": subscribing.get_subscription_attributes,
        "GetTopicAttributes": managing_topics.get_topic_attributes,
        "ListSubscriptions": subscribing.list_subscriptions,
        "ListSubscriptionsByTopic": subscribing.list_subscriptions_by_topic,
        "ListTagsForResource": managing_topics.list_tags_for_resource,
        "ListTopics": managing_topics.list_topics,
        "Publish": publishing.publish,
        "PublishBatch": publishing.publish_batch,
        "RemovePermission": managing_topics.remove_permission,
        "SetSubscriptionAttributes": subscribing.set_subscription_attributes,
        "SetTopicAttributes": managing_topics.set_topic_attributes,
        "Subscribe": subscribing.subscribe,
        "TagResource": managing_topics.tag_resource,
        "Unsubscribe": subscribing.unsubscribe,
        "UntagResource": managing_topics.untag_resource,
    },
    "sts": {"GetCallerIdentity": get_caller_identity},
}

MESSAGE_OPERATIONS = {
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "DeleteMessage",
    "DeleteMessageBatch",
    "GetQueueUrl",
    "Publish",
    "PublishBatch",
    "ReceiveMessage",
    "SendMessage",
    "SendMessageBatch",
}
"""Operations that change messages alone, or nothing."""
