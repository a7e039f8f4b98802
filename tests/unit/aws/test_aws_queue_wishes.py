"""What a caller wants of a queue: contradictions refused, and only what differs is changed."""

import json

import pytest

from melange.drivers.aws.bindings import filter_attributes
from melange.drivers.aws.queue_wishes import QueueWishes
from melange.drivers.base import EventFilter, Queue, Topic
from melange.errors import ConfigurationError, InvalidNameError

DLQ = Queue("stock-dlq", "https://sqs.example/1/stock-dlq")
DLQ_ARN = "arn:aws:sqs:us-east-1:123456789012:stock-dlq"
OTHER_ARN = "arn:aws:sqs:us-east-1:123456789012:other"
REDRIVEN = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": DLQ_ARN, "maxReceiveCount": 7})}


def wishes(**named):
    return QueueWishes("stock", (), **named)


def redrive_of(changes):
    policy = json.loads(changes["RedrivePolicy"])
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])


def test_nothing_named_changes_nothing():
    current = {**REDRIVEN, "MessageRetentionPeriod": "60", "KmsMasterKeyId": "theirs"}

    assert wishes().changes(current, None, None) == {}


def test_what_is_as_named_is_not_set_again():
    current = {**REDRIVEN, "MessageRetentionPeriod": "600", "KmsMasterKeyId": "key"}

    named = wishes(dead_letter_queue=DLQ, max_receive_count=7, retention_seconds=600)

    assert named.changes(current, DLQ_ARN, "key") == {}


def test_what_differs_is_set():
    changes = wishes(retention_seconds=600).changes({"MessageRetentionPeriod": "60"}, None, "key")

    assert changes == {"MessageRetentionPeriod": "600", "KmsMasterKeyId": "key"}


def test_a_new_dead_letter_queue_gets_the_brokers_receive_count():
    assert redrive_of(wishes(dead_letter_queue=DLQ).changes({}, DLQ_ARN, None)) == (DLQ_ARN, 10)


def test_a_receive_count_that_is_not_named_stays():
    assert wishes(dead_letter_queue=DLQ).changes(REDRIVEN, DLQ_ARN, None) == {}
    assert redrive_of(wishes(dead_letter_queue=DLQ).changes(REDRIVEN, OTHER_ARN, None)) == (OTHER_ARN, 7)


def test_a_dead_letter_queue_that_is_not_named_stays():
    assert redrive_of(wishes(max_receive_count=9).changes(REDRIVEN, None, None)) == (DLQ_ARN, 9)


def test_none_takes_the_dead_letter_queue_off():
    assert wishes(dead_letter_queue=None).changes(REDRIVEN, None, None) == {"RedrivePolicy": ""}
    assert wishes(dead_letter_queue=None).changes({}, None, None) == {}


def test_a_receive_count_needs_a_dead_letter_queue():
    with pytest.raises(ConfigurationError, match="dead_letter_queue="):
        wishes(max_receive_count=3).changes({}, None, None)
    with pytest.raises(ConfigurationError, match="dead_letter_queue="):
        wishes(dead_letter_queue=None, max_receive_count=3).check()


@pytest.mark.parametrize("count", [0, 1_001, 2.5])
def test_a_receive_count_that_sqs_would_refuse_is_refused(count):
    with pytest.raises(ConfigurationError, match="max_receive_count"):
        wishes(dead_letter_queue=DLQ, max_receive_count=count).check()


@pytest.mark.parametrize("seconds", [59, 1_209_601, 60.5])
def test_a_retention_that_sqs_would_refuse_is_refused(seconds):
    with pytest.raises(ConfigurationError, match="retention_seconds"):
        wishes(retention_seconds=seconds).check()


def test_a_standard_topic_cannot_feed_a_fifo_queue():
    with pytest.raises(ConfigurationError, match="make both FIFO"):
        QueueWishes("stock.fifo", [Topic("products", "arn")]).check()


def test_a_fifo_topic_feeds_both_kinds_of_queue():
    topic = Topic("products.fifo", "arn", is_fifo=True)

    QueueWishes("stock.fifo", [topic]).check()
    QueueWishes("stock", [topic]).check()


@pytest.mark.parametrize(
    ("name", "dead_letter_queue"),
    [("stock.fifo", DLQ), ("stock", Queue("stock-dlq.fifo", "url", is_fifo=True))],
)
def test_a_dead_letter_queue_is_of_its_sources_kind(name, dead_letter_queue):
    with pytest.raises(ConfigurationError, match="both be FIFO or neither"):
        QueueWishes(name, (), dead_letter_queue).check()


def test_content_based_deduplication_is_for_fifo_queues():
    with pytest.raises(ConfigurationError, match=r"stock\.fifo"):
        wishes(content_based_deduplication=True).check()


def test_a_name_that_sqs_would_refuse_is_refused():
    with pytest.raises(InvalidNameError):
        QueueWishes("no spaces", ()).check()


@pytest.mark.parametrize("count", [0, 151])
def test_a_filter_names_1_to_150_types(count):
    event_filter = EventFilter(tuple(f"Event{number}" for number in range(count)))

    with pytest.raises(ConfigurationError, match="150"):
        wishes(event_filter=event_filter).check()


def test_a_filter_by_header_reads_our_attribute():
    assert filter_attributes(EventFilter(("A", "B", "A"))) == {
        "FilterPolicyScope": "MessageAttributes",
        "FilterPolicy": '{"melange-event-type":["A","B"]}',
    }


def test_a_filter_by_body_reads_the_type_in_the_event():
    assert filter_attributes(EventFilter(("A",), scope="body")) == {
        "FilterPolicyScope": "MessageBody",
        "FilterPolicy": '{"event_type_name":["A"]}',
    }
