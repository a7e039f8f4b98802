"""Clients that send nonsense, or nothing, or too much: each is answered or dropped, and the others do not notice."""

import json
import shlex
import socket
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from melange.server import Broker, Server, http, socket_listener
from waiting import eventually

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


def exchange(url: str, data: bytes) -> bytes:
    """Send bytes, end the sending, and return all that comes back."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65_536):
            answer += received
        return answer


def is_answering(url: str) -> bool:
    request = b"GET /_melange/clock HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return exchange(url, request).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"Origin: http://[\r\nContent-Length: 0\r\n\r\n", 403),
        (b'POST / HTTP/1.1\r\nHost: a"><script>\r\nContent-Length: 0\r\n\r\n', 403),
        (b"POST / HTTP/1.1\r\nHost: " + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n", 403),
        (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 999999999999\r\n\r\n", 413),
        (HEAD + b"Content-Length: 20000000\r\n\r\n" + b"x" * 20_000_000, 413),
        (HEAD + b"Content-Length: 1, 1\r\n\r\na", 400),
        (HEAD + "Content-Length: ²\r\n\r\n".encode("latin-1"), 400),
        (HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (HEAD + b" folded: yes\r\n\r\n", 400),
        (HEAD + b"X-Amz-Target: AmazonSQS.ListQueues\r\nX: a\nY: b\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /%0d%0aX-Injected:%20yes HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /_melange/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET //[/x?Action=ListQueues HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_odd_is_refused_and_the_next_is_answered(server, data, status) -> None:
    answer = exchange(server.url, data)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    assert b"\r\nX-Injected" not in answer
    assert is_answering(server.url)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": ["error"]},
        {"kind": "error", "status": [500]},
        {"kind": "error", "name": {}},
        {"kind": "throttle", "seed": {}},
        {"kind": "throttle", "rate": True},
        {"kind": "throttle", "times": "one"},
    ],
)
def test_a_fault_with_a_value_of_the_wrong_type_is_refused(control, options) -> None:
    status, answer = control("POST", "faults", options)

    assert status == 400
    assert answer["error"]


@pytest.mark.parametrize("task_id", [[], {}])
def test_a_handle_of_a_move_task_that_is_odd_is_refused(client, task_id) -> None:
    sqs = client("sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    handle = b64encode(json.dumps({"taskId": task_id, "sourceArn": arn}).encode()).decode()

    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        sqs.cancel_message_move_task(TaskHandle=handle)


def test_half_of_a_surrogate_pair_is_answered(server) -> None:
    body = b'{"QueueUrl": "\\ud800"}'
    head = b"X-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: %d\r\n\r\n" % len(body)

    answer = exchange(server.url, HEAD + head + body)

    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("sent", [b"POST / HTTP/1.1\r\nHost: loc", HEAD + b"Content-Length: 9\r\n\r\nhalf"])
def test_a_request_that_does_not_come_whole_is_given_up(monkeypatch, sent) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(socket_listener, "LOOK_SECONDS", 0.02)
    with Server() as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as slow:
            slow.sendall(sent)

            assert slow.recv(65_536).startswith(b"HTTP/1.1 408 ")


def _begin_large_request(stack: ExitStack, url: str) -> socket.socket:
    """Send 10 MB of a body that has more, and keep the connection open."""
    address = urlsplit(url)
    client = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
    client.sendall(HEAD + b"Content-Length: 10000001\r\n\r\n" + b"x" * 10_000_000)
    return client


def test_bodies_that_have_not_come_whole_count_for_the_memory(monkeypatch) -> None:
    memories = []

    class WatchedMemory(http.BodyMemory):
        def __init__(self, max_bytes: int | None = None) -> None:
            super().__init__(max_bytes)
            memories.append(self)

        def release(self, size: int) -> None:
            time.sleep(1 if size else 0)  # an answer that does not wait for it comes first
            super().release(size)

    monkeypatch.setattr(socket_listener, "BodyMemory", WatchedMemory)
    with Server(Broker(max_bytes=1_000_000)) as server, ExitStack() as clients:
        (memory,) = memories
        waiting = _begin_large_request(clients, server.url)
        # If both came at the same time, each could be refused for the other.
        eventually(lambda: memory._taken > 9_900_000)
        refused = _begin_large_request(clients, server.url)

        assert refused.recv(65_536).startswith(b"HTTP/1.1 503 ")
        assert is_answering(server.url)  # small requests are not counted

        waiting.sendall(b"x")
        assert waiting.recv(65_536).startswith(b"HTTP/1.1 4")  # read to its end, and no operation
        third = _begin_large_request(clients, server.url)
        third.sendall(b"x")
        assert third.recv(65_536).startswith(b"HTTP/1.1 4")


def test_a_client_may_be_silent_between_requests(monkeypatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    monkeypatch.setattr(socket_listener, "LOOK_SECONDS", 0.02)
    request = b"GET /_melange/clock HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Server() as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as client:
            client.sendall(request)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            client.settimeout(0.3)  # longer than a request may take
            with pytest.raises(TimeoutError):
                client.recv(1)

            client.settimeout(30)
            client.sendall(request)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_too_many_connections_wait_and_the_log_stays_short(tmp_path) -> None:
    server = [sys.executable, "-m", "melange.cli", "server", "--port", "0", "--log-format", "json"]
    command = ["sh", "-c", f"ulimit -n 64; exec {shlex.join(server)}"]
    errors = tmp_path / "errors"
    with (
        errors.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().rpartition(" ")[2].strip()
        address = urlsplit(url)
        try:
            with ExitStack() as connections:
                for _ in range(100):
                    connections.enter_context(socket.create_connection((address.hostname, address.port)))
                eventually(lambda: "cannot be accepted" in errors.read_text())

            eventually(lambda: is_answering(url))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert errors.read_text().count("cannot be accepted") < 20


def test_sends_are_refused_while_memory_is_full(client, server) -> None:
    sqs = client("sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    server.broker.max_bytes = 100_000
    body = "x" * 40_000
    sqs.send_message(QueueUrl=url, MessageBody=body)
    sqs.send_message(QueueUrl=url, MessageBody=body)

    with pytest.raises(sqs.exceptions.OverLimit, match="--max-memory"):
        sqs.send_message(QueueUrl=url, MessageBody=body)

    entries = [{"Id": str(number), "MessageBody": body} for number in range(2)]
    failed = sqs.send_message_batch(QueueUrl=url, Entries=entries)["Failed"]
    assert [entry["Code"] for entry in failed] == ["OverLimit", "OverLimit"]
    [message] = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    sqs.send_message(QueueUrl=url, MessageBody=body)
    assert server.broker.bytes_kept < 100_000
