"""The handler against a real SQS, as Lambda's poller and runtime call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from uuid import uuid4

import boto3
import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, Reject, Retry
from melange.aws_lambda import handler
from melange.drivers.aws import AwsDriver
from waiting import eventually

ARN = "arn:aws:sqs:us-east-1:000000000000:"


@pytest.fixture
def driver(sns_sqs_server) -> Iterator[AwsDriver]:
    with AwsDriver(endpoint_url=sns_sqs_server) as driver:
        yield driver


def poll(sqs: Any, queue_url: str, name: str, wanted: int) -> dict[str, Any]:
    """Receive as Lambda's poller does, and return the event that it would make."""
    records: list[dict[str, Any]] = []

    def receive() -> bool:
        answer = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=120,
            WaitTimeSeconds=1,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        records.extend(record_of(message, name) for message in answer.get("Messages", []))
        return len(records) >= wanted

    eventually(receive)
    return {"Records": records}


def record_of(message: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            key: {"dataType": value["DataType"], "stringValue": value["StringValue"]}
            for key, value in message.get("MessageAttributes", {}).items()
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"{ARN}{name}",
    }


def test_records_of_a_real_queue_are_handled_retried_and_dead_lettered(driver, sns_sqs_server) -> None:
    name = f"lambda-{uuid4().hex[:8]}"
    sqs = boto3.client("sqs", endpoint_url=sns_sqs_server)
    consumer = ExchangeMessageConsumer(name, f"{name}-topic", driver=driver)
    attempts = []

    @consumer.listener("OrderPlaced")
    def pack(event, attempt, headers):
        attempts.append((event["id"], attempt, headers["tenant"]))
        if event["id"] == 1 and attempt == 1:
            raise Retry(delay_seconds=0)
        if event["id"] == 2:
            raise Reject("out of stock")

    publisher = ExchangeMessagePublisher(f"{name}-topic", driver)
    for number in range(3):
        publisher.publish({"id": number}, "OrderPlaced", headers={"tenant": "Ada"})
    url = consumer.queue.address
    event = poll(sqs, url, name, 3)
    handle = handler(consumer)

    answer = handle(event)

    (retried,) = (one for one in event["Records"] if json.loads(one["body"])["id"] == 1)
    assert answer == {"batchItemFailures": [{"itemIdentifier": retried["messageId"]}]}
    again = poll(sqs, url, name, 1)  # long before the visibility timeout
    assert handle(again) == {"batchItemFailures": []}
    assert sorted(attempts) == [(0, 1, "Ada"), (1, 1, "Ada"), (1, 2, "Ada"), (2, 1, "Ada")]
    (dead,) = driver.receive(driver.get_queue(f"{name}-dlq"), 10, 5)
    assert json.loads(dead.message.headers["melange-dead-letter"])["reason"] == "out of stock"


FUNCTION = """
from melange import DriverManager, ExchangeMessageConsumer, QueueOptions
from melange.aws_lambda import handler

DriverManager.instance().use_driver(driver_name="memory")
consumer = ExchangeMessageConsumer("my-queue", queue=QueueOptions(event_type=lambda body, headers: "Any"))

@consumer.listener()
def listen(event):
    if event == "bad":
        raise ValueError(event)

handle = handler(consumer)
"""


def test_lambdas_own_runtime_calls_the_handler(tmp_path) -> None:
    (tmp_path / "function.py").write_text(FUNCTION)
    records = [
        {
            "messageId": body,
            "receiptHandle": "AQEB...",
            "body": body,
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": f"{ARN}my-queue",
        }
        for body in ("good", "bad", "fine")
    ]

    with runtime_api() as (address, invocations, answers):
        runtime = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", "function.handle"],
            cwd=tmp_path,
            env={
                **os.environ,
                "AWS_LAMBDA_RUNTIME_API": address,
                "AWS_LAMBDA_FUNCTION_NAME": "function",
                "AWS_LAMBDA_FUNCTION_VERSION": "1",
                "LAMBDA_TASK_ROOT": str(tmp_path),
                "PYTHONPATH": str(tmp_path),
            },
        )
        try:
            invocations.put({"Records": records})
            first = answers.get(timeout=20)
            invocations.put({"Records": records[:1]})
            second = answers.get(timeout=20)
        finally:
            runtime.kill()
            runtime.wait()

    assert first == ("response", {"batchItemFailures": [{"itemIdentifier": "bad"}]})
    assert second == ("response", {"batchItemFailures": []})


@contextmanager
def runtime_api() -> Iterator[tuple[str, Queue[Any], Queue[tuple[str, Any]]]]:
    """Serve Lambda's runtime API: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html."""
    invocations: Queue[Any] = Queue()
    answers: Queue[tuple[str, Any]] = Queue()

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps(invocations.get()).encode()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", str(uuid4()))
            self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=1")
            self.send_header("Content-Type", "application/json")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(4_000_000_000_000))
            self.send_header(
                "Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:0:function:function"
            )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers.put((self.path.rpartition("/")[2], body))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as inherited
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", invocations, answers
    finally:
        server.shutdown()
        server.server_close()
