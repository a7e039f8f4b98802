"""The clients: where they come from, how they are set up, and what is said when they cannot be made."""

from urllib.parse import urlencode

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from aws_answers import (
    QUEUE,
    TOPIC,
    publish_answer,
    shared_session,
    sns_answer,
    sns_error,
    sqs_answer,
)
from melange.drivers.aws import AwsDriver
from melange.drivers.aws.clients import Clients, encode_body_once
from melange.drivers.aws.wire import delivery_from
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverConnectionError,
    TopicNotFoundError,
)
from melange.messages import Message

TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:products"
IDENTITY = sns_answer("GetCallerIdentity", "<Account>123456789012</Account>")
ATTRIBUTES = sns_answer("GetTopicAttributes", "<Attributes></Attributes>")
LISTING = sns_answer("ListTopics", f"<Topics><member><TopicArn>{TOPIC_ARN}</TopicArn></member></Topics>")


@pytest.fixture
def _no_region(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)


@pytest.fixture
def _no_credentials(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)


@pytest.mark.usefixtures("_no_region")
def test_a_missing_region_says_where_to_put_one():
    with pytest.raises(ConfigurationError, match=r"AWS_REGION, .*region_name="):
        AwsDriver()


def test_an_invalid_region_says_where_to_put_one():
    with pytest.raises(ConfigurationError, match=r"region_name=.*AWS_REGION"):
        AwsDriver(region_name="not a region!")


@pytest.mark.usefixtures("_no_credentials")
def test_missing_credentials_say_where_to_put_them():
    driver = AwsDriver(config=Config(retries={"total_max_attempts": 1, "mode": "standard"}))

    with pytest.raises(AccessDeniedError, match="AWS_ACCESS_KEY_ID"):
        driver.receive(QUEUE, 1, 0)


def test_an_unknown_profile_is_a_configuration_error(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(ConfigurationError, match="nobody"):
        AwsDriver()


def test_an_endpoint_that_is_no_url_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="endpoint_url='localhost'"):
        AwsDriver(endpoint_url="localhost")


def test_an_endpoint_where_nobody_listens_is_a_connection_error():
    driver = AwsDriver(
        endpoint_url="http://127.0.0.1:1",
        config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
    )

    with pytest.raises(DriverConnectionError, match=r"127\.0\.0\.1:1"):
        driver.receive(QUEUE, 1, 0)


def clients(region_name="eu-west-1", config=None, timeout=10):
    return Clients(shared_session(), region_name, None, config, timeout)


def timeouts(client):
    return client.meta.config.connect_timeout, client.meta.config.read_timeout


def test_calls_read_shortly_and_only_long_polls_read_long():
    made = clients()

    assert timeouts(made.build("sqs")) == timeouts(made.build("sns")) == (2, 3)
    assert timeouts(made.build("polling")) == (5, 30)


@pytest.mark.parametrize(
    ("given", "calls", "polls"),
    [
        ({"read_timeout": 1, "connect_timeout": 1}, (1, 1), (1, 30)),
        ({"read_timeout": 20}, (2, 3), (5, 30)),
        ({"read_timeout": 60, "connect_timeout": 60}, (2, 3), (60, 60)),
        ({"read_timeout": None}, (2, 3), (5, None)),
    ],
)
def test_the_callers_timeouts_shorten_calls_and_lengthen_long_polls(given, calls, polls):
    made = clients(config=Config(**given))

    assert timeouts(made.build("sns")) == calls
    assert timeouts(made.build("polling")) == polls


def test_two_attempts_that_hang_fit_into_a_calls_time():
    connect_timeout, read_timeout = timeouts(clients(timeout=3).build("sns"))

    assert 2 * (connect_timeout + read_timeout) <= 3


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True])
def test_a_call_timeout_that_is_no_time_is_refused(seconds):
    with pytest.raises(ConfigurationError, match="call_timeout_seconds"):
        AwsDriver(call_timeout_seconds=seconds)


def test_the_callers_settings_win_and_the_others_stay():
    made = clients(config=Config(max_pool_connections=3))

    assert made.build("sqs").meta.config.max_pool_connections == 3
    assert made.build("sqs").meta.config.tcp_keepalive
    assert made.region_name == "eu-west-1"


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("mars-1", "aws")],
)
def test_the_partition_is_the_regions(region, partition):
    assert clients(region_name=region).partition == partition


def test_a_region_that_botocore_has_not_heard_of_works_with_an_endpoint_of_its_own(broker):
    broker.will_answer("GetCallerIdentity", IDENTITY)
    broker.will_answer("GetTopicAttributes", ATTRIBUTES)
    driver = broker.driver(region_name="mars-1", endpoint_url="http://127.0.0.1:9")

    assert driver.get_topic("products").address == "arn:aws:sns:mars-1:123456789012:products"


def test_a_session_brings_its_own_region(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    session = boto3.Session(region_name="ap-south-1")

    assert Clients(session, None, None, None, 10).region_name == "ap-south-1"


def test_aws_region_is_read_and_wins_over_the_default(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert Clients(None, None, None, None, 10).region_name == "ap-south-1"

    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert Clients(None, None, None, None, 10).region_name == "ap-south-1"
    assert clients(region_name="eu-west-1").region_name == "eu-west-1"


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9.]{1,20}", fullmatch=True), st.text(st.characters(codec="utf-8"))
    )
)
def test_a_form_is_encoded_as_botocore_would(form):
    params = {"body": dict(form)}

    encode_body_once(params)

    assert params["body"] == urlencode(form, doseq=True).encode()


def test_a_publish_is_signed_and_sent_as_the_same_bytes(broker):
    broker.will_answer("PublishBatch", publish_answer())

    broker.driver().publish(TOPIC, [Message("id", "é & ü")])

    assert b"%C3%A9+%26+%C3%BC" in broker.bodies[0]


@pytest.mark.parametrize(
    "attribute", [{"DataType": "Number", "StringValue": "7"}, {"DataType": "Binary", "BinaryValue": "AAE="}]
)
def test_what_is_received_is_read_as_botocore_would(broker, attribute):
    raw = {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": '{"é": "\\"BinaryValue\\""}',
        "Attributes": {"ApproximateReceiveCount": "3"},
        "MessageAttributes": {"weight": attribute},
    }
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[raw]))
    botocores = broker.session.client("sqs").receive_message(QueueUrl=QUEUE.address)["Messages"][0]

    delivery = broker.driver().receive(QUEUE, 1, 0)[0]

    asked_at = delivery.deadline - 30
    assert delivery._replace(received=None) == delivery_from(botocores, QUEUE, asked_at, 30)._replace(
        received=None
    )


def test_fields_that_are_null_are_as_good_as_left_out(broker):
    raw = {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": "{}",
        "Attributes": None,
        "MessageAttributes": None,
    }
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[raw]), sqs_answer(Messages=None))
    driver = broker.driver()

    assert driver.receive(QUEUE, 1, 0)[0].receive_count == 1
    assert driver.receive(QUEUE, 1, 0) == []


def test_a_topic_is_found_by_name_through_the_callers_account(broker):
    broker.will_answer("GetCallerIdentity", IDENTITY)
    broker.will_answer("GetTopicAttributes", ATTRIBUTES)
    driver = broker.driver()

    assert driver.get_topic("products").address == TOPIC_ARN
    assert driver.get_topic("orders").address == TOPIC_ARN.replace("products", "orders")

    assert broker.requests["GetCallerIdentity"] == 1


def test_a_topic_is_found_in_the_listing_where_there_is_no_sts(broker):
    broker.will_answer("GetCallerIdentity", sns_error("InvalidAction"))
    broker.will_answer("ListTopics", LISTING)
    broker.will_answer("GetTopicAttributes", ATTRIBUTES)

    assert broker.driver().get_topic("products").address == TOPIC_ARN


def test_a_topic_that_is_not_in_the_listing_is_missing(broker):
    broker.will_answer("GetCallerIdentity", sns_error("AccessDenied", status=403))
    broker.will_answer("ListTopics", LISTING)

    with pytest.raises(TopicNotFoundError):
        broker.driver().get_topic("orders")


def test_a_role_that_may_neither_is_told_to_give_an_arn(broker):
    broker.will_answer("GetCallerIdentity", sns_error("AccessDenied", status=403))
    broker.will_answer("ListTopics", sns_error("AuthorizationError", status=403))

    with pytest.raises(AccessDeniedError, match=r"ARN.*sns:ListTopics"):
        broker.driver().get_topic("products")


def test_a_role_that_may_only_publish_gets_its_topic_by_arn(broker):
    broker.will_answer("GetTopicAttributes", sns_error("AuthorizationError", status=403))

    topic = broker.driver().get_topic(TOPIC_ARN)

    assert (topic.name, topic.address, topic.max_message_bytes) == ("products", TOPIC_ARN, 262_144)


def test_a_raised_size_limit_of_a_topic_is_read(broker):
    entry = "<entry><key>MaximumMessageSize</key><value>1048576</value></entry>"
    broker.will_answer(
        "GetTopicAttributes", sns_answer("GetTopicAttributes", f"<Attributes>{entry}</Attributes>")
    )

    assert broker.driver().get_topic(TOPIC_ARN).max_message_bytes == 1_048_576


@pytest.mark.parametrize(
    "arn",
    ["arn:aws:sns:eu-west-1:123456789012:products", "arn:aws:sqs:us-east-1:123456789012:q", "arn:aws:sns"],
)
def test_an_arn_of_another_region_or_service_is_refused(broker, arn):
    with pytest.raises(ConfigurationError):
        broker.driver().get_topic(arn)


def test_a_queue_arn_asks_for_the_queue_of_its_account(broker):
    broker.will_answer("GetQueueUrl", sqs_answer(QueueUrl="https://sqs.example/999999999999/stock"))
    broker.will_answer("GetQueueAttributes", sqs_answer(Attributes={"MaximumMessageSize": "262144"}))

    queue = broker.driver().get_queue("arn:aws:sqs:us-east-1:999999999999:stock")

    assert broker.sent["GetQueueUrl"] == [{"QueueName": "stock", "QueueOwnerAWSAccountId": "999999999999"}]
    assert (queue.name, queue.max_message_bytes) == ("stock", 262_144)
