"""What the exports describe is what ``apply`` makes: each is deployed on a local server, and the results compared."""

from __future__ import annotations

import json
import re
from importlib import import_module
from typing import Any
from uuid import uuid4

import boto3
import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions
from melange.drivers.aws import AwsDriver
from melange.topology import apply_plan, collect, make_plan
from melange.topology.cloudformation import to_cloudformation
from melange.topology.terraform import to_terraform
from waiting import eventually

SETTINGS = (
    "DelaySeconds",
    "FifoQueue",
    "FilterPolicy",
    "KmsMasterKeyId",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "RawMessageDelivery",
    "ReceiveMessageWaitTimeSeconds",
    "RedrivePolicy",
    "VisibilityTimeout",
)
"""What is compared. The server's CloudFormation leaves out attributes that only repeat what is known."""


@pytest.fixture(scope="module")
def server():
    """A MiniStack of the module's own, with CloudFormation."""
    with import_module("services.ministack").run(services="sns,sqs,cloudformation") as url:
        yield url


@pytest.fixture
def driver(server):
    with AwsDriver(endpoint_url=server, prefix="staging-", call_timeout_seconds=60) as driver:
        yield driver


@pytest.fixture
def clients(server):
    return {name: boto3.client(name, endpoint_url=server) for name in ("sns", "sqs", "cloudformation")}


@pytest.fixture
def topology(driver):
    def declare():
        ExchangeMessagePublisher("orders", driver)
        ExchangeMessageConsumer(
            "billing",
            "orders",
            "returns",
            driver=driver,
            filter_events=["OrderPlaced", "OrderPaid"],
            queue=QueueOptions(tags={"team": "money"}),
        )
        ExchangeMessageConsumer(
            "audit", "orders", driver=driver, filter_events=["A"], queue=QueueOptions(filter_scope="body")
        )
        ExchangeMessageConsumer("ledger.fifo", "payments.fifo", driver=driver)

    return collect("shop", declare).topology


@pytest.fixture
def applied(topology, driver, clients):
    """What the server has after ``apply``; it is empty again afterwards."""
    apply_plan(make_plan(topology, driver))
    contents = contents_of(clients)
    remove_everything(clients)
    yield contents
    remove_everything(clients)


def test_a_stack_of_the_template_has_what_apply_makes(applied, topology, driver, clients) -> None:
    template = json.dumps(to_cloudformation(topology))

    name = f"shop-{uuid4().hex}"  # another test has made one on this server
    clients["cloudformation"].create_stack(StackName=name, TemplateBody=template)
    eventually(lambda: stack_status(clients, name) == "CREATE_COMPLETE", timeout_seconds=60)

    assert contents_of(clients) == applied
    assert make_plan(topology, driver).changes == ()


def test_resources_of_terraform_have_what_apply_makes(applied, topology, driver, clients) -> None:
    _Terraform(clients).create(to_terraform(topology))

    assert contents_of(clients) == applied
    assert make_plan(topology, driver).changes == ()


def stack_status(clients, name: str) -> str:
    (stack,) = clients["cloudformation"].describe_stacks(StackName=name)["Stacks"]
    assert "FAILED" not in stack["StackStatus"], stack
    return stack["StackStatus"]


def contents_of(clients) -> dict[str, Any]:
    """Return all topics, queues and subscriptions of the server with their settings."""
    sns, sqs = clients["sns"], clients["sqs"]
    queues = {}
    for url in sqs.list_queues().get("QueueUrls", []):
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        tags = sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
        # CloudFormation adds tags of its own.
        own_tags = {key: value for key, value in tags.items() if not key.startswith("aws:")}
        queues[url] = (_settings(attributes), _value(attributes.get("Policy", "")), own_tags)
    subscriptions = {}
    for one in sns.list_subscriptions()["Subscriptions"]:
        attributes = sns.get_subscription_attributes(SubscriptionArn=one["SubscriptionArn"])["Attributes"]
        scope = attributes.get("FilterPolicyScope", "MessageAttributes")
        subscriptions[one["TopicArn"], one["Endpoint"]] = (_settings(attributes), scope)
    topics = {one["TopicArn"] for one in sns.list_topics()["Topics"]}
    return {"queues": queues, "subscriptions": subscriptions, "topics": topics}


def _settings(attributes: dict[str, str]) -> dict[str, Any]:
    return {name: _value(attributes[name]) for name in SETTINGS if attributes.get(name)}


def _value(text: str) -> Any:
    """Return JSON read, with numbers as texts and lists in one order: servers and tools write both ways."""
    try:
        return _canonical(json.loads(text))
    except ValueError:
        return text


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted((_canonical(one) for one in value), key=str)
    return str(value)


def remove_everything(clients) -> None:
    sns, sqs = clients["sns"], clients["sqs"]
    for one in sns.list_subscriptions()["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])
    for one in sns.list_topics()["Topics"]:
        sns.delete_topic(TopicArn=one["TopicArn"])
    for url in sqs.list_queues().get("QueueUrls", []):
        sqs.delete_queue(QueueUrl=url)


class _Terraform:
    """Creates the resources of a document as the provider does, as far as melange writes them."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self._sns, self._sqs = clients["sns"], clients["sqs"]
        self._made = {"data.aws_caller_identity.current.account_id": "000000000000"}

    def create(self, document: dict[str, Any]) -> None:
        kinds = (
            "aws_sns_topic",
            "aws_sqs_queue",
            "aws_sqs_queue_redrive_policy",
            "aws_sqs_queue_policy",
            "aws_sns_topic_subscription",
        )
        assert set(document["resource"]) <= set(kinds)
        for kind in kinds:
            for name, arguments in document["resource"].get(kind, {}).items():
                resolved = {key: self._resolved(value) for key, value in arguments.items()}
                getattr(self, f"_{kind}")(f"{kind}.{name}", resolved)

    def _resolved(self, value: Any) -> Any:
        return (
            re.sub(r"\$\{([^}]+)\}", lambda found: self._made[found[1]], value)
            if isinstance(value, str)
            else value
        )

    def _aws_sns_topic(self, name, arguments) -> None:
        attributes = {"FifoTopic": "true"} if arguments.get("fifo_topic") else {}
        self._made[f"{name}.arn"] = self._sns.create_topic(Name=arguments["name"], Attributes=attributes)[
            "TopicArn"
        ]

    def _aws_sqs_queue(self, name, arguments) -> None:
        attributes = {"FifoQueue": "true"} if arguments.get("fifo_queue") else {}
        if "message_retention_seconds" in arguments:
            attributes["MessageRetentionPeriod"] = str(arguments["message_retention_seconds"])
        url = self._sqs.create_queue(
            QueueName=arguments["name"], Attributes=attributes, tags=arguments["tags"]
        )["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        self._made |= {f"{name}.id": url, f"{name}.arn": found["QueueArn"]}

    def _aws_sqs_queue_redrive_policy(self, name, arguments) -> None:
        self._set(arguments["queue_url"], RedrivePolicy=arguments["redrive_policy"])

    def _aws_sqs_queue_policy(self, name, arguments) -> None:
        self._set(arguments["queue_url"], Policy=arguments["policy"])

    def _set(self, url: str, **attributes: str) -> None:
        self._sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)

    def _aws_sns_topic_subscription(self, name, arguments) -> None:
        attributes = {"RawMessageDelivery": "true" if arguments["raw_message_delivery"] else "false"}
        for key, attribute in (
            ("filter_policy", "FilterPolicy"),
            ("filter_policy_scope", "FilterPolicyScope"),
            ("redrive_policy", "RedrivePolicy"),
        ):
            if key in arguments:
                attributes[attribute] = arguments[key]
        self._sns.subscribe(
            TopicArn=arguments["topic_arn"],
            Protocol=arguments["protocol"],
            Endpoint=arguments["endpoint"],
            Attributes=attributes,
        )
