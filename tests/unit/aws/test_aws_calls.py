"""Single calls: what is asked for, what is tried again, and what is let through."""

import json
import logging

import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from aws_answers import (
    FIFO_QUEUE,
    ONE_ATTEMPT,
    QUEUE,
    TOPIC,
    InstantClock,
    batch_answer,
    http_answer,
    publish_answer,
    shared_session,
    sns_answer,
    sns_error,
    sqs_answer,
    sqs_error,
)
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.clients import Clients
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverClosedError,
    DriverConnectionError,
    MelangeError,
    QueueNotFoundError,
)
from melange.messages import Message

RAW = {"MessageId": "m-1", "ReceiptHandle": "AQEBsecret", "Body": "{}", "Attributes": {}}


def clients_of(attempts=4):
    return Clients(shared_session(), "us-east-1", None, Config(retries={"total_max_attempts": attempts}), 10)


def test_a_receive_asks_for_everything_that_a_delivery_holds(broker):
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[RAW]))
    clock = InstantClock()

    deliveries = broker.driver(clock).receive(QUEUE, 3, 20, visibility_timeout_seconds=45)

    assert broker.sent["ReceiveMessage"] == [
        {
            "QueueUrl": QUEUE.address,
            "MaxNumberOfMessages": 3,
            "WaitTimeSeconds": 20,
            "VisibilityTimeout": 45,
            "MessageAttributeNames": ("All",),
            "MessageSystemAttributeNames": (
                "ApproximateReceiveCount",
                "MessageDeduplicationId",
                "MessageGroupId",
                "SentTimestamp",
                "AWSTraceHeader",
            ),
        }
    ]
    assert [delivery.deadline for delivery in deliveries] == [clock.seconds + 45]


def test_each_receive_from_a_fifo_queue_can_be_replayed(broker):
    broker.will_answer("ReceiveMessage", sqs_answer())
    driver = broker.driver()

    driver.receive(FIFO_QUEUE, 1, 0)
    driver.receive(FIFO_QUEUE, 1, 0)

    first, second = (call["ReceiveRequestAttemptId"] for call in broker.sent["ReceiveMessage"])
    assert first != second


def test_a_receive_of_a_fifo_queue_whose_answer_was_garbled_is_replayed(broker):
    broker.will_answer("ReceiveMessage", http_answer(200, b"\xff\xfe"), sqs_answer(Messages=[RAW]))

    deliveries = broker.driver().receive(FIFO_QUEUE, 1, 0)

    assert len(deliveries) == 1
    attempt_ids = {call["ReceiveRequestAttemptId"] for call in broker.sent["ReceiveMessage"]}
    assert len(attempt_ids) == 1
    assert broker.requests["ReceiveMessage"] == 2


def test_more_than_the_broker_gives_at_once_may_be_asked_for(broker):
    broker.will_answer("ReceiveMessage", sqs_answer())

    assert broker.driver().receive(QUEUE, 50, 0) == []

    assert broker.sent["ReceiveMessage"][0]["MaxNumberOfMessages"] == 10


@pytest.mark.parametrize(
    ("limit", "wait_seconds", "visibility"),
    [(0, 0, 30), (1, 21, 30), (1, -1, 30), (1, 0.5, 30), (1, 0, 43_201), (1, 0, -1)],
)
def test_what_sqs_would_refuse_in_a_receive_is_refused_before(broker, limit, wait_seconds, visibility):
    with pytest.raises(ConfigurationError):
        broker.driver().receive(QUEUE, limit, wait_seconds, visibility_timeout_seconds=visibility)

    assert not broker.requests


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(200, b'{"Messages": [{"Body', {"content-length": "500"}),
        http_answer(200, b"<html>log in here</html>", {"content-length": "7"}),
        http_answer(200, b"log in here"),
        http_answer(200, b"\xff\xfe"),
        http_answer(200, b"[]"),
        http_answer(200, b'{"Messages": 5}'),
        http_answer(200, b'{"Messages": [5]}'),
        http_answer(200, b'{"Messages": [{"MessageId": "m", "ReceiptHandle": "r"}]}'),
        http_answer(
            200, b'{"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": "{}", "Attributes": 5}]}'
        ),
    ],
    ids=[
        "cut",
        "wrong length",
        "no JSON",
        "no text",
        "a list",
        "no messages",
        "no message",
        "no body",
        "odd within",
    ],
)
def test_an_answer_that_is_cut_or_garbled_is_asked_for_again(broker, answer):
    broker.will_answer("ReceiveMessage", answer, sqs_answer(Messages=[RAW]))
    clock = InstantClock()

    deliveries = broker.driver(clock).receive(QUEUE, 1, 0)

    assert [delivery.message.message_id for delivery in deliveries] == ["m-1"]
    assert len(clock.waits) == 1


def test_a_length_that_is_no_number_does_not_matter(broker):
    broker.will_answer("ReceiveMessage", http_answer(200, b"{}", {"content-length": "some"}))

    assert broker.driver().receive(QUEUE, 1, 0) == []


def test_answers_that_stay_garbled_are_a_connection_error(broker):
    broker.will_answer("ReceiveMessage", http_answer(200, b"\xff\xfe"))

    with pytest.raises(DriverConnectionError, match="could not be read"):
        broker.driver().receive(QUEUE, 1, 0)

    assert broker.requests["ReceiveMessage"] == 4


@pytest.mark.parametrize(
    ("code", "modeled"),
    [
        ("RequestThrottled", "RequestThrottled"),
        ("ThrottlingException", "ThrottlingException"),
        ("Throttling", "Throttling"),
        ("KMS.ThrottlingException", "KmsThrottled"),
        ("KmsThrottled", "KmsThrottled"),
    ],
)
def test_throttling_by_sqs_is_tried_again(broker, code, modeled):
    broker.will_answer("ReceiveMessage", sqs_error(code, modeled=modeled), sqs_answer(Messages=[RAW]))

    deliveries = broker.driver().receive(QUEUE, 1, 0)

    assert len(deliveries) == 1
    assert broker.requests["ReceiveMessage"] == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("Throttling", 400),
        ("ThrottlingException", 400),
        ("Throttled", 429),
        ("KMSThrottling", 400),
        ("InternalError", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_throttling_by_sns_is_tried_again(broker, code, status):
    broker.will_answer("PublishBatch", sns_error(code, status=status), publish_answer())

    failures = broker.driver().publish(TOPIC, [Message("id", "{}")])

    assert failures == []
    assert broker.requests["PublishBatch"] == 2


def test_what_is_throttled_for_good_is_a_connection_error(broker):
    broker.will_answer("ReceiveMessage", sqs_error("RequestThrottled", status=403))

    with pytest.raises(DriverConnectionError, match="RequestThrottled"):
        broker.driver().receive(QUEUE, 1, 0)


def test_a_missing_queue_is_not_retried(broker):
    broker.will_answer(
        "ReceiveMessage", sqs_error("AWS.SimpleQueueService.NonExistentQueue", modeled="QueueDoesNotExist")
    )
    clock = InstantClock()

    with pytest.raises(QueueNotFoundError, match="stock"):
        broker.driver(clock).receive(QUEUE, 1, 0)

    assert broker.requests["ReceiveMessage"] == 1
    assert clock.waits == []


def test_a_broker_out_of_reach_is_a_connection_error(broker):
    broker.will_answer("ReceiveMessage", EndpointConnectionError(endpoint_url="https://nowhere"))

    with pytest.raises(DriverConnectionError, match="nowhere"):
        broker.driver().receive(QUEUE, 1, 0)


def test_denied_access_names_action_and_queue(broker):
    broker.will_answer("ReceiveMessage", sqs_error("AccessDenied", status=403))

    with pytest.raises(AccessDeniedError, match="sqs:ReceiveMessage on 'stock'"):
        broker.driver().receive(QUEUE, 1, 0)


def test_no_call_is_made_after_close(broker):
    driver = broker.driver()

    driver.close()
    driver.close()

    with pytest.raises(DriverClosedError):
        driver.publish(TOPIC, [Message("id", "{}")])
    with pytest.raises(DriverClosedError):
        driver.acknowledge([])
    with pytest.raises(DriverClosedError):
        driver.get_queue("stock")
    assert not broker.requests


def test_closing_ends_the_retries_of_a_call_under_way(broker):
    clock = InstantClock()
    driver = broker.driver(clock)

    def close_and_fail(params):
        driver.close()
        return http_answer(200, b"\xff\xfe")

    broker.will_answer("ReceiveMessage", close_and_fail)

    with pytest.raises(DriverClosedError):
        driver.receive(QUEUE, 1, 0)
    assert clock.waits == []


def test_no_secret_and_no_receipt_handle_is_logged_or_quoted(broker, caplog):
    stale = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "AQEBsecret is stale"}
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[{**RAW, "Body": "the-payload"}]))
    broker.will_answer("DeleteMessageBatch", batch_answer({"0": stale}))
    broker.will_answer(
        "SendMessageBatch", sqs_error("SignatureDoesNotMatch", "very-secret and the-payload", status=403)
    )
    driver = broker.driver()
    texts = []

    with caplog.at_level(logging.DEBUG, logger="melange"):
        deliveries = driver.receive(QUEUE, 1, 0)
        texts += [repr(driver.acknowledge(deliveries)[0].error), repr(driver)]
        with pytest.raises(MelangeError) as caught:
            driver.send(QUEUE, [Message("id", "the-payload")])
        texts.append(repr(caught.value))

    texts += [record.getMessage() for record in caplog.records if record.name.startswith("melange")]
    for secret in ("AQEBsecret", "very-secret", "the-payload"):
        assert secret not in json.dumps(texts)


def test_pauses_grow_up_to_a_cap_and_are_jittered():
    clock = InstantClock()
    fractions = iter([1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    calls = BrokerCalls(clients_of(attempts=9), clock, 100, jitter=lambda: next(fractions))

    for attempt in range(1, 8):
        assert calls.may_retry(attempt, clock.monotonic())

    assert clock.waits == [0.2, 0.2, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_no_attempt_begins_after_half_of_the_time():
    clock = InstantClock()
    calls = BrokerCalls(clients_of(), clock, 10, jitter=lambda: 1.0)

    assert calls.may_retry(1, clock.monotonic() - 4.7)
    assert not calls.may_retry(1, clock.monotonic() - 4.9)


def test_the_number_of_attempts_is_that_of_the_configuration(broker):
    broker.will_answer("ReceiveMessage", sqs_error("RequestThrottled"))

    with pytest.raises(DriverConnectionError):
        broker.driver(config=ONE_ATTEMPT).receive(QUEUE, 1, 0)
    assert broker.requests["ReceiveMessage"] == 1

    with pytest.raises(DriverConnectionError):
        broker.driver(config=Config(retries={"max_attempts": 2})).receive(QUEUE, 1, 0)
    assert broker.requests["ReceiveMessage"] == 1 + 3


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), KeyError("x")])
def test_a_mistake_in_code_is_not_an_outage(broker, error):
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[RAW]))
    driver = broker.driver()
    made_wrong = driver.receive(QUEUE, 1, 0)[0]._replace(receipt_handle=object())
    broker.will_answer("PublishBatch", error)

    with pytest.raises(type(error)):
        driver.publish(TOPIC, [Message("id", "{}")])
    with pytest.raises((TypeError, AttributeError)):
        driver.acknowledge([made_wrong])

    assert broker.requests["PublishBatch"] == 1


@pytest.mark.parametrize(
    ("operation", "answer", "call"),
    [
        ("GetQueueUrl", sqs_answer(error="log in"), lambda driver: driver.get_queue("stock")),
        ("GetQueueAttributes", sqs_answer(Attributes=5), lambda driver: driver.measure_queue(QUEUE)),
        ("GetQueueAttributes", sqs_answer(), lambda driver: driver.measure_queue(QUEUE)),
        ("CreateTopic", sns_answer("CreateTopic"), lambda driver: driver.declare_topic("products")),
        ("CreateTopic", http_answer(200, b"<html/>"), lambda driver: driver.declare_topic("products")),
    ],
)
def test_an_answer_of_something_else_than_aws_is_an_outage(broker, operation, answer, call):
    broker.will_answer(operation, answer)

    with pytest.raises(DriverConnectionError, match="could not be read"):
        call(broker.driver())

    assert broker.requests[operation] == 4


def test_an_answer_to_a_batch_that_says_nothing_of_the_entries_is_an_outage(broker):
    broker.will_answer("SendMessageBatch", sqs_answer(Failed=5))

    (failure,) = broker.driver().send(QUEUE, [Message("id", "{}")])

    assert isinstance(failure.error, DriverConnectionError)


def test_a_long_poll_and_a_short_one_use_clients_of_their_own(broker):
    broker.will_answer("ReceiveMessage", sqs_answer())
    driver = broker.driver(config=Config(read_timeout=2))

    driver.receive(QUEUE, 1, 20)
    driver.receive(QUEUE, 1, 0)

    timeouts = [client.meta.config.read_timeout for client in driver._calls.clients.built.values()]
    assert sorted(timeouts) == [2, 30]
