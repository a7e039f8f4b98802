"""A broker that hangs, and credentials that cannot be had: real sockets, real botocore, bounded waits."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from botocore.config import Config

from melange.drivers.aws import AwsDriver
from melange.errors import AccessDeniedError, DriverConnectionError
from melange.messages import Delivery, Message, Queue, Topic

TOPIC = Topic("products", "arn:aws:sns:us-east-1:123456789012:products")
QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")


@pytest.fixture
def hanging_url() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail a block that takes longer: less than without the limit, more than a busy machine adds."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_a_broker_that_hangs_holds_a_publish_no_longer_than_its_time(hanging_url):
    with AwsDriver(endpoint_url=hanging_url, call_timeout_seconds=2) as driver, at_most(12):
        (failure,) = driver.publish(TOPIC, [Message("id", "{}")])

    assert isinstance(failure.error, DriverConnectionError)


def test_a_publish_of_many_is_given_up_with_its_first_ten(hanging_url):
    messages = [Message(f"id-{number}", "{}") for number in range(100)]

    with AwsDriver(endpoint_url=hanging_url, call_timeout_seconds=1) as driver, at_most(8):
        failures = driver.publish(TOPIC, messages)

    assert len(failures) == 100


def test_some_seconds_are_the_default(hanging_url):
    with AwsDriver(endpoint_url=hanging_url) as driver, at_most(45):
        driver.publish(TOPIC, [Message("id", "{}")])


def test_a_driver_that_only_publishes_may_read_shortly(hanging_url):
    with AwsDriver(endpoint_url=hanging_url, config=Config(read_timeout=1)) as driver, at_most(10):
        driver.publish(TOPIC, [Message("id", "{}")])


def test_settling_and_receiving_at_once_are_limited_too(hanging_url):
    with AwsDriver(endpoint_url=hanging_url, call_timeout_seconds=1) as driver, at_most(12):
        deadline = driver.clock.monotonic() + 30
        delivery = Delivery(Message("id", "{}"), QUEUE, "handle", 1, deadline)
        (failure,) = driver.acknowledge([delivery])
        with pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)

    assert isinstance(failure.error, DriverConnectionError)


def test_a_web_identity_whose_token_is_not_there_is_a_matter_of_credentials(monkeypatch, tmp_path):
    _without_keys(monkeypatch)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/shop")

    with AwsDriver() as driver, pytest.raises(AccessDeniedError, match=r"FileNotFoundError.*token"):
        driver.receive(QUEUE, 1, 0)


@pytest.mark.parametrize("program", ["/no/such/program", "false", "echo not-json"])
def test_a_credential_process_that_fails_is_a_matter_of_credentials(monkeypatch, tmp_path, program):
    _without_keys(monkeypatch)
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = us-east-1\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    with pytest.raises(AccessDeniedError, match="credentials"), AwsDriver() as driver:
        driver.receive(QUEUE, 1, 0)


def test_a_role_that_may_not_be_assumed_is_told_in_the_words_of_aws(monkeypatch, tmp_path):
    sentence = b"User: arn:aws:iam::1:user/me is not authorized to perform: sts:AssumeRoleWithWebIdentity"
    body = (
        b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>%s</Message></Error></ErrorResponse>"
        % sentence
    )
    _without_keys(monkeypatch)
    token = tmp_path / "token"
    token.write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/shop")

    with _answering(403, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        with AwsDriver() as driver, pytest.raises(AccessDeniedError, match="AssumeRoleWithWebIdentity"):
            driver.receive(QUEUE, 1, 0)


def test_a_provider_of_credentials_that_is_unavailable_may_mend(monkeypatch, tmp_path):
    _without_keys(monkeypatch)
    token = tmp_path / "token"
    token.write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/shop")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    config = Config(retries={"total_max_attempts": 1})
    with AwsDriver(config=config) as driver, pytest.raises(DriverConnectionError, match="credentials"):
        driver.receive(QUEUE, 1, 0)


def test_credentials_that_come_late_are_found_without_a_new_driver(monkeypatch):
    _without_keys(monkeypatch)
    with _answering(200, b'{"Messages":[]}') as url, AwsDriver(endpoint_url=url) as driver:
        with pytest.raises(AccessDeniedError, match="AWS_ACCESS_KEY_ID"):
            driver.receive(QUEUE, 1, 0)

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

        assert driver.receive(QUEUE, 1, 0) == []


def _without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)


@contextmanager
def _answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
