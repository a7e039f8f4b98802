"""The operations by name."""

from melange.server.calls import Operation
from melange.server.sns import managing, permissions, publishing, subscribing

OPERATIONS: dict[str, Operation] = {
    "AddPermission": permissions.add_permission,
    "ConfirmSubscription": subscribing.confirm_subscription,
    "CreateTopic": managing.create_topic,
    "DeleteTopic": managing.delete_topic,
    "GetSubscriptionAttributes": subscribing.get_subscription_attributes,
    "GetTopicAttributes": managing.get_topic_attributes,
    "ListSubscriptions": subscribing.list_subscriptions,
    "ListSubscriptionsByTopic": subscribing.list_subscriptions_by_topic,
    "ListTagsForResource": managing.list_tags_for_resource,
    "ListTopics": managing.list_topics,
    "Publish": publishing.publish,
    "PublishBatch": publishing.publish_batch,
    "RemovePermission": permissions.remove_permission,
    "SetSubscriptionAttributes": subscribing.set_subscription_attributes,
    "SetTopicAttributes": managing.set_topic_attributes,
    "Subscribe": subscribing.subscribe,
    "TagResource": managing.tag_resource,
    "Unsubscribe": subscribing.unsubscribe,
    "UntagResource": managing.untag_resource,
}
