"""The event log: what happened to a message, found by id, type and text."""

import json

import pytest

from melange.server.event_log import EventLog
from melange.server.stories import find_stories, find_story
from waiting import eventually


def kinds(story):
    return [event.kind for event in story.events]


@pytest.fixture
def only_story(client):
    """Return the only story that the log has."""

    def find(**wanted):
        [story] = find_stories(client.broker, **wanted)
        return story

    return find


def test_the_story_of_a_message_goes_from_send_to_delete(client, only_story):
    url = client.queue()
    client.send(url, "order")

    client.delete(url, *client.receive(url))

    assert kinds(only_story()) == ["sent", "received", "deleted"]
    assert only_story().body == "order"


def test_a_publication_and_its_copies_are_one_story(client, only_story):
    topic, orders, audit = client.topic(), client.queue("orders"), client.queue("audit")
    client.subscribe(topic, orders)
    client.subscribe(topic, audit, FilterPolicy='{"kind": ["refund"]}')

    published = client.sns("Publish", TopicArn=topic, Message="order")["MessageId"]

    story = only_story(message_id=published)
    assert kinds(story) == ["published", "sent", "filtered out"]
    assert story.events[1].arn == client.arn(orders)
    assert story.events[2].other_arn == client.arn(audit)
    assert '{"kind": ["refund"]}' in story.events[2].reason
    assert find_story(client.broker, client.receive(orders)[0]["MessageId"]).message_id == published


def test_a_subscription_that_cannot_be_served_says_why(client, only_story):
    topic = client.topic()
    url = client.queue()
    client.subscribe(topic, url)
    client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": ""})

    client.sns("Publish", TopicArn=topic, Message="order")

    assert only_story().events[1].kind == "not delivered"
    assert "policy" in only_story().events[1].reason


def test_receives_have_their_number_and_their_receiver(client, only_story):
    url = client.queue()
    client.send(url, "order")

    for _ in range(2):
        client.receive(url, VisibilityTimeout=0)

    received = only_story().events[1:]
    assert [(event.kind, event.receive_count) for event in received] == [("received", 1), ("received", 2)]
    assert received[0].caller == client.caller


def test_a_lease_that_expired_is_told(client, only_story):
    url = client.queue(VisibilityTimeout="30")
    client.send(url, "order")
    client.receive(url)

    assert kinds(only_story()) == ["sent", "received"]
    client.clock.advance(31)

    assert kinds(only_story()) == ["sent", "received", "lease expired"]
    assert only_story().events[2].at == pytest.approx(only_story().events[1].at + 30)


def test_a_lease_that_was_ended_does_not_expire(client, only_story):
    url = client.queue(VisibilityTimeout="30")
    client.send(url, "order")
    [message] = client.receive(url)

    client.sqs(
        "ChangeMessageVisibility",
        QueueUrl=url,
        ReceiptHandle=message["ReceiptHandle"],
        VisibilityTimeout=0,
    )
    client.clock.advance(60)

    assert kinds(only_story()) == ["sent", "received", "visibility changed"]


def test_a_dead_letter_says_how_often_it_was_received(client, only_story):
    dead = client.queue("dead")
    policy = json.dumps({"deadLetterTargetArn": client.arn(dead), "maxReceiveCount": 1})
    url = client.queue("orders", RedrivePolicy=policy, VisibilityTimeout="0")
    client.send(url, "order")

    client.receive(url)
    client.receive(url)

    event = only_story().events[-1]
    assert (event.kind, event.other_arn) == ("dead-lettered", client.arn(dead))
    assert event.reason == "received once; the maxReceiveCount of the queue is 1"


def test_a_dead_letter_of_melange_is_in_the_story_of_its_message_with_its_reason(client, only_story):
    url, dead = client.queue("orders"), client.queue("dead")
    attributes = {"melange-message-id": {"DataType": "String", "StringValue": "7"}}
    client.send(url, "order", MessageAttributes=attributes)
    note = {"melange-dead-letter": {"DataType": "String", "StringValue": '{"reason": "no stock"}'}}

    client.send(dead, "order", MessageAttributes=attributes | note)

    assert kinds(only_story()) == ["sent", "sent"]
    assert "no stock" in only_story(text="no STOCK").events[1].reason


def test_an_expired_message_says_so(client, only_story):
    url = client.queue(MessageRetentionPeriod="60")
    client.send(url, "order")

    client.clock.advance(61)
    client.receive(url)

    assert kinds(only_story()) == ["sent", "expired"]


@pytest.mark.parametrize(("operation", "kind"), [("PurgeQueue", "purged"), ("DeleteQueue", "queue deleted")])
def test_the_end_of_all_messages_of_a_queue_is_in_the_stories_of_those_that_were_there(
    client, operation, kind
):
    url = client.queue()
    client.send(url, "deleted before", "there")
    client.delete(url, client.receive(url, MaxNumberOfMessages=1)[0])

    client.sqs(operation, QueueUrl=url)

    assert [kinds(story)[-1] for story in find_stories(client.broker, text="before")] == ["deleted"]
    assert [kinds(story)[-1] for story in find_stories(client.broker, text="there")] == [kind]


def test_a_duplicate_is_in_the_story_of_the_first_message(client, only_story):
    url = client.queue("orders.fifo")

    for _ in range(2):
        client.send(url, "order", MessageGroupId="1", MessageDeduplicationId="1")

    assert kinds(only_story()) == ["sent", "dropped as duplicate"]


@pytest.mark.parametrize("wanted", [{"event_type": "ORDERPLACED"}, {"text": "TWO lamps"}, {"text": "blue"}])
def test_messages_are_found_by_type_and_text(client, only_story, wanted):
    url = client.queue()
    client.send(
        url,
        "two lamps",
        MessageAttributes={
            "event_type_name": {"DataType": "String", "StringValue": "OrderPlaced"},
            "colour": {"DataType": "String", "StringValue": "blue"},
        },
    )
    client.send(url, "another")

    assert only_story(**wanted).body == "two lamps"
    assert find_stories(client.broker, **dict.fromkeys(wanted, "nothing")) == []


def test_the_newest_stories_come_first(client):
    url = client.queue()
    for body in "123":
        client.send(url, body)
        client.clock.advance(1)

    found = find_stories(client.broker, limit=2)

    assert [story.body for story in found] == ["3", "2"]


def test_a_reset_empties_the_log(client):
    client.send(client.queue(), "order")

    client.broker.reset()

    assert find_stories(client.broker) == []


def test_the_log_is_bounded_in_number(client):
    client.broker.event_log = EventLog(max_entries=5)
    url = client.queue()

    client.send(url, *"123456789")

    assert len(client.broker.event_log.entries()) == 5
    assert client.broker.event_log.forgotten == 4


def test_the_log_is_bounded_in_bytes(client):
    client.broker.event_log = EventLog(max_bytes=10_000)
    url = client.queue()

    client.send(url, *("x" * 3_000 for _ in range(9)))

    assert len(find_stories(client.broker)) == 2


def test_the_story_of_a_message_goes_on_after_a_move_task(client, only_story):
    dead = client.queue("dead")
    policy = json.dumps({"deadLetterTargetArn": client.arn(dead), "maxReceiveCount": 1})
    url = client.queue("orders", RedrivePolicy=policy, VisibilityTimeout="0")
    client.send(url, "order")
    client.receive(url)
    client.receive(url)

    client.sqs("StartMessageMoveTask", SourceArn=client.arn(dead))

    assert eventually(lambda: kinds(only_story())[-1] == "moved")
    assert only_story().events[-1].other_arn == client.arn(url)
    assert len(only_story().message_ids) == 2


def test_a_story_is_found_by_each_id_of_its_message(client):
    topic, url = client.topic(), client.queue()
    client.subscribe(topic, url)
    own_id = {"melange-message-id": {"DataType": "String", "StringValue": "order-7"}}
    published = client.sns("Publish", TopicArn=topic, Message="order", MessageAttributes=own_id)["MessageId"]
    [message] = client.receive(url)

    for message_id in (published, message["MessageId"], "order-7"):
        assert find_story(client.broker, message_id).body == "order"
        assert len(find_stories(client.broker, message_id=message_id)) == 1
    assert find_story(client.broker, published[:-1]) is None
