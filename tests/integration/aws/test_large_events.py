"""Large events on local SNS, SQS and S3, and AWS's own extended client at the other end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from melange import (
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
)
from melange.drivers.aws import AwsDriver
from melange.large_events import LargeEvents, PayloadMissingError, S3Store
from melange.messages import Message
from services import ministack
from waiting import eventually

EXTENDED_CLIENT = Path(__file__).with_name("extended_client.py")
LARGE = {"event_type_name": "Imported", "rows": "ü" * 1_000_000}


@pytest.fixture(scope="module")
def server():
    with ministack.run(services="sns,sqs,s3") as url:
        yield url


@pytest.fixture(scope="module")
def s3(server):
    return boto3.client("s3", endpoint_url=server)


@pytest.fixture
def bucket(s3) -> str:
    name = f"large-{uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def driver(server, s3, bucket):
    driver = LargeEvents(
        AwsDriver(endpoint_url=server), S3Store(bucket, client=s3), delete_after_acknowledge=True
    )
    with driver:
        yield driver


@pytest.fixture
def name() -> str:
    return f"large-{uuid4().hex}"


def keys_in(s3, bucket: str) -> list[str]:
    return [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def extended_client(server: str, action: str, queue: str, bucket: str, body: str = "") -> str:
    completed = subprocess.run(
        [sys.executable, EXTENDED_CLIENT, action, queue, bucket],
        input=body,
        env={**os.environ, "AWS_ENDPOINT_URL": server, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_a_large_event_reaches_every_queue_of_a_topic_and_its_payload_stays(driver, s3, bucket, name) -> None:
    seen = []
    consumers = [
        ExchangeMessageConsumer(f"{name}-{number}", name, driver=driver, queue=QueueOptions(wait_seconds=2))
        for number in range(2)
    ]
    for consumer in consumers:
        consumer.listener("Imported", name="collect")(seen.append)

    ExchangeMessagePublisher(name, driver).publish(LARGE, headers={f"header-{n}": "x" for n in range(12)})
    for consumer in consumers:
        eventually(consumer.consume_event)

    assert seen == [LARGE, LARGE]
    assert [key.startswith(f"melange/topics/{name}/") for key in keys_in(s3, bucket)] == [True]


def test_the_payload_of_a_queue_is_deleted_with_its_message_on_request(driver, s3, bucket, name) -> None:
    seen = []
    consumer = ExchangeMessageConsumer(name, driver=driver, queue=QueueOptions(wait_seconds=2))
    consumer.listener("Imported", name="collect")(seen.append)
    QueueMessagePublisher(name, driver).send(LARGE)
    assert len(keys_in(s3, bucket)) == 1

    eventually(consumer.consume_event)

    assert seen == [LARGE]
    assert keys_in(s3, bucket) == []


def test_awss_client_reads_what_melange_sends(server, driver, bucket, name) -> None:
    queue = driver.declare_queue(name)
    message_id = QueueMessagePublisher(name, driver).send(LARGE)

    assert message_id
    assert json.loads(extended_client(server, "receive", queue.name, bucket)) == LARGE


@pytest.mark.parametrize("action", ["send", "send-old"])
def test_melange_reads_what_awss_client_sends(server, driver, s3, bucket, name, action) -> None:
    seen = []
    consumer = ExchangeMessageConsumer(name, driver=driver, queue=QueueOptions(wait_seconds=2))
    consumer.listener("Imported", name="collect")(seen.append)
    extended_client(server, action, name, bucket, json.dumps(LARGE))

    eventually(consumer.consume_event)

    assert seen == [LARGE]
    assert len(keys_in(s3, bucket)) == 1  # what others wrote is theirs


def test_a_missing_payload_is_dead_lettered_as_it_was_received(driver, s3, bucket, name) -> None:
    consumer = ExchangeMessageConsumer(name, driver=driver, queue=QueueOptions(wait_seconds=2))
    consumer.listener("Imported", name="collect")(lambda event: None)
    QueueMessagePublisher(name, driver).send(LARGE)
    (key,) = keys_in(s3, bucket)
    payload = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.delete_object(Bucket=bucket, Key=key)

    eventually(consumer.consume_event)
    s3.put_object(Bucket=bucket, Key=key, Body=payload)

    (delivery,) = driver.receive(driver.get_queue(f"{name}-dlq"), 10, 5)
    assert json.loads(delivery.message.body) == LARGE
    assert "there is no such payload" in delivery.message.headers["melange-dead-letter"]


def test_a_store_that_is_out_of_reach_is_an_error_of_the_connection(bucket, s3) -> None:
    away = S3Store(bucket, client=boto3.client("s3", endpoint_url="http://127.0.0.1:9"))

    with pytest.raises(DriverConnectionError, match="storing a large event"):
        away.put("key", b"")
    with pytest.raises(PayloadMissingError):
        S3Store(bucket, client=s3).get(bucket, "no such key", 10)


def test_the_size_is_a_number_on_the_wire(server, driver, name) -> None:
    queue = driver.declare_queue(name)
    driver.send(queue, [Message("one", '{"text": "' + "x" * 2_000_000 + '"}')])
    sqs = boto3.client("sqs", endpoint_url=server)

    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    (raw,) = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=5)["Messages"]

    assert raw["MessageAttributes"]["ExtendedPayloadSize"] == {"DataType": "Number", "StringValue": "2000012"}
    assert json.loads(raw["Body"])[0] == "software.amazon.payloadoffloading.PayloadS3Pointer"


def test_options_are_passed_on_to_s3(server, s3, bucket, name) -> None:
    store = S3Store(bucket, client=s3, put_options={"Metadata": {"team": "imports"}, "ContentLanguage": "de"})
    with LargeEvents(AwsDriver(endpoint_url=server), store) as driver:
        driver.declare_queue(name)

        QueueMessagePublisher(name, driver).send(LARGE)

    (key,) = keys_in(s3, bucket)
    stored = s3.head_object(Bucket=bucket, Key=key)
    assert (stored["Metadata"], stored["ContentLanguage"]) == ({"team": "imports"}, "de")
