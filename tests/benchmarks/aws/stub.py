"""As much of SNS and SQS as the contestants need, in a process of its own that answers at once.

``python -m benchmarks.aws.stub`` prints its URL. It holds the messages that ``POST /fill`` puts into a queue, and counts
what is published and deleted; ``GET /counts`` tells. What is published goes nowhere. After ``POST /delay`` each answer takes
that long, as on a network.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import uuid
from collections import defaultdict, deque
from typing import Any
from urllib.parse import parse_qs

ACCOUNT = "000000000000"
REGION = "us-east-1"

_ID = re.compile(rb"Entries\.member\.\d+\.Id=(\d+)")


class Queue:
    """Messages as the JSON text of a receive, each handed out once."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()
        self.polls: deque[tuple[Connection, int]] = deque()
        self.attributes: dict[str, str] = {}


class Stub:
    """The state of the server."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = defaultdict(Queue)
        self.in_flight: set[str] = set()
        self.published = self.deleted = 0
        self.handles = itertools.count()
        self.url = ""
        self.filled_at = self.deleted_at = 0.0
        self.delay_seconds = 0.0

    def fill(self, queue_name: str, count: int, body: str, attributes: dict[str, str]) -> None:
        """Put messages into a queue; "{id}" becomes an id of each message's own."""
        queue = self.queues[queue_name]
        for number in range(count):
            message_id = str(uuid.uuid4())
            handle = f"{next(self.handles)}-{'h' * 160}"
            self.in_flight.add(handle)
            message = {
                "MessageId": message_id,
                "ReceiptHandle": handle,
                "MD5OfBody": "0" * 32,
                "Body": body.replace("{id}", message_id).replace("{number}", str(number)),
                "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1767225600000"},
                "MD5OfMessageAttributes": "0" * 32,
                "MessageAttributes": {
                    name: {"StringValue": value.replace("{id}", message_id), "DataType": "String"}
                    for name, value in attributes.items()
                },
            }
            queue.waiting.append(json.dumps(message))
        self.filled_at = time.monotonic()
        while queue.polls and queue.waiting:
            connection, limit = queue.polls.popleft()
            connection.answer_json(self.take(queue, limit))

    def counts(self) -> dict[str, float]:
        """Return what was counted, and the time from the last filling of a queue to the last delete."""
        return {
            "published": self.published,
            "deleted": self.deleted,
            "seconds": self.deleted_at - self.filled_at,
        }

    def take(self, queue: Queue, limit: int) -> str:
        """Return the answer to a receive."""
        messages = [queue.waiting.popleft() for _ in range(min(limit, len(queue.waiting)))]
        return f'{{"Messages":[{",".join(messages)}]}}' if messages else "{}"

    def delete(self, handles: list[str]) -> None:
        """Count the messages that are deleted for the first time."""
        before = len(self.in_flight)
        self.in_flight.difference_update(handles)
        self.deleted += before - len(self.in_flight)
        self.deleted_at = time.monotonic()


class Connection(asyncio.Protocol):
    """Answers the requests of one connection, one after the other."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        length = int(found[1]) if found else 0
        if len(self._received) < end + 4 + length:
            return
        body = self._received[end + 4 : end + 4 + length]
        self._received = self._received[end + 4 + length :]
        target = re.search(rb"\r\nx-amz-target: *AmazonSQS\.(\w+)", head, re.IGNORECASE)
        if target:
            self._answer_sqs(target[1].decode(), json.loads(body))
        elif head.startswith(b"GET /counts"):
            self.answer_json(json.dumps(self.stub.counts()))
        elif head.startswith(b"POST /fill"):
            self.stub.fill(**json.loads(body))
            self.answer_json("{}")
        elif head.startswith(b"POST /delay"):
            self.stub.delay_seconds = json.loads(body)
            self.answer_json("{}")
        else:
            self._answer_sns(body)

    def answer_json(self, text: str) -> None:
        """Send an answer of SQS."""
        self._answer(text.encode(), b"application/x-amz-json-1.0")

    def _answer(self, body: bytes, content_type: bytes) -> None:
        answer = (
            b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 7a62c49f-347e-4fc4-9331-6e8e7a96aa73\r\n"
            b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (content_type, len(body), body)
        )
        if self.stub.delay_seconds:
            asyncio.get_running_loop().call_later(self.stub.delay_seconds, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def _answer_sqs(self, operation: str, parameters: dict[str, Any]) -> None:
        stub = self.stub
        name = parameters.get("QueueName") or parameters.get("QueueUrl", "").rpartition("/")[2]
        match operation:
            case "ReceiveMessage":
                queue, limit = stub.queues[name], parameters.get("MaxNumberOfMessages", 1)
                wait_seconds = parameters.get("WaitTimeSeconds", 0)
                if queue.waiting or not wait_seconds:
                    self.answer_json(stub.take(queue, limit))
                else:
                    poll = (self, limit)
                    queue.polls.append(poll)
                    asyncio.get_running_loop().call_later(wait_seconds, self._end_poll, queue, poll)
            case "DeleteMessage":
                stub.delete([parameters["ReceiptHandle"]])
                self.answer_json("{}")
            case "DeleteMessageBatch":
                stub.delete([entry["ReceiptHandle"] for entry in parameters["Entries"]])
                self._answer_entries(parameters)
            case "SendMessageBatch" | "ChangeMessageVisibilityBatch":
                self._answer_entries(parameters)
            case "CreateQueue" | "GetQueueUrl":
                self.answer_json(json.dumps({"QueueUrl": f"{stub.url}/{ACCOUNT}/{name}"}))
            case "GetQueueAttributes":
                attributes = {
                    "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
                    "MaximumMessageSize": "1048576",
                    "VisibilityTimeout": "30",
                    "ApproximateNumberOfMessages": str(len(stub.queues[name].waiting)),
                    "ApproximateNumberOfMessagesNotVisible": "0",
                    "ApproximateNumberOfMessagesDelayed": "0",
                    **stub.queues[name].attributes,
                }
                self.answer_json(json.dumps({"Attributes": attributes}))
            case "SetQueueAttributes":
                stub.queues[name].attributes.update(parameters["Attributes"])
                self.answer_json("{}")
            case _:
                self.answer_json("{}")

    def _answer_entries(self, parameters: dict[str, Any]) -> None:
        done = [{"Id": entry["Id"]} for entry in parameters["Entries"]]
        self.answer_json(json.dumps({"Successful": done, "Failed": []}))

    def _end_poll(self, queue: Queue, poll: tuple[Connection, int]) -> None:
        if poll in queue.polls:
            queue.polls.remove(poll)
            self.answer_json("{}")

    def _answer_sns(self, body: bytes) -> None:
        if b"Action=PublishBatch" in body:
            ids = _ID.findall(body)
            self.stub.published += len(ids)
            members = b"".join(
                b"<member><MessageId>%b</MessageId><Id>%b</Id></member>" % (b"0" * 36, one) for one in ids
            )
            self._answer_xml(b"PublishBatch", b"<Failed/><Successful>%b</Successful>" % members)
            return
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action = form.get("Action", "")
        arn = form.get("TopicArn") or f"arn:aws:sns:{REGION}:{ACCOUNT}:{form.get('Name')}"
        self.stub.published += action == "Publish"
        results = {
            "CreateTopic": f"<TopicArn>{arn}</TopicArn>",
            "GetTopicAttributes": "<Attributes></Attributes>",
            "Subscribe": f"<SubscriptionArn>{arn}:{uuid.uuid4()}</SubscriptionArn>",
            "Publish": f"<MessageId>{uuid.uuid4()}</MessageId>",
            "GetCallerIdentity": f"<Account>{ACCOUNT}</Account>",
        }
        self._answer_xml(action.encode(), results.get(action, "").encode())

    def _answer_xml(self, action: bytes, result: bytes) -> None:
        text = (
            b'<%bResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><%bResult>%b</%bResult>'
            b"<ResponseMetadata><RequestId>7a62c49f-347e-4fc4-9331-6e8e7a96aa73</RequestId></ResponseMetadata>"
            b"</%bResponse>" % (action, action, result, action, action)
        )
        self._answer(text, b"text/xml")


async def serve() -> None:
    """Serve until the process is stopped."""
    stub = Stub()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(stub), "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(stub.url, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
