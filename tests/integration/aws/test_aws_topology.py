"""Topics, queues, bindings, policies and filters, over boto3 against a local server."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from melange.drivers.aws import AwsDriver
from melange.drivers.aws.policies import allowed_topics
from melange.drivers.base import NO_DEAD_LETTER_QUEUE, EventFilter
from melange.errors import QueueNotFoundError, TopicNotFoundError
from melange.messages import Message

FOREIGN_STATEMENT = {"Sid": "Ops", "Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}


@pytest.fixture
def sqs(sns_sqs_server: str) -> Any:
    return boto3.client("sqs", endpoint_url=sns_sqs_server)


@pytest.fixture
def sns(sns_sqs_server: str) -> Any:
    return boto3.client("sns", endpoint_url=sns_sqs_server)


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def attributes_of(sqs: Any, address: str) -> dict[str, str]:
    return sqs.get_queue_attributes(QueueUrl=address, AttributeNames=["All"])["Attributes"]


def policy_of(sqs: Any, address: str) -> dict[str, Any]:
    return json.loads(attributes_of(sqs, address)["Policy"])


def subscription_of(sns: Any, topic_arn: str) -> dict[str, str]:
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=topic_arn)["Subscriptions"]
    return sns.get_subscription_attributes(SubscriptionArn=subscription["SubscriptionArn"])["Attributes"]


def in_threads(count: int, work: Callable[[int], object]) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            start.wait(10)
            work(index)
        except BaseException as error:  # the test reports whatever it is
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_declaring_again_finds_what_is_there(driver, sns, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name, topic)

    assert driver.declare_topic(name) == topic
    assert driver.declare_queue(name, topic) == queue
    assert driver.get_topic(name) == topic
    assert driver.get_queue(name) == queue
    assert len(sns.list_subscriptions_by_topic(TopicArn=topic.address)["Subscriptions"]) == 1


def test_topics_and_queues_are_found_by_arn(driver, sqs, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name)

    assert driver.get_topic(topic.address) == topic
    assert driver.get_queue(attributes_of(sqs, queue.address)["QueueArn"]) == queue


def test_what_does_not_exist_is_said_and_not_created(driver, sqs, name):
    with pytest.raises(QueueNotFoundError):
        driver.get_queue(name)
    with pytest.raises(TopicNotFoundError):
        driver.get_topic(name)

    assert name not in str(sqs.list_queues(QueueNamePrefix=name))


def test_new_subscriptions_use_raw_delivery(driver, sns, name):
    topic = driver.declare_topic(name)

    driver.declare_queue(name, topic)

    assert subscription_of(sns, topic.address)["RawMessageDelivery"] == "true"


def test_a_subscription_that_is_there_is_left_as_it_is_and_its_envelope_is_read(driver, sns, sqs, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name)
    sns.subscribe(
        TopicArn=topic.address, Protocol="sqs", Endpoint=attributes_of(sqs, queue.address)["QueueArn"]
    )

    driver.declare_queue(name, topic)
    driver.publish(topic, [Message("id-1", '{"a":1}', headers={"trace": "ü"})])
    (delivery,) = driver.receive(queue, 10, 5)

    assert subscription_of(sns, topic.address).get("RawMessageDelivery", "false") == "false"
    assert (delivery.message.message_id, delivery.message.body) == ("id-1", '{"a":1}')
    assert delivery.message.headers == {"trace": "ü"}


def test_messages_of_other_publishers_are_read(driver, sns, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name, topic)

    sns.publish(
        TopicArn=topic.address,
        Message="plain",
        MessageAttributes={
            "count": {"DataType": "Number", "StringValue": "5"},
            "blob": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
        },
    )
    (delivery,) = driver.receive(queue, 10, 5)

    assert delivery.message.body == "plain"
    assert delivery.message.headers == {"count": "5", "blob": "AAE="}


def test_a_second_topic_joins_and_statements_of_others_stay(driver, sqs, name):
    first, second = driver.declare_topic(f"{name}-1"), driver.declare_topic(f"{name}-2")
    queue = driver.declare_queue(name)
    theirs = {**FOREIGN_STATEMENT, "Resource": attributes_of(sqs, queue.address)["QueueArn"]}
    sqs.set_queue_attributes(
        QueueUrl=queue.address,
        Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [theirs]})},
    )

    driver.declare_queue(name, first)
    driver.declare_queue(name, second)

    statements = policy_of(sqs, queue.address)["Statement"]
    assert theirs in statements
    assert len(statements) == 2
    assert set(allowed_topics(attributes_of(sqs, queue.address)["Policy"])) == {first.address, second.address}


def test_concurrent_declarations_by_several_drivers_lose_no_topic(
    driver, sqs, sns_sqs_server, name, monkeypatch
):
    # A thread of a busy machine may be held up between its look at the policy and its change.
    monkeypatch.setattr("melange.drivers.aws.subscriptions._SETTLING_SECONDS", 1)
    topics = [driver.declare_topic(f"{name}-{number}") for number in range(4)]

    def declare(index: int) -> None:
        with AwsDriver(endpoint_url=sns_sqs_server, call_timeout_seconds=60) as own_driver:
            own_driver.declare_queue(name, topics[index], retention_seconds=600)

    in_threads(4, declare)

    policy = attributes_of(sqs, driver.get_queue(name).address)["Policy"]
    assert set(allowed_topics(policy)) == {topic.address for topic in topics}


def test_what_is_named_is_reconciled_and_the_rest_is_untouched(driver, sqs, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    driver.declare_queue(name, dead_letter_queue=dead_letters, max_receive_count=7, retention_seconds=600)
    driver.declare_queue(name, retention_seconds=1_200)

    queue = driver.declare_queue(name)

    assert (queue.dead_letter_queue, queue.max_receive_count) == (dead_letters, 7)
    assert attributes_of(sqs, queue.address)["MessageRetentionPeriod"] == "1200"


def test_the_receive_count_can_be_changed_alone(driver, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    driver.declare_queue(name, dead_letter_queue=dead_letters, max_receive_count=7)

    queue = driver.declare_queue(name, max_receive_count=9)

    assert (queue.dead_letter_queue, queue.max_receive_count) == (dead_letters, 9)


def test_a_dead_letter_queue_can_be_taken_off(driver, name):
    driver.declare_queue(name, dead_letter_queue=driver.declare_queue(f"{name}-dlq"))

    driver.declare_queue(name, dead_letter_queue=NO_DEAD_LETTER_QUEUE)

    assert driver.get_queue(name).dead_letter_queue is None


def test_a_dead_letter_queue_that_is_gone_counts_as_none(driver, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    driver.declare_queue(name, dead_letter_queue=dead_letters)

    driver.delete_queue(dead_letters)

    assert driver.get_queue(name).dead_letter_queue is None


def test_tags_are_set_on_new_and_on_existing_ones(driver, sns, sqs, name):
    for tags in ({"team": "shop"}, {"team": "warehouse", "stage": "test"}):
        topic = driver.declare_topic(name, tags=tags)
        queue = driver.declare_queue(name, tags=tags)

    listed = sns.list_tags_for_resource(ResourceArn=topic.address)["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in listed} == tags
    assert sqs.list_queue_tags(QueueUrl=queue.address)["Tags"] == tags


def test_the_key_is_set_on_topics_and_queues_new_or_not(driver, sns, sqs, sns_sqs_server, name):
    driver.declare_topic(name)

    with AwsDriver(endpoint_url=sns_sqs_server, kms_master_key_id="alias/shop") as encrypting:
        topic, queue = encrypting.declare_topic(name), encrypting.declare_queue(name)

    assert sns.get_topic_attributes(TopicArn=topic.address)["Attributes"]["KmsMasterKeyId"] == "alias/shop"
    assert attributes_of(sqs, queue.address)["KmsMasterKeyId"] == "alias/shop"


def test_a_filter_is_set_changed_and_kept_when_not_named(driver, sns, name):
    topic = driver.declare_topic(name)
    for event_filter in (EventFilter(("A",)), EventFilter(("A", "B")), EventFilter(("C",), "body"), None):
        driver.declare_queue(name, topic, event_filter=event_filter)

    attributes = subscription_of(sns, topic.address)

    assert json.loads(attributes["FilterPolicy"]) == {"event_type_name": ["C"]}
    assert attributes["FilterPolicyScope"] == "MessageBody"


def test_a_filter_of_one_queue_leaves_the_other_queues_alone(driver, name):
    topic = driver.declare_topic(name)
    everything = driver.declare_queue(f"{name}-1", topic)
    only_b = driver.declare_queue(f"{name}-2", topic, event_filter=EventFilter(("B",)))

    driver.publish(topic, [Message("a", "{}", event_type_name="A"), Message("b", "{}", event_type_name="B")])

    assert [delivery.message.message_id for delivery in driver.receive(only_b, 10, 5)] == ["b"]
    assert len(driver.receive(everything, 10, 5)) == 2


def test_a_filter_can_be_taken_off(driver, sns, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name, topic, event_filter=EventFilter(("A",), "body"))

    driver.declare_queue(name, topic, event_filter=EventFilter(()))
    driver.publish(topic, [Message("b", "{}", event_type_name="B")])

    assert [delivery.message.message_id for delivery in driver.receive(queue, 10, 5)] == ["b"]
    assert [binding.event_filter for binding in driver.list_bindings(queue)] == [None]


def test_what_feeds_a_queue_is_listed(driver, name):
    first, second = driver.declare_topic(f"{name}-1"), driver.declare_topic(f"{name}-2")
    queue = driver.declare_queue(name, first)
    driver.declare_queue(name, second, event_filter=EventFilter(("A", "B")))
    driver.declare_queue(f"{name}-other", first)

    bindings = {binding.topic.address: binding.event_filter for binding in driver.list_bindings(queue)}

    assert bindings == {first.address: None, second.address: EventFilter(("A", "B"))}


def test_a_queue_is_found_and_bound_by_its_url(driver, sns, name):
    topic, queue = driver.declare_topic(name), driver.declare_queue(name)

    assert driver.get_queue(queue.address) == queue
    assert driver.declare_queue(queue.address, topic) == queue

    assert len(sns.list_subscriptions_by_topic(TopicArn=topic.address)["Subscriptions"]) == 1


def test_a_dead_letter_is_the_message_as_it_was_received(driver, sqs, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    queue = driver.declare_queue(name, dead_letter_queue=dead_letters)
    attributes = {
        "weight": {"DataType": "Number", "StringValue": "7"},
        "picture": {"DataType": "Binary.png", "BinaryValue": b"\x00\x01"},
        "shop": {"DataType": "String", "StringValue": "ü"},
    }
    trace = {
        "AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a9942727"}
    }
    sqs.send_message(
        QueueUrl=queue.address,
        MessageBody="plain",
        MessageAttributes=attributes,
        MessageSystemAttributes=trace,
    )
    (delivery,) = driver.receive(queue, 10, 5)

    driver.dead_letter(delivery, '{"reason":"no"}')

    answer = sqs.receive_message(
        QueueUrl=dead_letters.address,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["AWSTraceHeader"],
        WaitTimeSeconds=5,
    )
    (raw,) = answer["Messages"]
    assert raw["Body"] == "plain"
    assert {name: raw["MessageAttributes"][name] for name in attributes} == attributes
    assert raw["MessageAttributes"]["melange-message-id"]["StringValue"] == delivery.message.message_id
    assert raw["MessageAttributes"]["melange-dead-letter"]["StringValue"] == '{"reason":"no"}'
    assert raw["Attributes"]["AWSTraceHeader"] == trace["AWSTraceHeader"]["StringValue"]


def test_a_message_of_the_largest_size_can_be_dead_lettered(driver, sqs, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    queue = driver.declare_queue(name, dead_letter_queue=dead_letters)
    body = "x" * queue.max_message_bytes
    sqs.send_message(QueueUrl=queue.address, MessageBody=body)
    (delivery,) = driver.receive(queue, 10, 5)

    driver.dead_letter(delivery, '{"reason":"no"}')

    (dead_letter,) = driver.receive(dead_letters, 10, 5)
    assert dead_letter.message.body == body


def test_the_longest_delay_is_accepted_some_time_after_the_receive(driver, name):
    queue = driver.declare_queue(name)
    driver.send(queue, [Message("id", "{}")])
    (delivery,) = driver.receive(queue, 1, 5)
    received_at = driver.clock.monotonic()
    while driver.clock.monotonic() < received_at + 1.1:
        driver.receive(queue, 1, 1)

    assert driver.defer([delivery], 43_200) == []


def test_deleting_a_queue_takes_its_subscriptions_along(driver, sns, name):
    topic = driver.declare_topic(name)
    queue = driver.declare_queue(name, topic)

    driver.delete_queue(queue)
    driver.delete_queue(queue)

    assert sns.list_subscriptions_by_topic(TopicArn=topic.address)["Subscriptions"] == []


def test_a_queue_is_measured_and_purged(driver, name):
    queue = driver.declare_queue(name)
    driver.send(queue, [Message(f"id-{number}", "{}") for number in range(3)])
    driver.send(queue, [Message("late", "{}")], delay_seconds=600)
    driver.receive(queue, 1, 1)

    depth = driver.measure_queue(queue)
    driver.purge_queue(queue)

    assert (depth.visible, depth.in_flight, depth.delayed) == (2, 1, 1)
    assert driver.measure_queue(queue).visible == 0


@pytest.mark.skipif(
    os.environ.get("MELANGE_TEST_SERVER") == "ministack",
    reason="MiniStack has no message move tasks",
)
def test_a_dead_letter_of_a_consumer_is_moved_back_to_a_named_destination(driver, sqs, name):
    dead_letters = driver.declare_queue(f"{name}-dlq")
    queue = driver.declare_queue(name, dead_letter_queue=dead_letters)
    driver.send(queue, [Message("id-1", "{}", headers={"tenant": "north"})])
    (delivery,) = driver.receive(queue, 1, 5)
    driver.dead_letter(delivery, '{"reason":"no"}')
    driver.acknowledge([delivery])

    sqs.start_message_move_task(
        SourceArn=attributes_of(sqs, dead_letters.address)["QueueArn"],
        DestinationArn=attributes_of(sqs, queue.address)["QueueArn"],
    )

    (moved,) = driver.receive(queue, 1, 20)
    assert (moved.message.message_id, moved.message.headers["tenant"]) == ("id-1", "north")
