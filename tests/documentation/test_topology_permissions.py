"""The table of permissions in docs/topology.md, and the operator's policy, list what the commands call."""

from __future__ import annotations

import re
from importlib import import_module

import boto3
import pytest

from documentation.pages import DOCS
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, Reject, Retry
from melange.drivers.aws import AwsDriver
from melange.topology import Publication, apply_plan, collect, diagnose, make_plan
from melange.topology.iam import DEAD_LETTERS, Account, to_iam

FREE = {"sts:GetCallerIdentity"}
PAGE = (DOCS / "topology.md").read_text()


@pytest.fixture(scope="module")
def server():
    with import_module("services.ministack").run(services="sns,sqs,kms,sts") as url:
        yield url


@pytest.fixture
def calls():
    """The permissions that the driver's calls needed."""
    return set()


@pytest.fixture
def driver(server, calls):
    session = boto3.Session()
    session.events.register("before-call", lambda model, **_: calls.add(_permission(model)))
    with AwsDriver(session=session, endpoint_url=server, call_timeout_seconds=60) as driver:
        yield driver


@pytest.fixture
def administrator(server):
    """A driver whose calls are not recorded."""
    with AwsDriver(endpoint_url=server, call_timeout_seconds=60) as driver:
        yield driver


def billing(driver, queue_name="billing", *, declare=True):
    def declarations():
        ExchangeMessagePublisher("orders", driver)
        ExchangeMessageConsumer(
            queue_name,
            "orders",
            driver=driver,
            filter_events=["OrderPlaced"],
            queue=QueueOptions(tags={"team": "money"}, declare=declare),
        )
        return Publication("orders", "OrderPlaced")

    return collect("shop", declarations).topology


def test_each_command_needs_what_the_table_lists(driver, administrator, calls) -> None:
    administrator.declare_queue("billing")  # so that it is marked, and the rest created
    apply_plan(make_plan(billing(driver), driver))
    applying, _ = set(calls), calls.clear()
    make_plan(billing(driver), driver)
    diagnose(billing(driver), driver)
    looking, _ = set(calls), calls.clear()
    apply_plan(make_plan(billing(driver, "invoices"), driver), prune=True)
    pruning = set(calls)

    looks, applies, prunes = map(_row, ("`plan`, `doctor`", "`apply`", "`apply --prune`"))
    assert looking - FREE == looks
    assert applying - FREE == looks | applies
    assert prunes <= pruning - FREE <= looks | applies | prunes


def test_the_doctor_needs_the_permissions_of_the_table_for_keys(driver, administrator, calls, server) -> None:
    key = boto3.client("kms", endpoint_url=server).create_key()["KeyMetadata"]["KeyId"]
    queue = administrator.declare_queue("encrypted", administrator.declare_topic("orders"))
    boto3.client("sqs", endpoint_url=server).set_queue_attributes(
        QueueUrl=queue.address, Attributes={"KmsMasterKeyId": key}
    )

    diagnose(billing(driver, "encrypted"), driver)

    keys = _row("`doctor` with encrypted queues")
    assert keys <= calls - FREE <= _row("`plan`, `doctor`") | keys


def test_the_policy_of_the_operator_allows_these_and_the_work_on_dead_letters(driver) -> None:
    policy = to_iam(billing(driver), Account(), "arn:aws:kms:REGION:ACCOUNT:key/1")["operator"]

    listed = {
        name
        for row in re.findall(r"^\| `(?:plan|doctor|apply).*$", PAGE, re.MULTILINE)
        for name in _names(row)
    }
    assert _actions(policy) == listed | set(DEAD_LETTERS) | {"kms:Decrypt", "kms:GenerateDataKey"}


def test_roles_that_declare_nothing_need_exactly_their_policy(driver, administrator, calls) -> None:
    topology = billing(administrator, "exact")
    apply_plan(make_plan(topology, administrator))
    policies = to_iam(topology, Account())

    topic_arn = administrator.get_topic("orders").address
    ExchangeMessagePublisher(topic_arn, driver, declare=False).publish({}, "OrderPlaced")
    publishing, _ = set(calls), calls.clear()
    consumer = ExchangeMessageConsumer("exact", topic_arn, driver=driver, queue=QueueOptions(declare=False))
    _defer_and_dead_letter(consumer, calls)

    assert publishing == _actions(policies["publisher"]) == _actions(policies["relay"])
    assert calls == _actions(policies["consumer"])


def _defer_and_dead_letter(consumer, calls) -> None:

    @consumer.listener()
    def fail(event, receive_count):
        raise Retry(0) if receive_count == 1 else Reject("done")

    while "sqs:DeleteMessage" not in calls:
        consumer.consume_event(wait_seconds=5)


def _permission(model) -> str:
    service, operation = model.service_model.service_name, model.name
    return f"{service}:{operation.removesuffix('Batch')}"


def _actions(policy) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def _row(start: str) -> set[str]:
    (row,) = re.findall(rf"^\| {re.escape(start)} \|.*$", PAGE, re.MULTILINE)
    return _names(row)


def _names(row: str) -> set[str]:
    return set(re.findall(r"`(\w+:\w+)`", row))
