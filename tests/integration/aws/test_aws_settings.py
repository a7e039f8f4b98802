"""Whatever boto3 obeys, both transports obey: files, variables, ``Config``; and what they send is the same."""

from __future__ import annotations

import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
import trustme
from aws_lambda_powertools.shared.user_agent import register_feature_to_session
from botocore.config import Config
from botocore.credentials import RefreshableCredentials

from melange.drivers.aws import AwsDriver
from melange.errors import AccessDeniedError, ConfigurationError, DriverConnectionError, MelangeError
from melange.messages import Message, Queue, Topic
from scripted_server import CLOSE, DRIP, EMPTY, PUBLISHED, Request, http, scripted_server, sqs

TOPIC = Topic("products", "arn:aws:sns:us-east-1:123456789012:products")
QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")
ONE_ATTEMPT = Config(retries={"total_max_attempts": 1})
OF_EACH_ATTEMPT = {
    "host",
    "authorization",
    "x-amz-date",
    "content-length",
    "amz-sdk-request",
    "amz-sdk-invocation-id",
}


def one_receive(**options: object) -> Request:
    """Return the request of a receive that goes to a server of its own."""
    with (
        scripted_server(EMPTY) as server,
        AwsDriver(**{"endpoint_url": server.url, "config": ONE_ATTEMPT, **options}) as driver,
    ):
        driver.receive(QUEUE, 1, 0)
    return server.requests[0]


def config_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))


# What is sent


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(user_agent_extra="shop/7"),
        Config(user_agent="shop/8"),
        Config(user_agent_appid="shop-9"),
    ],
)
def test_both_transports_send_the_same_headers(config, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    sent = []
    for transport in ("direct", "botocore"):
        for answer in (EMPTY, PUBLISHED):
            options = {"transport": transport, "config": ONE_ATTEMPT.merge(config)}
            with (
                scripted_server(answer) as server,
                AwsDriver(endpoint_url=server.url, **options) as driver,
            ):
                if answer is EMPTY:
                    driver.receive(QUEUE, 1, 0)
                else:
                    driver.publish(TOPIC, [Message("a", "{}")])
            (request,) = server.requests
            names = request.headers.keys() - OF_EACH_ATTEMPT
            sent.append((request.line, {name: request.headers[name] for name in names}))

    assert sent[:2] == sent[2:]


def test_the_words_of_powertools_for_the_agent_go_along():
    session = boto3.Session(region_name="us-east-1")
    register_feature_to_session(session, "batch")

    sent = [
        one_receive(session=session, transport=name).headers["user-agent"] for name in ("auto", "botocore")
    ]

    assert " PT/batch/" in sent[0]
    assert sent[0] == sent[1]


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
@pytest.mark.parametrize("text", ["secret\n", "secret\r\nx-evil: 1", "secret\r"])
def test_a_line_break_in_credentials_is_refused_and_not_quoted(name, text, monkeypatch):
    monkeypatch.setenv(name, text)

    with (
        scripted_server(EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
        pytest.raises(AccessDeniedError, match="line break") as caught,
    ):
        driver.receive(QUEUE, 1, 0)

    assert server.requests == []
    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


# Where it is sent


def test_an_endpoint_of_the_services_section_is_used(monkeypatch, tmp_path):
    with scripted_server(EMPTY) as server:
        config_file(
            monkeypatch,
            tmp_path,
            f"[default]\nservices = local\n[services local]\nsqs =\n  endpoint_url = {server.url}\n",
        )
        with AwsDriver(config=ONE_ATTEMPT) as driver:
            driver.receive(QUEUE, 1, 0)

    assert len(server.requests) == 1


def test_the_variable_of_a_service_comes_before_that_of_all(monkeypatch):
    with scripted_server(EMPTY) as server, scripted_server(PUBLISHED) as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", server.url)
        with AwsDriver(config=ONE_ATTEMPT) as driver:
            driver.receive(QUEUE, 1, 0)
            driver.publish(TOPIC, [Message("a", "{}")])

    assert (len(server.requests), len(other.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sqs.us-east-1.api.aws"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "sqs-fips.us-east-1.amazonaws.com"),
        ({"AWS_DEFAULT_REGION": "cn-north-1"}, "sqs.cn-north-1.amazonaws.com.cn"),
        ({"AWS_REGION": "eu-west-1"}, "sqs.eu-west-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL": "http://ignored.example", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    ],
)
def test_variables_choose_the_host(variables, host, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    # Nothing may go out: a proxy that refuses is told the host all the same.
    with scripted_server(http(b"", status="403 Forbidden") + CLOSE) as proxy:
        config = ONE_ATTEMPT.merge(Config(proxies={"https": proxy.url}))
        with AwsDriver(config=config) as driver, pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)

    assert proxy.requests[0].line.startswith(f"CONNECT {host or 'sqs.us-east-1.amazonaws.com'}:443 ")


def test_without_a_region_the_driver_is_not_made(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(ConfigurationError, match="region"):
        AwsDriver(endpoint_url="http://127.0.0.1:1")


def test_an_address_of_ipv6_is_used():
    with (
        scripted_server(EMPTY, is_ipv6=True) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        driver.receive(QUEUE, 1, 0)

    assert server.requests[0].headers["host"] == server.url.removeprefix("http://")


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(status):
    with scripted_server(EMPTY) as elsewhere:
        answer = http(b"", f"Location: {elsewhere.url}/", status=status)
        with (
            scripted_server(answer) as server,
            AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
            pytest.raises(DriverConnectionError),
        ):
            driver.receive(QUEUE, 1, 0)

    assert elsewhere.requests == []


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_hosts_without_proxy_are_asked_themselves(variable, monkeypatch):
    with scripted_server(EMPTY) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv(variable, "localhost")
        one_receive()

    assert proxy.requests == []


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} " + CLOSE,
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}" + CLOSE,
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}" + CLOSE,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + CLOSE,
        b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"x" * 200_000 + CLOSE,
        b"\x16\x03\x01\x02\x00" + CLOSE,
    ],
)
def test_strange_answers_of_http_are_outages_and_their_connection_is_left(answer, transport):
    if transport == "botocore":
        pytest.skip("what http.client makes of them is not melange's")
    with (
        scripted_server(answer, EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        with pytest.raises(DriverConnectionError):
            driver.receive(QUEUE, 1, 0)
        assert driver.receive(QUEUE, 1, 0) == []


def test_interim_answers_without_an_end_are_given_up(transport):
    if transport == "botocore":
        pytest.skip("http.client waits for ever")
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 " + DRIP

    with (
        scripted_server(interim) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT, call_timeout_seconds=2) as driver,
        pytest.raises(DriverConnectionError),
    ):
        driver.receive(QUEUE, 1, 0)


def test_more_than_one_answer_never_becomes_the_answer_to_the_next_request():
    message = {"MessageId": "m", "ReceiptHandle": "h", "Body": "of another"}
    smuggled = sqs(Messages=[message])

    with (
        scripted_server(EMPTY + smuggled, EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        received = [driver.receive(QUEUE, 1, 0) for _ in range(2)]

    assert received == [[], []]


def test_an_answer_that_comes_after_the_answer_never_becomes_the_next_one():
    message = {"MessageId": "m", "ReceiptHandle": "h", "Body": "of another"}

    with (
        scripted_server(EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        driver.receive(QUEUE, 1, 0)
        server.connections[0].sendall(sqs(Messages=[message]))

        assert driver.receive(QUEUE, 1, 0) == []

    assert [request.connection for request in server.requests] == [0, 1]


def test_a_kept_connection_that_was_closed_takes_no_publish_twice():
    with (
        scripted_server(PUBLISHED) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        driver.publish(TOPIC, [Message("a", "{}")])
        server.close_connections()
        failures = driver.publish(TOPIC, [Message("b", "{}")])

    assert failures == []
    assert [request.connection for request in server.requests] == [0, 1]


# Credentials


def test_credentials_of_a_process_are_renewed(monkeypatch, tmp_path):
    answers = tmp_path / "credentials.py"
    answers.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(number))\n"
        f"expiry = {(datetime.now(UTC) + timedelta(minutes=5)).isoformat()!r}\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'KEY{number}', 'SecretAccessKey': 's',"
        " 'SessionToken': f'token-{number}', 'Expiration': expiry}))\n"
    )
    config_file(monkeypatch, tmp_path, f"[default]\ncredential_process = {sys.executable} {answers}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    with (
        scripted_server(EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT, region_name="us-east-1") as driver,
    ):
        for _ in range(2):
            driver.receive(QUEUE, 1, 0)

    tokens = [request.headers["x-amz-security-token"] for request in server.requests]
    # They end within the time in which botocore renews in advance: each call asks again.
    assert len(set(tokens)) == 2


@pytest.mark.parametrize("left", [timedelta(minutes=12), timedelta(minutes=-1)])
def test_a_provider_that_fails_matters_only_if_the_credentials_have_ended(left):
    def fail() -> dict[str, str]:
        raise OSError("the provider is away")

    session = boto3.Session(region_name="us-east-1")
    known = {"access_key": "KEY", "secret_key": "s", "token": "t"}
    session._session._credentials = RefreshableCredentials.create_from_metadata(
        {**known, "expiry_time": (datetime.now(UTC) + left).isoformat()}, fail, "fake"
    )

    if left > timedelta():
        assert one_receive(session=session).headers["x-amz-security-token"] == "t"
    else:
        with pytest.raises(MelangeError, match=r"credentials"):
            one_receive(session=session)


def test_credentials_of_a_profile_are_used(monkeypatch, tmp_path):
    config_file(
        monkeypatch,
        tmp_path,
        "[profile shop]\nregion = eu-west-1\naws_access_key_id = PROFILE\naws_secret_access_key = s\n",
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "shop")

    authorization = one_receive().headers["authorization"]

    assert "Credential=PROFILE/" in authorization
    assert "/eu-west-1/sqs/aws4_request" in authorization


# Connections


def test_the_system_probes_connections_as_config_says():
    with (
        scripted_server(EMPTY) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT, transport="direct") as driver,
    ):
        driver.receive(QUEUE, 1, 0)
        (kept,) = driver._calls.clients.transport("sqs")._direct._connections._idle

        assert kept._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_bundle_of_the_config_file_is_used(monkeypatch, tmp_path):
    authority = trustme.CA()
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    config_file(monkeypatch, tmp_path, f"[default]\nca_bundle = {bundle}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    with (
        scripted_server(EMPTY, tls=context) as server,
        AwsDriver(endpoint_url=server.url, config=ONE_ATTEMPT) as driver,
    ):
        assert driver.receive(QUEUE, 1, 0) == []
