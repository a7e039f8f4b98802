"""A queue specification as SQS attributes: only what was named and differs is changed."""

import json

import pytest

from melange.drivers.aws.queues import attributes_to_change as changes
from melange.drivers.aws.subscriptions import event_filter_from, filter_attributes
from melange.drivers.base import NO_DEAD_LETTER_QUEUE, EventFilter
from melange.drivers.queue_spec import QueueSpec
from melange.errors import ConfigurationError
from melange.messages import Queue

DLQ = Queue("stock-dlq", "https://sqs.example/1/stock-dlq")
DLQ_ARN = "arn:aws:sqs:us-east-1:123456789012:stock-dlq"
OTHER_ARN = "arn:aws:sqs:us-east-1:123456789012:other"
REDRIVEN = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": DLQ_ARN, "maxReceiveCount": 7})}


def spec(**named):
    return QueueSpec("stock", (), **named)


def redrive_of(changed):
    policy = json.loads(changed["RedrivePolicy"])
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])


def test_nothing_named_changes_nothing():
    current = {**REDRIVEN, "MessageRetentionPeriod": "60", "KmsMasterKeyId": "theirs"}

    assert changes(spec(), current, None, None) == {}


def test_what_is_as_named_is_not_set_again():
    current = {**REDRIVEN, "MessageRetentionPeriod": "600", "KmsMasterKeyId": "key"}

    named = spec(dead_letter_queue=DLQ, max_receive_count=7, retention_seconds=600)

    assert changes(named, current, DLQ_ARN, "key") == {}


def test_what_differs_is_set():
    changed = changes(spec(retention_seconds=600), {"MessageRetentionPeriod": "60"}, None, "key")

    assert changed == {"MessageRetentionPeriod": "600", "KmsMasterKeyId": "key"}


def test_a_new_dead_letter_queue_gets_the_brokers_receive_count():
    assert redrive_of(changes(spec(dead_letter_queue=DLQ), {}, DLQ_ARN, None)) == (DLQ_ARN, 10)


def test_a_receive_count_that_is_not_named_stays():
    assert changes(spec(dead_letter_queue=DLQ), REDRIVEN, DLQ_ARN, None) == {}
    assert redrive_of(changes(spec(dead_letter_queue=DLQ), REDRIVEN, OTHER_ARN, None)) == (OTHER_ARN, 7)


def test_a_dead_letter_queue_that_is_not_named_stays():
    assert redrive_of(changes(spec(max_receive_count=9), REDRIVEN, None, None)) == (DLQ_ARN, 9)


def test_none_takes_the_dead_letter_queue_off():
    assert changes(spec(dead_letter_queue=NO_DEAD_LETTER_QUEUE), REDRIVEN, None, None) == {
        "RedrivePolicy": ""
    }
    assert changes(spec(dead_letter_queue=NO_DEAD_LETTER_QUEUE), {}, None, None) == {}


def test_a_receive_count_needs_a_dead_letter_queue():
    with pytest.raises(ConfigurationError, match="dead_letter_queue="):
        changes(spec(max_receive_count=3), {}, None, None)


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


def test_a_filter_without_types_takes_a_filter_off():
    assert filter_attributes(EventFilter(())) == {"FilterPolicy": "{}"}


@pytest.mark.parametrize("event_filter", [EventFilter(("A", "B")), EventFilter(("A",), scope="body")])
def test_a_filter_is_read_back_as_it_was_written(event_filter):
    assert event_filter_from(filter_attributes(event_filter)) == event_filter


@pytest.mark.parametrize("policy", [None, "{}", "not JSON", "[]"])
def test_no_filter_is_read_where_everything_passes(policy):
    assert event_filter_from({"FilterPolicy": policy} if policy else {}) is None


def test_of_a_filter_of_others_only_event_types_are_told():
    policy = {"store": ["north"], "melange-event-type": ["A", {"prefix": "B"}]}

    assert event_filter_from({"FilterPolicy": json.dumps(policy)}) == EventFilter(("A",))
