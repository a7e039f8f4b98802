"""A server of melange for each test, in this process, and boto3's clients for it."""

import json
from http.client import HTTPConnection

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
