"""Topics: what is published, and what each subscription gets of it."""

import json
import logging

import pytest

from melange.server.calls import Caller
from unit.server.given import Client, refused


def test_every_subscription_gets_its_own_copy(client):
    topic, queues = client.topic(), [client.queue(name) for name in ("one", "two")]
    for url in queues:
        client.subscribe(topic, url)

    client.sns("Publish", TopicArn=topic, Message="order")

    assert [client.bodies(url) for url in queues] == [["order"], ["order"]]


@pytest.mark.parametrize(
    "condition", [{}, {"ArnEquals": {"aws:SourceArn": "arn:aws:sns:us-east-1:000000000000:other"}}]
)
def test_a_queue_gets_nothing_without_a_policy_that_allows_the_topic(client, condition):
    topic, url, dead = client.topic(), client.queue(), client.queue("dead")
    subscription = client.subscribe(
        topic, url, RedrivePolicy=json.dumps({"deadLetterTargetArn": client.arn(dead)})
    )
    client.allow(dead, topic)
    statement = {
        "Effect": "Allow" if condition else "Deny",
        "Principal": "*",
        "Action": "*",
        "Condition": condition,
    }
    client.sqs(
        "SetQueueAttributes", QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [statement]})}
    )

    client.sns("Publish", TopicArn=topic, Message="order")

    assert client.bodies(url) == []
    assert client.bodies(dead) == ["order"]
    assert client.sns("GetSubscriptionAttributes", SubscriptionArn=subscription)["Attributes"]["Endpoint"]


def test_a_fault_of_a_subscription_is_reported_once_and_again_after_it_was_mended(client, caplog):
    caplog.set_level(logging.INFO, "melange.server")
    topic, url = client.topic(), client.queue()
    client.subscribe(topic, url)
    policy = client.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]

    for one in ("", "", policy, ""):
        client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": one})
        client.sns("Publish", TopicArn=topic, Message="order")

    assert [record.getMessage() for record in caplog.records] == [
        f"topic events: no delivery to {client.arn(url)}: the queue's policy does not allow the topic to send"
    ] * 2


def test_the_envelope_of_a_standard_topic_is_signed_and_that_of_a_fifo_topic_is_numbered(client):
    url, fifo_url = client.queue(), client.queue("orders.fifo")
    topic, fifo_topic = client.topic(), client.topic("events.fifo")
    client.subscribe(topic, url, RawMessageDelivery="false")
    client.subscribe(fifo_topic, fifo_url, RawMessageDelivery="false")

    client.sns("Publish", TopicArn=topic, Message="order", Subject="new")
    client.sns(
        "Publish", TopicArn=fifo_topic, Message="order", MessageGroupId="g", MessageDeduplicationId="d"
    )

    [standard] = map(json.loads, client.bodies(url))
    [fifo] = map(json.loads, client.bodies(fifo_url))
    assert (standard["Message"], standard["Subject"], standard["SignatureVersion"]) == ("order", "new", "1")
    assert "Signature" not in fifo
    assert int(fifo["SequenceNumber"]) > 0


def test_a_fifo_topic_deduplicates_and_answers_as_it_did_first(client):
    topic, url = client.topic("events.fifo"), client.queue()
    client.subscribe(topic, url)
    publish = {"TopicArn": topic, "MessageGroupId": "g", "MessageDeduplicationId": "d"}

    first = client.sns("Publish", Message="one", **publish)
    second = client.sns("Publish", Message="two", **publish)

    assert second == first
    [message] = client.receive(url)
    assert message["Body"] == "one"
    assert "MessageGroupId" not in message["Attributes"]


def test_a_filter_decides_what_a_subscription_gets(client):
    topic, url = client.topic(), client.queue()
    client.subscribe(topic, url, FilterPolicy='{"kind": ["order"]}')

    for kind in ("order", "invoice"):
        attributes = {"kind": {"DataType": "String", "StringValue": kind}}
        client.sns("Publish", TopicArn=topic, Message=kind, MessageAttributes=attributes)

    assert client.bodies(url) == ["order"]


def test_subscribing_again_returns_the_same_unless_it_contradicts(client):
    topic, url = client.topic(), client.queue()
    subscription = client.subscribe(topic, url)

    assert client.subscribe(topic, url) == subscription
    with refused("InvalidParameter"):
        client.subscribe(topic, url, RawMessageDelivery="false")


def test_the_owner_of_a_topic_decides_who_else_may_publish(client):
    topic = client.topic()
    other = Client(client.broker, caller=Caller("x", account="111111111111"))

    with refused("AuthorizationError"):
        other.sns("Publish", TopicArn=topic, Message="order")

    client.sns(
        "AddPermission", TopicArn=topic, Label="other", AWSAccountId=["111111111111"], ActionName=["Publish"]
    )
    other.sns("Publish", TopicArn=topic, Message="order")


def test_another_account_cannot_delete_a_topic(client):
    topic = client.topic()
    other = Client(client.broker, caller=Caller("x", account="111111111111"))

    with refused("AuthorizationError"):
        other.sns("DeleteTopic", TopicArn=topic)

    assert client.sns("ListTopics")["Topics"] == [{"TopicArn": topic}]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"Message": ""}, "InvalidParameter"),
        ({"Message": "x" * 262_145}, "InvalidParameter"),
        ({"Message": "m", "Subject": "s" * 101}, "InvalidParameter"),
        ({"Message": "m", "MessageDeduplicationId": "d"}, "InvalidParameter"),
        ({"Message": "{}", "MessageStructure": "json"}, "InvalidParameter"),
        ({"Message": '{"default": "\\ud800"}', "MessageStructure": "json"}, "InvalidParameter"),
        ({"Message": "m", "MessageAttributes": {"a": {"DataType": "String"}}}, "ParameterValueInvalid"),
        ({"Message": "m", "MessageAttributes": {"a": {"StringValue": "v"}}}, "ValidationError"),
    ],
)
def test_a_message_that_aws_refuses_is_refused(client, parameters, code):
    topic = client.topic()

    with refused(code):
        client.sns("Publish", TopicArn=topic, **parameters)


@pytest.mark.parametrize(
    ("arn", "code"),
    [
        ("text", "InvalidParameter"),
        ("arn:aws:sns:eu-west-1:000000000000:events", "InvalidParameter"),
        ("arn:aws:sns:us-east-1:000000000000:none", "NotFound"),
    ],
)
def test_a_topic_that_cannot_be_found_is_told_from_one_that_cannot_exist(client, arn, code):
    with refused(code):
        client.sns("Publish", TopicArn=arn, Message="m")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DeliveryPolicy", '{"http": "text"}'),
        ("DeliveryPolicy", '{"http": {"defaultHealthyRetryPolicy": "text"}}'),
        ("DeliveryPolicy", '{"http": {"defaultHealthyRetryPolicy": {"numRetries": "3"}}}'),
        ("DeliveryPolicy", '{"http": {"defaultRequestPolicy": {"headerContentType": 1}}}'),
        ("Policy", '{"Statement": ["text"]}'),
        ("Policy", '{"Statement": [{"Condition": {"StringEquals": "text"}}]}'),
    ],
)
def test_a_document_that_could_not_be_followed_later_is_refused(client, name, value):
    topic = client.topic()

    with refused("InvalidParameter"):
        client.sns("SetTopicAttributes", TopicArn=topic, AttributeName=name, AttributeValue=value)


def test_a_retry_policy_of_a_subscription_that_could_not_be_followed_is_refused(client):
    topic, url = client.topic(), client.queue()

    with refused("InvalidParameter"):
        client.subscribe(topic, url, DeliveryPolicy='{"healthyRetryPolicy": {"minDelayTarget": -1}}')


@pytest.mark.parametrize("token", ["-5", "text", "1" * 10])
def test_a_token_that_no_page_had_is_refused(client, token):
    client.topic()

    with refused("InvalidParameterValue"):
        client.sns("ListTopics", NextToken=token)


def test_one_wrong_entry_of_a_fifo_batch_fails_all(client):
    topic, url = client.topic("events.fifo"), client.queue("orders.fifo")
    client.subscribe(topic, url)
    right = {"Id": "1", "Message": "m", "MessageGroupId": "g", "MessageDeduplicationId": "d"}

    with refused("InvalidParameter"):
        client.sns(
            "PublishBatch", TopicArn=topic, PublishBatchRequestEntries=[right, {"Id": "2", "Message": "m"}]
        )

    assert client.bodies(url) == []


def test_a_deleted_topic_takes_its_subscriptions_along(client):
    topic, url = client.topic(), client.queue()
    client.subscribe(topic, url)

    client.sns("DeleteTopic", TopicArn=topic)

    assert client.sns("ListSubscriptions")["Subscriptions"] == []


@pytest.mark.parametrize("name", ["orders\nINFO a forged line", "orders\x1b[31m", "orders\u2028"])
def test_an_endpoint_that_could_end_a_line_of_the_log_is_refused(client, name):
    topic = client.topic()
    endpoint = f"arn:aws:sqs:us-east-1:000000000000:{name}"

    with refused("InvalidParameter"):
        client.sns("Subscribe", TopicArn=topic, Protocol="sqs", Endpoint=endpoint)
