"""What becomes of the entries of a batch: each is judged by itself, none is forgotten."""

import threading

import pytest
from botocore.exceptions import ConnectTimeoutError

from aws_answers import (
    FIFO_QUEUE,
    FIFO_TOPIC,
    QUEUE,
    TOPIC,
    InstantClock,
    batch_answer,
    publish_answer,
    sns_error,
    sqs_answer,
    sqs_error,
)
from melange.errors import (
    AccessDeniedError,
    DriverConnectionError,
    DriverError,
    InvalidMessageError,
    LeaseLostError,
    MessageTooLargeError,
    QueueNotFoundError,
    TopicNotFoundError,
)
from melange.messages import Delivery, Message, Queue

DEADLINE_SECONDS = 30

THROTTLED = {"Code": "ThrottlingException", "SenderFault": True, "Message": "slow down"}
FAULT_OF_AWS = {"Code": "InternalError", "SenderFault": False, "Message": "oops"}
REFUSED = {"Code": "InvalidMessageContents", "SenderFault": True, "Message": "bad character"}
RAW = {"MessageId": "m-1", "ReceiptHandle": "handle-9", "Body": "{}", "Attributes": {}}
STALE = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "handle-0 is stale"}


def messages(count, **fields):
    return [Message(f"id-{number}", f'{{"n":{number}}}', **fields) for number in range(count)]


def fifo_messages(count):
    return [
        Message(f"id-{number}", "{}", message_group_id="g", message_deduplication_id=f"d{number}")
        for number in range(count)
    ]


def deliveries(count, queue=QUEUE, deadline=2_000.0):
    return [
        Delivery(Message(f"id-{number}", "{}"), queue, f"handle-{number}", 1, deadline)
        for number in range(count)
    ]


def ids(failures):
    items = [failure.item for failure in failures]
    return [(item.message if isinstance(item, Delivery) else item).message_id for item in items]


def test_eleven_messages_travel_as_ten_and_one(broker):
    broker.will_answer("PublishBatch", publish_answer())

    assert broker.driver().publish(TOPIC, messages(11)) == []

    assert [len(call["PublishBatchRequestEntries"]) for call in broker.sent["PublishBatch"]] == [10, 1]


def test_nothing_is_called_for_no_messages(broker):
    assert broker.driver().publish(TOPIC, []) == []
    assert broker.driver().acknowledge([]) == []

    assert not broker.sent


def test_a_batch_stays_within_the_topics_bytes(broker):
    broker.will_answer("PublishBatch", publish_answer())
    large = [Message(f"id-{number}", "é" * 60_000) for number in range(5)]

    assert broker.driver().publish(TOPIC, large) == []

    assert [len(call["PublishBatchRequestEntries"]) for call in broker.sent["PublishBatch"]] == [2, 2, 1]


def test_bytes_of_headers_count_in_a_batch(broker):
    broker.will_answer("SendMessageBatch", batch_answer())
    queue = Queue("stock", QUEUE.address, max_message_bytes=10_000)

    assert broker.driver().send(queue, messages(3, headers={"trace": "x" * 4_800})) == []

    assert [len(call["Entries"]) for call in broker.sent["SendMessageBatch"]] == [2, 1]


def test_the_group_of_a_message_on_a_standard_queue_is_passed_on_as_its_fairness_key(broker):
    broker.will_answer("SendMessageBatch", batch_answer())

    broker.driver().send(QUEUE, messages(1, message_group_id="tenant-7"))

    assert broker.sent["SendMessageBatch"][0]["Entries"][0]["MessageGroupId"] == "tenant-7"


def test_only_what_failed_in_passing_is_sent_again(broker):
    broker.will_answer("SendMessageBatch", batch_answer({"1": THROTTLED, "2": FAULT_OF_AWS}), batch_answer())
    clock = InstantClock()

    assert broker.driver(clock).send(QUEUE, messages(3)) == []

    again = broker.sent["SendMessageBatch"][1]["Entries"]
    assert [entry["MessageBody"] for entry in again] == ['{"n":1}', '{"n":2}']
    assert len(clock.waits) == 1


def test_entries_that_keep_failing_are_reported_after_four_attempts(broker):
    broker.will_answer("SendMessageBatch", batch_answer({"1": THROTTLED}))
    clock = InstantClock()

    failures = broker.driver(clock).send(QUEUE, messages(3))

    assert ids(failures) == ["id-1"]
    assert isinstance(failures[0].error, DriverConnectionError)
    assert len(broker.sent["SendMessageBatch"]) == 4
    assert all(wait <= longest for wait, longest in zip(clock.waits, [0.2, 0.4, 0.8], strict=True))


def test_an_entry_that_the_answer_does_not_mention_has_failed(broker):
    broker.will_answer("SendMessageBatch", batch_answer(forgotten=frozenset({"2"})))

    failures = broker.driver().send(QUEUE, messages(3))

    assert ids(failures) == ["id-2"]


def test_what_the_sender_did_wrong_is_reported_at_once(broker):
    broker.will_answer("SendMessageBatch", batch_answer({"0": REFUSED}))

    failures = broker.driver().send(QUEUE, messages(2))

    assert ids(failures) == ["id-0"]
    assert type(failures[0].error) is InvalidMessageError
    assert "bad character" in str(failures[0].error)
    assert len(broker.sent["SendMessageBatch"]) == 1


def test_failed_entries_of_sns_are_read_as_well(broker):
    broker.will_answer(
        "PublishBatch",
        publish_answer({"0": ("InvalidParameter", True), "1": ("InternalError", False)}),
        publish_answer(),
    )

    failures = broker.driver().publish(TOPIC, messages(2))

    assert ids(failures) == ["id-0"]
    assert len(broker.sent["PublishBatch"]) == 2


def test_a_fifo_topic_is_not_sent_the_rest_after_a_failure(broker):
    broker.will_answer("PublishBatch", publish_answer(), publish_answer({"3": ("InvalidParameter", True)}))

    failures = broker.driver().publish(FIFO_TOPIC, fifo_messages(25))

    assert ids(failures) == ["id-13", *(f"id-{number}" for number in range(20, 25))]
    assert len(broker.sent["PublishBatch"]) == 2
    assert type(failures[-1].error) is DriverError
    assert "not sent" in str(failures[-1].error)


def test_a_standard_topic_is_sent_the_rest_after_a_refused_message(broker):
    broker.will_answer("PublishBatch", publish_answer({"3": ("InvalidParameter", True)}), publish_answer())

    failures = broker.driver().publish(TOPIC, messages(25))

    assert ids(failures) == ["id-3"]
    assert len(broker.sent["PublishBatch"]) == 3


def test_a_broker_out_of_reach_fails_the_batch_and_the_rest_is_not_tried(broker):
    broker.will_answer("PublishBatch", publish_answer(), ConnectTimeoutError(endpoint_url="https://aws"))

    failures = broker.driver().publish(TOPIC, messages(35))

    assert ids(failures) == [f"id-{number}" for number in range(10, 35)]
    assert isinstance(failures[0].error, DriverConnectionError)
    assert "not sent" in str(failures[-1].error)
    assert broker.requests["PublishBatch"] == 1 + 4


class Network:
    """Answers as ``answer`` does, on a clock that shows 10 ms for each call; all but the first wait for ``side_by_side``."""

    def __init__(self, answer, side_by_side=1):
        self.clock = InstantClock()
        self.callers = []
        self._answer = answer
        self._together = threading.Barrier(side_by_side)

    def __call__(self, params):
        self.callers.append(threading.current_thread())
        self.clock.seconds += 0.01
        if len(self.callers) > 1:
            self._together.wait(DEADLINE_SECONDS)
        return self._answer(params)


def test_over_a_network_several_calls_are_open_at_a_time(broker):
    network = Network(publish_answer({"3": ("InvalidParameter", True)}), side_by_side=4)
    broker.will_answer("PublishBatch", network)

    failures = broker.driver(network.clock).publish(TOPIC, messages(50))

    assert ids(failures) == ["id-3", "id-13", "id-23", "id-33", "id-43"]
    assert len(set(network.callers)) == 4
    sent = [
        entry["Message"]
        for call in broker.sent["PublishBatch"]
        for entry in call["PublishBatchRequestEntries"]
    ]
    assert sorted(sent) == sorted(message.body for message in messages(50))


def test_a_fifo_topic_is_sent_one_batch_after_the_other(broker):
    network = Network(publish_answer())
    broker.will_answer("PublishBatch", network)

    assert broker.driver(network.clock).publish(FIFO_TOPIC, fifo_messages(50)) == []

    assert len(set(network.callers)) == 1


def test_an_outage_stops_the_calls_side_by_side(broker):
    network = Network(publish_answer())
    broker.will_answer("PublishBatch", network, ConnectTimeoutError(endpoint_url="https://aws"))

    failures = broker.driver(network.clock).publish(TOPIC, messages(300))

    assert ids(failures) == [f"id-{number}" for number in range(10, 300)]
    assert isinstance(failures[0].error, DriverConnectionError)
    assert "not sent" in str(failures[-1].error)
    assert broker.requests["PublishBatch"] <= 1 + 10 * 4


def test_a_mistake_in_a_call_side_by_side_is_raised(broker):
    network = Network(publish_answer())
    broker.will_answer("PublishBatch", network, ZeroDivisionError("a hook of botocore"))

    with pytest.raises(ZeroDivisionError):
        broker.driver(network.clock).publish(TOPIC, messages(50))


def test_an_interrupt_and_the_end_of_the_process_do_not_wait_for_open_calls(broker):
    clock = InstantClock()
    is_open, may_end = threading.Event(), threading.Event()
    first_answers, ended, others = [publish_answer()], [], []

    def answer(params):
        clock.seconds += 0.01
        if first_answers:
            return first_answers.pop()(params)
        if threading.current_thread() is not threading.main_thread():
            others.append(threading.current_thread())
            is_open.set()
            may_end.wait(DEADLINE_SECONDS)
            ended.append(params)
            return publish_answer()(params)
        is_open.wait(DEADLINE_SECONDS)
        raise KeyboardInterrupt

    broker.will_answer("PublishBatch", answer)

    with pytest.raises(KeyboardInterrupt):
        broker.driver(clock).publish(TOPIC, messages(50))

    assert ended == []
    assert all(thread.daemon for thread in others)
    may_end.set()


def test_a_missing_topic_is_raised(broker):
    broker.will_answer("PublishBatch", sns_error("NotFound", status=404))

    with pytest.raises(TopicNotFoundError, match="products"):
        broker.driver().publish(TOPIC, messages(1))


def test_a_topic_that_vanishes_between_two_batches_fails_the_rest(broker):
    broker.will_answer("PublishBatch", publish_answer(), sns_error("NotFound", status=404))

    failures = broker.driver().publish(TOPIC, messages(11))

    assert ids(failures) == ["id-10"]
    assert isinstance(failures[0].error, TopicNotFoundError)


def test_missing_permission_is_raised_when_nothing_was_sent(broker):
    broker.will_answer("SendMessageBatch", sqs_error("AccessDenied", status=403))

    with pytest.raises(AccessDeniedError, match="sqs:SendMessage on 'stock'"):
        broker.driver().send(QUEUE, messages(1))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message("id", ""), InvalidMessageError),
        (Message("id", "\x00"), InvalidMessageError),
        (Message("id", "x" * 262_145), MessageTooLargeError),
    ],
    ids=["empty", "character", "size"],
)
def test_one_message_that_would_be_refused_stops_all_before_the_network(broker, message, error):
    with pytest.raises(error):
        broker.driver().publish(TOPIC, [*messages(20), message])

    assert not broker.requests


def test_a_delay_on_a_fifo_queue_is_refused_before_the_network(broker):
    with pytest.raises(InvalidMessageError, match="delay"):
        broker.driver().send(FIFO_QUEUE, fifo_messages(1), delay_seconds=1)

    assert not broker.requests


def test_deliveries_are_settled_in_tens_and_by_queue(broker):
    broker.will_answer("DeleteMessageBatch", batch_answer())
    other = Queue("orders", "https://sqs.us-east-1.amazonaws.com/123456789012/orders")

    assert broker.driver().acknowledge([*deliveries(11), *deliveries(2, other)]) == []

    calls = [(call["QueueUrl"], len(call["Entries"])) for call in broker.sent["DeleteMessageBatch"]]
    assert calls == [(QUEUE.address, 10), (QUEUE.address, 1), (other.address, 2)]


def test_a_delivery_past_its_deadline_is_a_lost_lease_and_not_touched(broker):
    broker.will_answer("DeleteMessageBatch", batch_answer())
    clock = InstantClock()
    late, in_time = deliveries(1, deadline=clock.seconds), deliveries(2)[1:]

    failures = broker.driver(clock).acknowledge(late + in_time)

    assert ids(failures) == ["id-0"]
    assert isinstance(failures[0].error, LeaseLostError)
    handles = [entry["ReceiptHandle"] for entry in broker.sent["DeleteMessageBatch"][0]["Entries"]]
    assert handles == ["handle-1"]


def test_a_stale_handle_is_a_lost_lease_and_its_neighbours_are_settled(broker):
    broker.will_answer("ChangeMessageVisibilityBatch", batch_answer({"0": STALE}))

    failures = broker.driver().defer(deliveries(3), 60)

    assert ids(failures) == ["id-0"]
    assert isinstance(failures[0].error, LeaseLostError)
    assert "handle-0" not in str(failures[0].error)


def test_a_throttled_acknowledgement_is_tried_again(broker):
    broker.will_answer("DeleteMessageBatch", batch_answer({"1": THROTTLED}), batch_answer())

    assert broker.driver().acknowledge(deliveries(2)) == []

    assert [len(call["Entries"]) for call in broker.sent["DeleteMessageBatch"]] == [2, 1]


def test_an_acknowledgement_that_does_not_arrive_is_reported_for_each_delivery(broker):
    broker.will_answer("DeleteMessageBatch", ConnectTimeoutError(endpoint_url="https://aws"))

    failures = broker.driver().acknowledge(deliveries(2))

    assert ids(failures) == ["id-0", "id-1"]
    assert all(isinstance(failure.error, DriverConnectionError) for failure in failures)


def test_acknowledging_to_a_queue_that_is_gone_is_reported_not_raised(broker):
    broker.will_answer(
        "DeleteMessageBatch",
        sqs_error("AWS.SimpleQueueService.NonExistentQueue", modeled="QueueDoesNotExist"),
    )

    failures = broker.driver().acknowledge(deliveries(1))

    assert isinstance(failures[0].error, QueueNotFoundError)


def test_acknowledging_again_what_sqs_has_forgotten_is_no_failure(broker):
    broker.will_answer("DeleteMessageBatch", batch_answer())
    driver = broker.driver()
    driver.acknowledge(deliveries(1))

    assert driver.acknowledge(deliveries(1)) == []

    assert len(broker.sent["DeleteMessageBatch"]) == 2


def test_equal_deliveries_are_told_apart_by_their_place_in_the_batch(broker):
    broker.will_answer("ChangeMessageVisibilityBatch", batch_answer({"1": STALE}))
    twin = deliveries(1)[0]

    failures = broker.driver().defer([twin, twin._replace(), twin], 60)

    assert len(failures) == 1
    assert failures[0].item == twin


def test_a_delay_ends_twelve_hours_after_the_receive(broker):
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[RAW]))
    broker.will_answer("ChangeMessageVisibilityBatch", batch_answer())
    clock = InstantClock()
    driver = broker.driver(clock)
    (delivery,) = driver.receive(QUEUE, 1, 0, visibility_timeout_seconds=43_200)

    clock.seconds += 3_600.5

    assert driver.defer([delivery], 43_200) == []
    assert driver.defer([delivery], 60) == []
    asked = [call["Entries"][0]["VisibilityTimeout"] for call in broker.sent["ChangeMessageVisibilityBatch"]]
    assert asked == [43_200 - 3_601 - 10, 60]


def test_each_delivery_of_a_batch_has_what_is_left_of_its_own_twelve_hours(broker):
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[RAW]))
    broker.will_answer("ChangeMessageVisibilityBatch", batch_answer())
    clock = InstantClock()
    driver = broker.driver(clock)
    (early,) = driver.receive(QUEUE, 1, 0, visibility_timeout_seconds=3_000)
    clock.seconds += 1_000
    (late,) = driver.receive(QUEUE, 1, 0)

    driver.defer([early, late], 43_200)

    (call,) = broker.sent["ChangeMessageVisibilityBatch"]
    assert [entry["VisibilityTimeout"] for entry in call["Entries"]] == [42_190, 43_190]


def test_a_delivery_that_was_not_received_here_may_be_deferred_for_the_longest_time(broker):
    broker.will_answer("ChangeMessageVisibilityBatch", batch_answer())

    assert broker.driver().defer(deliveries(1), 43_200) == []

    assert broker.sent["ChangeMessageVisibilityBatch"][0]["Entries"][0]["VisibilityTimeout"] == 43_200
