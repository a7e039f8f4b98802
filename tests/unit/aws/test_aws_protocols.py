"""Protocols that botocore may choose one day: an answer is read by the protocol, not by its first byte."""

import json
from collections.abc import Iterator

import boto3
import pytest
from botocore.parsers import PROTOCOL_PARSERS

from aws_answers import QUEUE, InstantClock, http_answer
from melange.drivers.aws import AwsDriver
from melange.errors import DriverConnectionError, QueueNotFoundError

CBOR = "smithy-rpc-v2-cbor"

RAW = {
    "MessageId": "m-1",
    "ReceiptHandle": "handle",
    "Body": '{"a":1}',
    "Attributes": {"ApproximateReceiveCount": "2"},
    "MessageAttributes": {
        "weight": {"DataType": "Number", "StringValue": "7"},
        "picture": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
    },
}


def cbor(value) -> bytes:
    """Encode what an answer holds; see RFC 8949."""
    match value:
        case dict():
            parts = [cbor(part) for pair in value.items() for part in pair]
            return _head(5, len(value)) + b"".join(parts)
        case list():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case bytes():
            return _head(2, len(value)) + value
    raise TypeError(value)


def _head(major: int, length: int) -> bytes:
    return bytes([major << 5 | length]) if length < 24 else bytes([major << 5 | 24, length])


@pytest.fixture
def answers():
    return []


@pytest.fixture
def driver(answers, monkeypatch) -> Iterator[AwsDriver]:
    """A driver of an SQS that speaks CBOR only."""
    if CBOR not in PROTOCOL_PARSERS:
        pytest.skip("this version of botocore cannot choose CBOR")
    session = boto3.Session(region_name="us-east-1")
    loader = session._session.get_component("data_loader")
    load = loader.load_service_model

    def load_cbor(service_name, type_name, api_version=None):
        model = load(service_name, type_name, api_version)
        if (service_name, type_name) != ("sqs", "service-2"):
            return model
        metadata = {
            **model["metadata"],
            "protocol": CBOR,
            "protocols": [CBOR],
        }
        return {**model, "metadata": metadata}

    monkeypatch.setattr(loader, "load_service_model", load_cbor)  # all sessions share the loader
    session.events.register("before-send.sqs", lambda **_: answers.pop(0))
    with AwsDriver(session=session, clock=InstantClock()) as driver:
        yield driver


def test_what_botocore_reads_as_cbor_is_received(driver, answers):
    answers.append(http_answer(200, cbor({"Messages": [RAW]}), {"smithy-protocol": "rpc-v2-cbor"}))

    (delivery,) = driver.receive(QUEUE, 1, 0)

    assert (delivery.message.body, delivery.receive_count) == ('{"a":1}', 2)
    assert delivery.message.headers == {"weight": "7", "picture": "AAE="}


def test_cbor_that_is_garbled_is_an_outage(driver, answers):
    answers += [http_answer(200, cbor({"Messages": [RAW]})[:40])] * 4

    with pytest.raises(DriverConnectionError, match="could not be read"):
        driver.receive(QUEUE, 1, 0)


def test_an_error_in_cbor_has_its_meaning(driver, answers):
    body = cbor({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"})
    answers.append(http_answer(400, body, {"smithy-protocol": "rpc-v2-cbor"}))

    with pytest.raises(QueueNotFoundError):
        driver.receive(QUEUE, 1, 0)


def test_white_space_before_an_answer_does_not_matter(answers):
    session = boto3.Session(region_name="us-east-1")
    session.events.register("before-send.sqs", lambda **_: answers.pop(0))
    answers.append(http_answer(200, b"\n " + json.dumps({"Messages": []}).encode()))

    assert AwsDriver(session=session).receive(QUEUE, 1, 0) == []
