"""The proxy does what the runs count on: each fault with certainty, before a server that counts."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chaos.proxy import (
    DROP_ANSWER,
    DROP_REQUEST,
    DUPLICATE,
    SERVER_ERROR,
    STALL,
    THROTTLE,
    disturbing,
)

JSON_TYPE = "application/x-amz-json-1.0"


class CountingServer(ThreadingHTTPServer):
    daemon_threads = True
    requests: list[bytes]


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CountingServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server names it so
        """Stay silent."""


@pytest.fixture
def upstream() -> Iterator[CountingServer]:
    with CountingServer(("127.0.0.1", 0), Answering) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    upstream: CountingServer, fault: str | None, content_type: str = JSON_TYPE
) -> tuple[int, dict[str, str], bytes]:
    with disturbing(upstream.server_port, {fault: 1.0} if fault else {}, seed=1) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        try:
            connection.request("POST", "/", body=b"question", headers={"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()


@pytest.mark.parametrize(("fault", "arrivals"), [(None, 1), (DUPLICATE, 2), (STALL, 1)])
def test_what_passes_is_answered_by_the_server(
    upstream: CountingServer, fault: str | None, arrivals: int
) -> None:
    status, _, body = ask(upstream, fault)

    assert (status, body) == (200, b"question")
    assert upstream.requests == [b"question"] * arrivals


@pytest.mark.parametrize(("fault", "arrivals"), [(DROP_REQUEST, 0), (DROP_ANSWER, 1)])
def test_what_is_dropped_ends_the_connection_before_or_after_it_took_effect(
    upstream: CountingServer, fault: str, arrivals: int
) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(upstream, fault)

    assert upstream.requests == [b"question"] * arrivals


def test_an_error_of_the_server_never_gets_there(upstream: CountingServer) -> None:
    status, _, _ = ask(upstream, SERVER_ERROR)

    assert (status, upstream.requests) == (500, [])


def test_sqs_throttles_in_json(upstream: CountingServer) -> None:
    status, headers, body = ask(upstream, THROTTLE)

    assert (status, upstream.requests) == (400, [])
    assert headers["x-amzn-query-error"].startswith("RequestThrottled;")
    assert b"RequestThrottled" in body


def test_sns_throttles_in_xml(upstream: CountingServer) -> None:
    status, _, body = ask(upstream, THROTTLE, "application/x-www-form-urlencoded")

    assert (status, upstream.requests) == (400, [])
    assert b"<Code>Throttling</Code>" in body
