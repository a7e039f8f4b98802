"""Faults that only a real broker can have: each is made on a local server, found, and repaired by the command it names."""

from __future__ import annotations

import json
import uuid
from importlib import import_module

import boto3
import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.aws import AwsDriver
from melange.topology import apply_plan, collect, diagnose, make_plan


@pytest.fixture(scope="module")
def server():
    """A MiniStack of the module's own, with KMS."""
    with import_module("services.ministack").run(services="sns,sqs,kms") as url:
        yield url


@pytest.fixture
def clients(server):
    return {name: boto3.client(name, endpoint_url=server) for name in ("sns", "sqs", "kms")}


@pytest.fixture
def driver(server):
    # Each test has topics and queues of its own.
    with AwsDriver(endpoint_url=server, prefix=f"{uuid.uuid4().hex[:8]}-", call_timeout_seconds=60) as driver:
        yield driver


@pytest.fixture
def topology(driver):
    """A topology that has been applied."""

    def declare():
        ExchangeMessagePublisher("orders", driver, event_types=["OrderPlaced"])
        consumer = ExchangeMessageConsumer("billing", "orders", driver=driver)
        consumer.listener("OrderPlaced", name="bill")(print)

    topology = collect("shop", declare).topology
    apply_plan(make_plan(topology, driver))
    return topology


@pytest.fixture
def queue_url(topology, driver):
    return driver.get_queue("billing").address


@pytest.fixture
def subscription(topology, driver, clients):
    listed = clients["sns"].list_subscriptions_by_topic(TopicArn=driver.get_topic("orders").address)
    return listed["Subscriptions"][0]["SubscriptionArn"]


def found(topology, driver):
    return [(finding.check, finding.severity, finding.resource) for finding in diagnose(topology, driver)]


def test_what_was_applied_is_healthy(topology, driver):
    assert found(topology, driver) == []
    assert make_plan(topology, driver).changes == ()


def test_a_lost_statement_of_the_queue_policy_is_found_and_restored(topology, driver, clients, queue_url):
    clients["sqs"].set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": ""})
    before, plan = found(topology, driver), make_plan(topology, driver)

    apply_plan(plan)

    assert before == [("queue-policy", "error", "orders -> billing")]
    assert plan.has_drift
    assert found(topology, driver) == []


def test_raw_delivery_that_is_off_is_found_and_turned_on(topology, driver, clients, subscription):
    clients["sns"].set_subscription_attributes(
        SubscriptionArn=subscription, AttributeName="RawMessageDelivery", AttributeValue="false"
    )
    before = found(topology, driver)

    apply_plan(make_plan(topology, driver))

    assert before == [("raw-delivery", "error", "orders -> billing")]
    assert found(topology, driver) == []


def test_missing_dead_letters_of_the_subscription_are_found_and_added(
    topology, driver, clients, subscription
):
    clients["sns"].set_subscription_attributes(
        SubscriptionArn=subscription, AttributeName="RedrivePolicy", AttributeValue=""
    )
    before, plan = found(topology, driver), make_plan(topology, driver)

    apply_plan(plan)

    assert before == [("subscription-dead-letters", "warning", "orders -> billing")]
    assert not plan.has_drift
    assert found(topology, driver) == []


def test_a_filter_that_melange_did_not_write_is_found_and_pruned(topology, driver, clients, subscription):
    clients["sns"].set_subscription_attributes(
        SubscriptionArn=subscription,
        AttributeName="FilterPolicy",
        AttributeValue=json.dumps({"price": [{"numeric": [">", 100]}]}),
    )
    before = found(topology, driver)

    apply_plan(make_plan(topology, driver), prune=True)

    assert before == [("filter-drops", "warning", "orders -> billing")]
    assert found(topology, driver) == []


def test_the_key_of_aws_is_found(topology, driver, clients, queue_url):
    clients["sqs"].set_queue_attributes(QueueUrl=queue_url, Attributes={"KmsMasterKeyId": "alias/aws/sqs"})

    (finding,) = diagnose(topology, driver)

    assert (finding.check, finding.severity) == ("encryption", "error")
    assert "belongs to AWS" in finding.problem


@pytest.mark.parametrize("lets_sns_in", [False, True])
def test_a_customer_key_is_a_fault_unless_its_policy_lets_sns_in(
    topology, driver, clients, queue_url, lets_sns_in
):
    key = customer_key(clients["kms"], lets_sns_in=lets_sns_in)
    clients["sqs"].set_queue_attributes(QueueUrl=queue_url, Attributes={"KmsMasterKeyId": key})

    assert found(topology, driver) == ([] if lets_sns_in else [("encryption", "error", "queue billing")])


def test_a_key_that_does_not_exist_is_found(topology, driver, clients, queue_url):
    clients["sqs"].set_queue_attributes(
        QueueUrl=queue_url, Attributes={"KmsMasterKeyId": "11111111-2222-3333-4444-555555555555"}
    )

    assert found(topology, driver) == [("encryption", "error", "queue billing")]


def test_the_queue_s_own_visibility_counts_for_other_receivers(driver, clients):
    def declare():
        consumer = ExchangeMessageConsumer("slow", driver=driver, timeout_seconds=29)
        consumer.listener("OrderPlaced", name="bill")(print)

    topology = collect("shop", declare).topology
    apply_plan(make_plan(topology, driver))
    clients["sqs"].set_queue_attributes(
        QueueUrl=driver.get_queue("slow").address, Attributes={"VisibilityTimeout": "10"}
    )

    (finding,) = diagnose(topology, driver)

    assert finding.check == "visibility"
    assert "own visibility timeout is 10 s" in finding.problem


def test_an_old_queue_is_found_by_its_mark_and_pruned_with_its_subscription(topology, driver, clients):
    def declare():
        ExchangeMessageConsumer("invoices", "orders", driver=driver)

    renamed = collect("shop", declare).topology
    apply_plan(make_plan(renamed, driver))

    applied = apply_plan(make_plan(renamed, driver), prune=True)

    assert {change.name for change in applied.done} == {"billing", "billing-dlq"}
    assert make_plan(renamed, driver).changes == ()
    listed = clients["sns"].list_subscriptions_by_topic(TopicArn=driver.get_topic("orders").address)
    assert len(listed["Subscriptions"]) == 1


def test_a_binding_that_is_not_wanted_is_found_though_the_policy_does_not_name_it(topology, driver, clients):
    topic = driver.declare_topic("returns")
    queue = driver.inspection().queue("billing")
    clients["sns"].subscribe(TopicArn=topic.address, Protocol="sqs", Endpoint=queue.arn)

    (change,) = make_plan(topology, driver).changes
    change.carry_out()

    assert (change.action, change.name) == ("remove", "returns -> billing")
    assert make_plan(topology, driver).changes == ()


def customer_key(kms, *, lets_sns_in: bool) -> str:
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    root = {"AWS": "arn:aws:iam::000000000000:root"}
    statements = [{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}]
    if lets_sns_in:
        statements.append(
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": ["kms:GenerateDataKey*", "kms:Decrypt"],
                "Resource": "*",
            }
        )
    kms.put_key_policy(
        KeyId=key, PolicyName="default", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements})
    )
    return key
