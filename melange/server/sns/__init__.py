"""SNS: topics, subscriptions, and the delivery of what is published."""
