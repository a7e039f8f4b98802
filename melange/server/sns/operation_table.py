"""The operations of SNS by their names."""

from melange.server.calls import Operation
from melange.server.sns import managing_topics, permissions, publishing, subscribing

OPERATIONS: dict[str, Operation] = {
    "AddPermission": permissions.add_permission,
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
    "RemovePermission": permissions.remove_permission,
    "SetSubscriptionAttributes": subscribing.set_subscription_attributes,
    "SetTopicAttributes": managing_topics.set_topic_attributes,
    "Subscribe": subscribing.subscribe,
    "TagResource": managing_topics.tag_resource,
    "Unsubscribe": subscribing.unsubscribe,
    "UntagResource": managing_topics.untag_resource,
}
