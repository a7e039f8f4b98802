"""Messages that nobody published with melange, from the queue to their listener."""

import json

import pytest

from melange.consuming.ordering import lane_of
from melange.messages import Message
from melange.serialization.aws_events import aws_event_type, s3_event_type

S3 = {
    "Records": [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": "cat+1.jpg"}},
        }
    ]
}
EVENTBRIDGE = {
    "version": "0",
    "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "account": "111122223333",
    "detail": {"instance-id": "i-1234567890abcdef0", "state": "terminated"},
}
CONFIRMATION = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
    "Token": "2336412f37",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:orders",
    "Message": "You have chosen to subscribe to the topic.",
    "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
}
SES_TEST = "Successfully validated SNS topic for Amazon SES event publishing."


def send(driver, consumer, *bodies):
    driver.send(consumer.queue, [Message(f"id-{number}", body) for number, body in enumerate(bodies)])


@pytest.mark.parametrize(
    ("body", "type_name"),
    [
        (S3, "s3:ObjectCreated:Put"),
        (EVENTBRIDGE, "EC2 Instance State-change Notification"),
        (CONFIRMATION, "sns:SubscriptionConfirmation"),
    ],
    ids=["S3", "EventBridge", "SNS"],
)
def test_an_event_of_aws_reaches_the_listener_of_its_type_as_it_was_sent(
    driver, make_consumer, dead_letters, body, type_name
):
    consumer = make_consumer(event_type=aws_event_type)
    received, others = [], []
    consumer.listener(type_name, name="of the type")(
        lambda event, event_type_name: received.append((event_type_name, event))
    )
    consumer.listener("another type", name="of another")(others.append)
    send(driver, consumer, json.dumps(body))

    assert consumer.consume_event() == 1

    assert received == [(type_name, body)]
    assert others == []
    assert dead_letters() == []


def test_a_text_that_is_an_event_reaches_its_listener(driver, make_consumer):
    consumer = make_consumer(event_type=aws_event_type, ordered_by="order_id")
    received = []
    consumer.listener("ses:TopicValidated", name="listener")(received.append)
    send(driver, consumer, SES_TEST)

    consumer.consume_event()

    assert received == [SES_TEST]


def test_events_of_others_and_of_melange_share_a_queue(driver, make_consumer, publisher):
    consumer = make_consumer(event_type=s3_event_type)
    received = []
    consumer.listener(name="all")(lambda event, event_type_name: received.append(event_type_name))
    publisher.publish({"event_type_name": "ProductAdded"})
    send(driver, consumer, json.dumps(S3), json.dumps({"event_type_name": "SaidInTheBody"}))

    consumer.consume_event()

    assert received == ["ProductAdded", "s3:ObjectCreated:Put", "SaidInTheBody"]


def test_what_the_function_does_not_recognise_is_dead_lettered_with_advice(
    driver, make_consumer, dead_letters
):
    consumer = make_consumer(event_type=s3_event_type)
    consumer.listener(name="all")(lambda event: None)
    send(driver, consumer, json.dumps(EVENTBRIDGE), SES_TEST, json.dumps(S3))

    assert consumer.consume_event() == 3

    assert [letter.message_id for letter in dead_letters()] == ["id-0", "id-1"]


@pytest.mark.parametrize(
    "slip",
    [lambda body, headers: body["x"]["y"], lambda body, headers: 5, lambda body: "Type"],
    ids=["raises", "returns a number", "takes one argument"],
)
def test_a_slip_of_the_function_dead_letters_its_message_and_spares_the_neighbours(
    driver, make_consumer, publisher, dead_letters, slip
):
    consumer = make_consumer(event_type=slip)
    seen = []
    consumer.listener(name="all")(lambda event, event_type_name: seen.append(event_type_name))
    send(driver, consumer, json.dumps(S3))
    publisher.publish({"event_type_name": "ProductAdded"})

    assert consumer.consume_event() == 2

    assert seen == ["ProductAdded"]
    assert [letter.message_id for letter in dead_letters()] == ["id-0"]


def test_a_copy_of_an_event_of_others_is_recognised(driver, make_consumer):
    consumer = make_consumer(event_type=aws_event_type)
    received = []
    consumer.listener("s3:ObjectCreated:Put", name="listener")(received.append)
    for _ in range(2):
        send(driver, consumer, json.dumps(S3))
        consumer.consume_event()

    assert received == [S3]


def test_events_of_others_are_ordered_by_a_field_of_theirs(driver, make_consumer):
    consumer = make_consumer(event_type=aws_event_type, ordered_by="source")
    send(driver, consumer, json.dumps(EVENTBRIDGE), json.dumps(S3), SES_TEST)

    lanes = [
        lane_of(delivery, consumer.options.ordered_by, consumer.serializer, consumer.options.event_type)
        for delivery in driver.receive(consumer.queue, 10, 0)
    ]

    assert lanes == ["aws.ec2", None, None]
