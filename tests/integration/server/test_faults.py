"""Faults that are asked for over HTTP strike the calls that they name, and no others."""

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from melange.errors import ConfigurationError
from melange.server.faults import Faults


@pytest.fixture
def queue_url(sqs):
    return sqs.create_queue(QueueName="orders")["QueueUrl"]


def bodies(sqs, queue_url) -> list[str]:
    return [message["Body"] for message in sqs.receive_message(QueueUrl=queue_url).get("Messages", [])]


def test_a_throttled_call_is_not_executed(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "throttle", "operation": "SendMessage"})

    with pytest.raises(ClientError) as refused:
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert refused.value.response["Error"]["Code"] == "RequestThrottled"
    assert bodies(sqs, queue_url) == []


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_has_the_status_that_was_asked_for(sqs, queue_url, control, status) -> None:
    control("POST", "faults", {"kind": "error", "status": status, "operation": "SendMessage"})

    with pytest.raises(ClientError) as refused:
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_sns_has_an_error_of_its_own_form(client, control) -> None:
    sns = client("sns")
    topic_arn = sns.create_topic(Name="orders")["TopicArn"]
    control("POST", "faults", {"kind": "throttle", "service": "sns", "name": "orders"})

    with pytest.raises(ClientError) as refused:
        sns.publish(TopicArn=topic_arn, Message="1")

    assert refused.value.response["Error"]["Code"] == "Throttling"


def test_a_call_without_its_answer_has_taken_effect(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "drop-answer", "operation": "SendMessage"})

    with pytest.raises(ConnectionClosedError):
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert bodies(sqs, queue_url) == ["1"]


def test_a_cut_answer_has_less_than_its_length(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "cut-answer", "operation": "SendMessage"})

    answer = sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert "MD5OfMessageBody" not in answer  # botocore does not mind
    assert bodies(sqs, queue_url) == ["1"]


def test_a_dropped_request_has_no_effect(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "drop-request", "operation": "SendMessage"})

    with pytest.raises(ConnectionClosedError):
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert bodies(sqs, queue_url) == []


def test_a_call_that_hangs_is_not_executed(server, queue_url, control, sqs) -> None:
    control("POST", "faults", {"kind": "hang", "seconds": 0.05, "operation": "SendMessage"})

    with pytest.raises((ConnectionClosedError, ReadTimeoutError)):
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert bodies(sqs, queue_url) == []


def test_a_delayed_call_is_executed(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "delay", "seconds": 0.01})

    sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert bodies(sqs, queue_url) == ["1"]


def test_a_repeated_call_takes_effect_twice(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "repeat", "operation": "SendMessage", "times": 1})

    sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    assert bodies(sqs, queue_url) + bodies(sqs, queue_url) == ["1", "1"]


def test_a_part_of_a_batch_fails_and_the_rest_is_sent(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "partial", "seed": 7, "operation": "SendMessageBatch"})
    entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(6)]

    answer = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)

    failed = {entry["Id"] for entry in answer["Failed"]}
    sent = {entry["Id"] for entry in answer["Successful"]}
    assert failed
    assert sorted([*failed, *sent]) == list("012345")
    assert {entry["SenderFault"] for entry in answer["Failed"]} == {False}
    received = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
    assert {message["Body"] for message in received} == sent


def test_a_batch_of_sns_fails_in_part_as_well(client, control) -> None:
    sns = client("sns")
    topic_arn = sns.create_topic(Name="orders")["TopicArn"]
    control("POST", "faults", {"kind": "partial", "seed": 7})
    entries = [{"Id": str(number), "Message": str(number)} for number in range(6)]

    answer = sns.publish_batch(TopicArn=topic_arn, PublishBatchRequestEntries=entries)

    assert answer["Failed"]
    assert len(answer["Failed"]) + len(answer["Successful"]) == 6


def test_other_queues_and_operations_are_left_alone(sqs, queue_url, control) -> None:
    other = sqs.create_queue(QueueName="other")["QueueUrl"]
    control("POST", "faults", {"kind": "error", "name": "orders", "operation": "SendMessage"})

    sqs.send_message(QueueUrl=other, MessageBody="1")

    assert bodies(sqs, other) == ["1"]
    assert bodies(sqs, queue_url) == []


def test_it_ends_after_the_number_of_times(sqs, queue_url, control) -> None:
    control("POST", "faults", {"kind": "error", "operation": "SendMessage", "times": 1})
    with pytest.raises(ClientError):
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    sqs.send_message(QueueUrl=queue_url, MessageBody="2")

    assert bodies(sqs, queue_url) == ["2"]
    assert control("GET", "faults")[1][0]["struck"] == 1


def test_a_seed_makes_the_same_choices(server) -> None:
    def struck() -> list[bool]:
        faults = Faults()
        faults.add("error", rate=0.5, seed=3)
        return [faults.choose("sqs", "SendMessage", {}) is not None for _ in range(50)]

    first, second = struck(), struck()

    assert first == second
    assert 0 < sum(first) < 50


def test_a_fault_is_removed_by_its_id_or_with_all_others(sqs, queue_url, control) -> None:
    _, first = control("POST", "faults", {"kind": "error"})
    control("POST", "faults", {"kind": "throttle"})

    removed = control("DELETE", f"faults/{first['id']}")
    left = control("GET", "faults")[1]
    control("DELETE", "faults")

    assert removed == (200, {})
    assert [fault["kind"] for fault in left] == ["throttle"]
    assert control("GET", "faults") == (200, [])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "trottle"}, "did you mean 'throttle'"),
        ({"kind": "error", "rates": 1}, "did you mean 'rate'"),
        ({"kind": "error", "self": 1}, "no option 'self'"),
        ({"kind": "error", "rate": 1.5}, "rate must be a number from 0 to 1"),
        ({"kind": "error", "status": 404}, "status must be 500, 502, 503 or 504"),
        ({"kind": "delay", "seconds": -1}, "seconds must be a number from 0"),
        ({"kind": "error", "times": 0}, "times must be a whole number from 1"),
        ({"kind": "error", "times": 1.5}, "times must be a whole number from 1"),
        ({"kind": "error", "seed": 0.5}, "seed must be a whole number"),
        ({}, "there is no kind ''"),
    ],
)
def test_a_mistake_is_refused_with_the_reason(control, options, says) -> None:
    status, answer = control("POST", "faults", options)

    assert status == 400
    assert says in answer["error"]


def test_programs_set_faults_without_http(server, sqs, queue_url) -> None:
    server.faults.add("error", operation="SendMessage")

    with pytest.raises(ClientError):
        sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    with pytest.raises(ConfigurationError):
        server.faults.add("mistake")
