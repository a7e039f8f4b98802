"""A broker without a port, on a clock that stands still."""

from __future__ import annotations

import json
from typing import Any

import pytest

from melange.server.broker import Broker
from melange.server.calls import Call, Caller
from melange.server.errors import ServiceError
from melange.server.operation_table import OPERATIONS
from melange.testing import ManualClock


class Client:
    """Calls operations as a client does: ``client.sqs("SendMessage", QueueUrl=...)``."""

    def __init__(self, broker: Broker | None = None, *, caller: Caller | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.broker = broker or Broker(clock=self.clock, **options)
        self.caller = caller or Caller("test")

    def sqs(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        return self._call("sqs", operation, parameters)

    def sns(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        return self._call("sns", operation, parameters)

    def queue(self, name: str = "orders", **attributes: str) -> str:
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        return self.sqs("CreateQueue", QueueName=name, Attributes=attributes)["QueueUrl"]

    def arn(self, url: str) -> str:
        return self.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]

    def send(self, url: str, *bodies: str, **parameters: Any) -> None:
        for body in bodies:
            self.sqs("SendMessage", QueueUrl=url, MessageBody=body, **parameters)

    def receive(self, url: str, **parameters: Any) -> list[dict[str, Any]]:
        parameters = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"]} | parameters
        return self.sqs("ReceiveMessage", QueueUrl=url, **parameters).get("Messages", [])

    def bodies(self, url: str, **parameters: Any) -> list[str]:
        return [message["Body"] for message in self.receive(url, **parameters)]

    def delete(self, url: str, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.sqs("DeleteMessage", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def topic(self, name: str = "events") -> str:
        attributes = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
        return self.sns("CreateTopic", Name=name, Attributes=attributes)["TopicArn"]

    def allow(self, url: str, topic: str) -> None:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": self.arn(url),
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"Policy": policy})

    def subscribe(self, topic: str, url: str, **attributes: str) -> str:
        self.allow(url, topic)
        return self.sns(
            "Subscribe",
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=self.arn(url),
            Attributes={"RawMessageDelivery": "true"} | attributes,
        )["SubscriptionArn"]

    def _call(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        call = Call(self.broker, self.caller, "http://localhost:4566", parameters)
        return OPERATIONS[service][operation](call)


def refused(code: str) -> pytest.RaisesExc[ServiceError]:
    """Expect an error with this code."""
    return pytest.RaisesExc(ServiceError, check=lambda error: error.code == code)
