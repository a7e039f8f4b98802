"""What happens on the wire, on both transports: closed connections, bad answers, TLS, proxies, credentials."""

from __future__ import annotations

import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
import trustme
from botocore.config import Config
from botocore.credentials import RefreshableCredentials

from melange.drivers.aws import AwsDriver
from melange.errors import (
    AccessDeniedError,
    DriverClosedError,
    DriverConnectionError,
    LeaseLostError,
    QueueNotFoundError,
)
from melange.messages import Delivery, Message, Queue, Topic
from scripted_server import CLOSE, DRIP, EMPTY, PUBLISHED, ScriptedServer, http, scripted_server, sqs
from tunnel import tunnel
from waiting import eventually

TOPIC = Topic("products", "arn:aws:sns:us-east-1:123456789012:products")
QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")
ONE_ATTEMPT = Config(retries={"total_max_attempts": 1})


def raw(body: str, **fields: object) -> dict[str, object]:
    return {"MessageId": "sqs-id", "ReceiptHandle": "handle", "Body": body, **fields}


def of(server: ScriptedServer, **options: object) -> AwsDriver:
    return AwsDriver(
        **{"endpoint_url": server.url, "config": ONE_ATTEMPT, "call_timeout_seconds": 60, **options}
    )


# Connections


def test_calls_follow_each_other_on_one_connection():
    with scripted_server(EMPTY) as server, of(server) as driver:
        for _ in range(3):
            driver.receive(QUEUE, 1, 0)

    assert [request.connection for request in server.requests] == [0, 0, 0]


@pytest.mark.parametrize("header", ["Connection: close", "Connection: Close, x"])
def test_a_connection_that_the_server_will_close_is_not_used_again(header):
    with scripted_server(http(b"{}", header) + CLOSE) as server, of(server) as driver:
        for _ in range(3):
            driver.receive(QUEUE, 1, 0)

    assert [request.connection for request in server.requests] == [0, 1, 2]


def test_a_kept_connection_that_was_closed_in_the_meantime_costs_no_attempt():
    with scripted_server(EMPTY) as server, of(server) as driver:
        driver.receive(QUEUE, 1, 0)
        server.close_connections()

        assert driver.receive(QUEUE, 1, 0) == []


def test_a_request_that_is_answered_by_a_closed_connection_is_repeated_once_at_most(transport):
    with scripted_server(EMPTY, b"", b"", EMPTY) as server, of(server) as driver:
        driver.receive(QUEUE, 1, 0)
        with pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)

    assert len(server.requests) == (3 if transport == "direct" else 2)


def test_a_new_connection_that_is_closed_is_a_failed_attempt():
    with scripted_server(b"") as server, of(server) as driver, pytest.raises(DriverConnectionError):
        driver.receive(QUEUE, 1, 0)

    assert len(server.requests) == 1


def test_half_an_answer_is_a_failed_attempt_and_is_not_repeated_at_once():
    with (
        scripted_server(EMPTY, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{" + CLOSE) as server,
        of(server) as driver,
    ):
        driver.receive(QUEUE, 1, 0)
        with pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)

    assert len(server.requests) == 2


def test_threads_at_the_same_time_have_connections_of_their_own_and_get_their_own_answers():
    def answer_of(number: int) -> bytes:
        return sqs(Messages=[raw(f"{number}")])

    answers = [answer_of(number) for number in range(400)]
    with scripted_server(*answers) as server, of(server) as driver, ThreadPoolExecutor(8) as pool:
        received = list(pool.map(lambda _: driver.receive(QUEUE, 1, 0)[0].message.body, range(400)))

    assert sorted(map(int, received)) == list(range(400))


def test_no_more_idle_connections_are_kept_than_the_settings_say():
    config = ONE_ATTEMPT.merge(Config(max_pool_connections=2))
    together = threading.Barrier(6)

    with scripted_server(EMPTY) as server, of(server, config=config) as driver, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: (together.wait(10), driver.receive(QUEUE, 1, 0)), range(6)))
        before = len(server.connections)
        for _ in range(5):
            driver.receive(QUEUE, 1, 0)

        assert len(server.connections) == before


def test_closing_the_driver_closes_its_connections():
    with scripted_server(EMPTY) as server:
        with of(server) as driver:
            driver.receive(QUEUE, 1, 0)
        with pytest.raises(DriverClosedError):
            driver.receive(QUEUE, 1, 0)

        eventually(lambda: all(connection.fileno() == -1 for connection in server.connections))


# Answers


def test_a_chunked_answer_after_an_interim_one_is_read():
    body = json.dumps({"Messages": [raw('{"a": 1}')]}).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked

    with scripted_server(answer) as server, of(server) as driver:
        bodies = [driver.receive(QUEUE, 1, 0)[0].message.body for _ in range(2)]

    assert bodies == ['{"a": 1}'] * 2


def test_an_answer_of_many_megabytes_is_read():
    body = "x" * 1_000_000

    with scripted_server(sqs(Messages=[raw(body) for _ in range(10)])) as server, of(server) as driver:
        received = driver.receive(QUEUE, 10, 0)

    assert [len(delivery.message.body) for delivery in received] == [1_000_000] * 10


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}" + CLOSE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n" + CLOSE,
        b"it is a teapot\r\n\r\n" + CLOSE,
        http(b"<html>log in first</html>"),
        http(b"[]"),
        http(b'{"Messages": "none"}'),
        http(b"{}", status="302 Found"),
        http(b"<html>", status="502 Bad Gateway"),
        http(b"", status="503 Slow Down"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_outage(answer):
    with scripted_server(answer) as server, of(server) as driver, pytest.raises(DriverConnectionError):
        driver.receive(QUEUE, 1, 0)


def test_an_answer_that_comes_byte_by_byte_is_given_up(transport):
    if transport == "botocore":
        pytest.skip("botocore counts the time of each piece, not of the answer")
    with (
        scripted_server(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + DRIP) as server,
        of(server, call_timeout_seconds=2) as driver,
        pytest.raises(DriverConnectionError),
    ):
        driver.receive(QUEUE, 1, 0)


def test_a_publish_that_is_not_mentioned_in_the_answer_has_failed():
    with scripted_server(PUBLISHED) as server, of(server) as driver:
        failures = driver.publish(TOPIC, [Message("a", "{}"), Message("b", "{}")])

    assert [failure.item.message_id for failure in failures] == ["b"]


@pytest.mark.parametrize("is_senders", [True, False])
def test_only_entries_that_may_succeed_are_sent_again(is_senders):
    failed = PUBLISHED.replace(b"Successful>", b"Failed>").replace(
        b"<MessageId>m</MessageId>",
        b"<Code>InternalError</Code><SenderFault>%b</SenderFault>" % str(is_senders).lower().encode(),
    )
    failed = http(failed.partition(b"\r\n\r\n")[2])
    config = Config(retries={"total_max_attempts": 2})

    with scripted_server(failed, PUBLISHED) as server, of(server, config=config) as driver:
        failures = driver.publish(TOPIC, [Message("a", "{}")])

    assert (len(failures), len(server.requests)) == ((1, 1) if is_senders else (0, 2))


def test_errors_say_as_much_as_those_of_botocore():
    body = b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no such queue"}'
    answer = http(
        body,
        "x-amzn-RequestId: request-7",
        "x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender",
        status="400 Bad Request",
    )

    with scripted_server(answer) as server, of(server) as driver, pytest.raises(QueueNotFoundError) as caught:
        driver.receive(QUEUE, 1, 0)

    cause = caught.value.__cause__
    assert type(cause).__name__ == "QueueDoesNotExist"
    assert cause.operation_name == "ReceiveMessage"
    assert cause.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
    assert cause.response["Error"]["Message"] == "no such queue"
    assert cause.response["ResponseMetadata"]["RequestId"] == "request-7"
    assert cause.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_an_error_of_sns_is_read():
    body = (
        b"<ErrorResponse xmlns='http://sns.amazonaws.com/doc/2010-03-31/'><Error><Type>Sender</Type>"
        b"<Code>AuthorizationError</Code><Message>User: arn:aws:iam::1:user/me is not authorized to perform: "
        b"SNS:Publish</Message></Error><RequestId>request-8</RequestId></ErrorResponse>"
    )

    with (
        scripted_server(http(body, status="403 Forbidden")) as server,
        of(server) as driver,
        pytest.raises(AccessDeniedError, match="is not authorized to perform: SNS:Publish") as caught,
    ):
        driver.publish(TOPIC, [Message("a", "{}")])

    assert caught.value.__cause__.response["ResponseMetadata"]["RequestId"] == "request-8"


def test_a_stale_handle_is_a_lost_lease():
    failed = {"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid", "Message": "no"}

    with scripted_server(sqs(Successful=[], Failed=[failed])) as server, of(server) as driver:
        delivery = Delivery(Message("id", "{}"), QUEUE, "handle", 1, driver.clock.monotonic() + 30)
        (failure,) = driver.acknowledge([delivery])

    assert isinstance(failure.error, LeaseLostError)


# Credentials and time


def test_credentials_that_expire_in_the_middle_of_a_run_are_renewed():
    renewals = 0

    def renew() -> dict[str, str]:
        nonlocal renewals
        renewals += 1
        # Within the time that botocore renews ahead, but for the third: each call renews.
        left = timedelta(minutes=5) if renewals < 3 else timedelta(hours=5)
        return {
            "access_key": f"KEY{renewals}",
            "secret_key": "secret",
            "token": f"token-{renewals}",
            "expiry_time": (datetime.now(UTC) + left).isoformat(),
        }

    session = boto3.Session(region_name="us-east-1")
    session._session._credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "fake")

    with scripted_server(EMPTY) as server, of(server, session=session) as driver:
        for _ in range(4):
            driver.receive(QUEUE, 1, 0)

    tokens = [request.headers["x-amz-security-token"] for request in server.requests]
    assert tokens == ["token-2", "token-3", "token-3", "token-3"]
    for request, token in zip(server.requests, tokens, strict=True):
        assert f"Credential=KEY{token[-1]}/" in request.headers["authorization"]


def test_a_token_that_aws_calls_expired_is_a_matter_of_credentials():
    answer = http(b'{"__type": "ExpiredTokenException", "message": "expired"}', status="400 Bad Request")

    with (
        scripted_server(answer) as server,
        of(server) as driver,
        pytest.raises(AccessDeniedError, match="ExpiredToken"),
    ):
        driver.receive(QUEUE, 1, 0)


def test_a_clock_that_is_wrong_is_named():
    body = b'{"__type": "InvalidSignatureException", "message": "Signature expired: 20260101T000000Z is now earlier"}'

    with (
        scripted_server(http(body, status="403 Forbidden")) as server,
        of(server) as driver,
        pytest.raises(DriverConnectionError, match="clock"),
    ):
        driver.receive(QUEUE, 1, 0)


def test_on_lambda_the_trace_id_goes_along(monkeypatch):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1")

    with scripted_server(PUBLISHED) as server, of(server) as driver:
        driver.publish(TOPIC, [Message("a", "{}")])

    assert server.requests[0].headers["x-amzn-trace-id"].startswith("Root=1-5759e988")


# TLS and proxies


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_a_server_with_a_certificate_of_the_bundle_is_trusted(authority, bundle, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    with scripted_server(EMPTY, tls=server_context(authority, "localhost")) as server, of(server) as driver:
        for _ in range(3):
            assert driver.receive(QUEUE, 1, 0) == []

    assert {request.connection for request in server.requests} == {0}


def test_a_server_with_an_unknown_certificate_is_not_trusted(authority):
    with (
        scripted_server(EMPTY, tls=server_context(authority, "localhost")) as server,
        of(server) as driver,
        pytest.raises(DriverConnectionError, match=r"(?i)SSL.*certificate verify failed"),
    ):
        driver.receive(QUEUE, 1, 0)

    assert server.requests == []


def test_a_certificate_of_another_name_is_not_trusted(authority, bundle, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    with (
        scripted_server(EMPTY, tls=server_context(authority, "other.example")) as server,
        of(server) as driver,
        pytest.raises(DriverConnectionError, match=r"(?i)certificate|hostname"),
    ):
        driver.receive(QUEUE, 1, 0)

    assert server.requests == []


def test_a_client_certificate_is_shown(authority, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    certificate = tmp_path / "client.pem"
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = server_context(authority, "localhost")
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    with scripted_server(EMPTY, tls=context) as server:
        config = ONE_ATTEMPT.merge(Config(client_cert=str(certificate)))
        with of(server, config=config) as driver:
            assert driver.receive(QUEUE, 1, 0) == []
        with of(server) as driver, pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)

    assert len(server.requests) == 1


def test_a_proxy_forwards_plain_requests():
    with scripted_server(EMPTY) as proxy:
        host = proxy.url.removeprefix("http://")
        config = ONE_ATTEMPT.merge(Config(proxies={"http": f"http://user:secret@{host}"}))
        with AwsDriver(endpoint_url="http://sqs.example:4566", config=config) as driver:
            driver.receive(QUEUE, 1, 0)

    (request,) = proxy.requests
    assert request.line == "POST http://sqs.example:4566/ HTTP/1.1"
    assert request.headers["host"] == "sqs.example:4566"
    assert request.headers["proxy-authorization"].startswith("Basic ")


def test_a_proxy_tunnels_tls(authority, bundle, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    with (
        scripted_server(EMPTY, tls=server_context(authority, "localhost")) as server,
        tunnel() as (url, lines),
    ):
        config = ONE_ATTEMPT.merge(Config(proxies={"https": url}))
        with of(server, config=config) as driver:
            for _ in range(2):
                assert driver.receive(QUEUE, 1, 0) == []

    assert [line.split()[0] for line in lines] == ["CONNECT"]
    assert [request.line for request in server.requests] == ["POST / HTTP/1.1"] * 2


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with scripted_server(EMPTY) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with AwsDriver(endpoint_url="http://sqs.example", config=ONE_ATTEMPT) as driver:
            driver.receive(QUEUE, 1, 0)

    assert proxy.requests[0].line == "POST http://sqs.example/ HTTP/1.1"


def test_a_proxy_that_is_not_there_is_an_outage(authority):
    with scripted_server(EMPTY, tls=server_context(authority, "localhost")) as server:
        config = ONE_ATTEMPT.merge(Config(proxies={"https": "http://127.0.0.1:1"}))
        with of(server, config=config) as driver, pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)
