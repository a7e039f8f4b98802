"""Whatever hooks into botocore sees every call; where nothing does, messages go past it."""

import logging
from unittest.mock import patch

import boto3
import botocore.client
import pytest
from aws_lambda_powertools.shared.user_agent import register_feature_to_session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.handlers import disable_signing
from botocore.httpsession import URLLib3Session
from botocore.stub import Stubber
from moto import mock_aws
from moto.core import patch_client
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aws_answers import QUEUE, sqs_answer
from melange.drivers.aws import AwsDriver
from melange.drivers.aws.direct.requests import DIRECT_REQUESTS
from melange.errors import ConfigurationError, DriverConnectionError
from melange.messages import Message

ONE_ATTEMPT = Config(retries={"total_max_attempts": 1})
NOWHERE = "http://127.0.0.1:1"
LOGGER = "melange.drivers.aws.transport"


@pytest.fixture
def session(monkeypatch):
    """A session without handlers of other tests: moto adds one to every session once it is imported."""
    monkeypatch.setattr("botocore.handlers.BUILTIN_HANDLERS", _without_moto())
    return boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")


def _without_moto():
    handlers = botocore.handlers.BUILTIN_HANDLERS
    return [handler for handler in handlers if not type(handler[1]).__module__.startswith("moto")]


def driver_of(session, **options):
    return AwsDriver(session=session, config=ONE_ATTEMPT, endpoint_url=NOWHERE, **options)


def way_of(driver):
    """Return what a driver's next receive is said to go through."""
    transport = driver._calls.clients.transport("sqs")
    with pytest.raises(DriverConnectionError):
        driver.receive(QUEUE, 1, 0)
    return transport._said


def test_messages_go_directly_where_nothing_hooks_into_botocore(session, caplog):
    caplog.set_level(logging.DEBUG, LOGGER)

    way_of(driver_of(session))

    assert caplog.messages == ["messages go to SQS directly"]


@pytest.mark.parametrize("operation", [request.operation for request in DIRECT_REQUESTS.values()])
def test_no_call_is_hooked_by_botocore_itself(session, operation):
    service = "sns" if operation == "PublishBatch" else "sqs"
    hooks = driver_of(session)._calls.clients.transport(service)._hooks

    assert hooks.find(operation) is None


@pytest.mark.parametrize(
    "event",
    [
        "provide-client-params.sqs.ReceiveMessage",
        "before-parameter-build.sqs",
        "before-call.*.*",
        "request-created.sqs.ReceiveMessage",
        "before-sign.sqs",
        "before-send",
        "response-received.sqs",
        "needs-retry.sqs.ReceiveMessage",
        "after-call-error.sqs",
    ],
)
def test_a_handler_of_the_user_sees_the_call(session, event, caplog):
    caplog.set_level(logging.DEBUG, LOGGER)
    seen = []
    session.events.register(event, lambda **_: seen.append(1))

    way_of(driver_of(session))

    (message,) = caplog.messages
    assert message.startswith(f"messages go to SQS through botocore: a handler of {__name__} listens to ")
    assert seen


def test_powertools_only_adds_to_the_agent_and_does_not_matter(session):
    register_feature_to_session(session, "batch")

    assert way_of(driver_of(session)) == "directly"


def test_a_handler_of_another_call_does_not_matter(session):
    session.events.register("before-send.sqs.CreateQueue", lambda **_: None)

    assert way_of(driver_of(session)) == "directly"


def test_a_handler_that_comes_later_is_noticed_and_its_end_too(session, caplog):
    caplog.set_level(logging.DEBUG, LOGGER)
    driver = driver_of(session)
    events = driver._calls.clients.build("sqs").meta.events
    ways = [way_of(driver)]

    def answer(**_):
        return sqs_answer(Messages=[])

    events.register("before-send.sqs", answer)
    received = driver.receive(QUEUE, 1, 0)
    events.unregister("before-send.sqs", answer)
    ways.append(way_of(driver))

    assert received == []
    assert ways == ["directly", "directly"]
    assert len(caplog.messages) == 3


def test_a_stubber_answers(session):
    driver = driver_of(session)

    with Stubber(driver._calls.clients.build("sqs")) as stubber:
        stubber.add_response("receive_message", {"Messages": []})
        assert driver.receive(QUEUE, 1, 0) == []
        stubber.assert_no_pending_responses()

    assert way_of(driver).startswith("through botocore") is False


def test_a_client_that_does_not_sign_goes_through_botocore(session):
    session.events.register("choose-signer.sqs", disable_signing)

    assert "choose-signer" in way_of(driver_of(session))


def test_another_kind_of_signature_goes_through_botocore(session):
    driver = AwsDriver(
        session=session, config=ONE_ATTEMPT.merge(Config(signature_version=UNSIGNED)), endpoint_url=NOWHERE
    )

    assert way_of(driver).startswith("through botocore: signature_version")


def test_a_system_without_poll_goes_through_botocore(monkeypatch):
    monkeypatch.delattr("select.poll")

    driver = AwsDriver(region_name="eu-west-1", config=ONE_ATTEMPT, endpoint_url=NOWHERE)

    assert way_of(driver) == "through botocore: this system has no poll()"


@pytest.mark.parametrize("owner", [botocore.client.BaseClient, URLLib3Session])
def test_a_function_of_botocore_that_is_replaced_is_called(session, owner):
    name = "send" if owner is URLLib3Session else "_make_api_call"
    driver = driver_of(session)
    before = way_of(driver)

    with (
        patch.object(owner, name, side_effect=ConnectionError) as replaced,
        pytest.raises(ConnectionError),
    ):
        driver.receive(QUEUE, 1, 0)

    assert replaced.called
    assert before == way_of(driver) == "directly"


def test_opentelemetry_sees_the_call(session):
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    driver = driver_of(session)
    instrumentor = BotocoreInstrumentor()

    instrumentor.instrument(tracer_provider=provider)
    try:
        way = way_of(driver)
    finally:
        instrumentor.uninstrument()

    assert way.startswith("through botocore")
    assert [span.name for span in spans.get_finished_spans()] == ["SQS.ReceiveMessage"]
    assert way_of(driver) == "directly"


@pytest.mark.parametrize("is_built_before", [True, False])
def test_moto_keeps_the_messages(is_built_before):
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    driver = AwsDriver(session=session, config=ONE_ATTEMPT) if is_built_before else None

    with mock_aws():
        driver = driver or AwsDriver(config=ONE_ATTEMPT, region_name="us-east-1")
        topic = driver.declare_topic("products")
        queue = driver.declare_queue("stock", topic)
        assert driver.publish(topic, [Message("id", "{}")]) == []
        received = driver.receive(queue, 1, 1)
        assert driver.acknowledge(received) == []

    assert [delivery.message.message_id for delivery in received] == ["id"]


def test_a_client_that_is_given_to_moto_is_mocked(session):
    driver = AwsDriver(session=session, config=ONE_ATTEMPT)

    with mock_aws():
        for name in ("sns", "sqs"):
            patch_client(driver._calls.clients.build(name))
        queue = driver.declare_queue("stock")
        assert driver.send(queue, [Message("id", "{}")]) == []
        received = driver.receive(queue, 1, 0)

    assert [delivery.message.message_id for delivery in received] == ["id"]


# Chosen by hand


def test_botocore_can_be_chosen(session, caplog):
    caplog.set_level(logging.DEBUG, LOGGER)
    driver = driver_of(session, transport="botocore")

    with (
        patch.object(URLLib3Session, "send", side_effect=ConnectionError) as send,
        pytest.raises(ConnectionError),
    ):
        driver.receive(QUEUE, 1, 0)

    assert send.called


def test_direct_can_be_chosen_whatever_hooks_in(session):
    session.events.register("before-send", lambda **_: sqs_answer())

    assert way_of(driver_of(session, transport="direct")) == "directly"


def test_direct_is_refused_where_it_cannot_be():
    config = Config(signature_version=UNSIGNED)

    with pytest.raises(ConfigurationError, match=r"transport='direct'.*signature_version"):
        AwsDriver(region_name="us-east-1", config=config, transport="direct")


def test_a_botocore_with_other_insides_is_used_as_it_is(session, monkeypatch):
    monkeypatch.delattr(URLLib3Session, "_get_request_target")

    assert way_of(driver_of(session)).startswith("through botocore: ")


def test_a_proxy_that_cannot_be_set_up_is_told_at_the_call(session):
    config = ONE_ATTEMPT.merge(
        Config(proxies={"http": "http://127.0.0.1:1"}, proxies_config={"proxy_ca_bundle": "/no/such/file"})
    )
    driver = AwsDriver(session=session, config=config, endpoint_url=NOWHERE)

    with pytest.raises((ConfigurationError, DriverConnectionError)):
        driver.receive(QUEUE, 1, 0)


def test_another_name_of_a_transport_is_refused():
    with pytest.raises(
        ConfigurationError, match="transport must be 'auto', 'botocore' or 'direct', not 'fast'"
    ):
        AwsDriver(region_name="us-east-1", transport="fast")


# Settings that botocore resolves


@pytest.mark.parametrize(
    ("region", "options"),
    [
        ("us-east-1", {}),
        ("eu-west-1", {"use_fips_endpoint": True}),
        ("us-gov-west-1", {"use_dualstack_endpoint": True}),
        ("us-east-1", {"use_fips_endpoint": True, "use_dualstack_endpoint": True}),
        ("cn-north-1", {}),
        ("us-iso-east-1", {}),
    ],
)
@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_requests_go_to_the_endpoint_that_botocore_chooses(session, region, options, service):
    with AwsDriver(session=session, region_name=region, config=Config(**options)) as driver:
        client = driver._calls.clients.build(service)
        direct = driver._calls.clients.transport(service)._direct
        method = "get_queue_url" if service == "sqs" else "list_topics"
        url = client.generate_presigned_url(method, {"QueueName": "q"} if service == "sqs" else {})

        assert direct._connections._url == url.partition("?")[0]
        assert f"/{client.meta.region_name}%2F{service}%2F".replace("/", "%2F") in url


@pytest.mark.parametrize(
    "endpoint", ["http://localhost:4566/base", "http://localhost:4566/base/", "http://localhost"]
)
def test_an_endpoint_of_the_environment_is_used(session, monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", endpoint)
    with AwsDriver(session=session) as driver:
        direct = driver._calls.clients.transport("sqs")._direct
        url = driver._calls.clients.build("sqs").generate_presigned_url("get_queue_url", {"QueueName": "q"})

        assert direct._connections._url == url.partition("?")[0]


def test_the_users_name_for_the_agent_goes_along(session):
    config = Config(user_agent_extra="shop/7")
    with AwsDriver(session=session, config=config) as driver:
        signer = driver._calls.clients.transport("sqs")._direct._signers["receive_message"]

        assert "User-Agent: melange" in signer._head
        assert " shop/7" in signer._head
