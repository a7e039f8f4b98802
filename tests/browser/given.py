"""Topics, queues and messages for the pages to show, made with boto3 as an application does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from melange.server import Server
from melange.server.control import CONSOLE_PREFIX


@dataclass
class Given:
    """Clients of the server, and what tests put into it."""

    server: Server
    sqs: Any
    sns: Any

    def queue(self, name: str = "orders", **attributes: str) -> str:
        """Make a queue and return its URL."""
        url: str = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def arn(self, url: str) -> str:
        answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = answer["Attributes"]["QueueArn"]
        return arn

    def queue_with_dead_letters(self, name: str = "orders") -> tuple[str, str]:
        """Make a queue and its dead-letter queue; return their URLs."""
        dead = self.queue(f"{name}-dead-letters")
        policy = json.dumps({"deadLetterTargetArn": self.arn(dead), "maxReceiveCount": 1})
        return self.queue(name, RedrivePolicy=policy, VisibilityTimeout="0"), dead

    def topic_for(self, url: str, name: str = "events", **attributes: str) -> str:
        """Make a topic that the queue is subscribed to, and return its ARN."""
        topic: str = self.sns.create_topic(Name=name)["TopicArn"]
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "sqs:SendMessage",
            "Resource": self.arn(url),
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.arn(url), Attributes=attributes)
        return topic

    def send(self, url: str, body: str, **attributes: str) -> str:
        """Send a message and return its id."""
        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        answer = self.sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=typed)
        message_id: str = answer["MessageId"]
        return message_id

    def receive(self, url: str) -> list[dict[str, Any]]:
        answer = self.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def dead_letter(self, url: str, body: str) -> None:
        """Have a message fail so often that it is moved."""
        self.send(url, body)
        self.receive(url)
        assert self.receive(url) == []

    def page_of(self, url: str) -> str:
        """Return the address of the page of a queue."""
        return f"{self.server.url}{CONSOLE_PREFIX}queues/{self.arn(url)}"
