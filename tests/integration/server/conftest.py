"""A server of melange for each test, in this process, and boto3's clients for it."""

import json
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.config import Config

from melange.server import Server


@pytest.fixture
def server():
    with Server() as server:
        yield server


@pytest.fixture
def client(server, monkeypatch):
    """Make a client of boto3 that tries once; close it at the end."""
    clients = []

    def make(service: str):
        made = boto3.client(
            service,
            endpoint_url=server.url,
            region_name="eu-west-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )
        clients.append(made)
        return made

    yield make
    for one in clients:
        one.close()


@pytest.fixture
def sqs(client):
    return client("sqs")


@pytest.fixture
def queue_url(sqs):
    return sqs.create_queue(QueueName="orders", Attributes={"VisibilityTimeout": "600"})["QueueUrl"]


@pytest.fixture
def control(server):
    """Send a request to the control interface; return its status and what it answers."""

    def send(method: str, path: str, content: object = None, headers: dict[str, str] | None = None):
        host, _, port = server.url.removeprefix("http://").partition(":")
        connection = HTTPConnection(host, int(port), timeout=30)
        try:
            body = None if content is None else json.dumps(content)
            given = {"Content-Type": "application/json"} | (headers or {})
            connection.request(method, f"/_melange/{path}", body, given)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return send


class Endpoint(ThreadingHTTPServer):
    """An HTTP subscription's endpoint; it fails the first ``failures`` notifications."""

    def __init__(self, failures=0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures = failures
        self.received = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/events"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fails = self.headers["x-amz-sns-message-type"] == "Notification" and self.server.failures > 0
        self.server.failures -= fails
        self.server.received.append((dict(self.headers.items()), body))
        self.send_response(503 if fails else 200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    with Endpoint() as endpoint:
        yield endpoint
        endpoint.shutdown()
