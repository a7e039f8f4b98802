"""The table of costs in the operations handbook has the calls that are made."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, Reject
from melange.drivers.aws import AwsDriver
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import Operation
from waiting import eventually

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
DOLLARS_PER_MILLION = {"sns": 0.50, "sqs": 0.40}
EVENTS = [{"event_type_name": "OrderPlaced", "number": number} for number in range(10)]


class CountedCalls(BrokerCalls):
    """Counts calls by the service."""

    counts: Counter[str]

    def __call__(self, operation: Operation, resource: str, /, **parameters: Any) -> Any:
        self.counts[operation.permission.partition(":")[0]] += 1
        return super().__call__(operation, resource, **parameters)


@pytest.fixture
def counts():
    return Counter()


@pytest.fixture
def driver(sns_sqs_server, counts):
    with AwsDriver(endpoint_url=sns_sqs_server) as driver:
        driver._calls.__class__ = CountedCalls
        driver._calls.counts = counts
        yield driver


@pytest.fixture
def name():
    return f"costs-{uuid4().hex}"


@pytest.fixture
def consumer(driver, name):
    consumer = ExchangeMessageConsumer(name, name, driver=driver, queue=QueueOptions(wait_seconds=2))
    consumer.listener("OrderPlaced", name="work")(lambda event: None)
    return consumer


@pytest.fixture
def publisher(driver, name, consumer, counts):
    publisher = ExchangeMessagePublisher(name, driver, declare=False)
    publisher.publish({}, "Other")  # it looks its topic up once
    consumer.consume_event()
    counts.clear()
    return publisher


def test_publishing_one(publisher, counts) -> None:
    publisher.publish(EVENTS[0])

    assert per_message(counts, 1) == row("`publish`")


def test_publishing_ten(publisher, counts) -> None:
    publisher.publish_batch(EVENTS)

    assert per_message(counts, 10) == row("`publish_batch` of ten")


def test_consuming_one(publisher, consumer, counts) -> None:
    publisher.publish(EVENTS[0])
    counts.clear()

    assert consumer.consume_event() == 1

    assert per_message(counts, 1) == row("consume one at a time")


def test_consuming_ten(publisher, consumer, counts, sns_sqs_server) -> None:
    publisher.publish_batch(EVENTS)
    # SNS delivers each on its own: a poll in between would find the first ones alone.
    eventually(lambda: visible_in(consumer.queue.name, sns_sqs_server) == 10)
    counts.clear()

    assert consumer.consume_event() == 10

    assert per_message(counts, 10) == row("consume ten at a time")


def visible_in(queue_name: str, endpoint_url: str) -> int:
    sqs = boto3.client("sqs", endpoint_url=endpoint_url)
    try:
        queue_url = sqs.get_queue_url(QueueName=queue_name)["QueueUrl"]
        name = "ApproximateNumberOfMessages"
        return int(sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=[name])["Attributes"][name])
    finally:
        sqs.close()


def test_rejecting_one(publisher, consumer, counts) -> None:
    @consumer.listener("OrderLost", name="reject")
    def reject(event):
        raise Reject("it is lost")

    publisher.publish({}, "OrderLost")
    counts.clear()

    assert consumer.consume_event() == 1

    assert per_message(counts, 1) == row("reject one")


def per_message(counts: Counter[str], messages: int) -> tuple[float, float, float]:
    """Return the calls of SNS and SQS for one message, and the dollars for a million."""
    sns, sqs = (counts[service] / messages for service in ("sns", "sqs"))
    return sns, sqs, round(sns * DOLLARS_PER_MILLION["sns"] + sqs * DOLLARS_PER_MILLION["sqs"], 2)


def row(start: str) -> tuple[float, ...]:
    """Return the numbers in the row of the table that begins so."""
    (cells,) = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    return tuple(map(float, cells.split("|")))
