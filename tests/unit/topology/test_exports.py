"""Templates and policies that the model becomes, without a server."""

import json
import re

import pytest
from cfnlint import api as cfnlint

from melange import ConfigurationError, ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.large_events import LargeEvents, S3Store
from melange.topology import Publication, Topology, collect
from melange.topology.cloudformation import to_cloudformation
from melange.topology.document import from_document, to_document
from melange.topology.iam import Account, to_iam
from melange.topology.model import DeclaredQueue
from melange.topology.terraform import to_terraform

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
OTHERS = "arn:aws:sns:eu-west-1:210987654321:payments"

TERRAFORM_ARGUMENTS = {
    # https://registry.terraform.io/providers/hashicorp/aws/latest/docs/resources/sns_topic, and so on.
    "aws_sns_topic": {"name": str, "fifo_topic": bool, "kms_master_key_id": str},
    "aws_sqs_queue": {
        "name": str,
        "fifo_queue": bool,
        "message_retention_seconds": int,
        "kms_master_key_id": str,
        "tags": dict,
    },
    "aws_sqs_queue_policy": {"queue_url": str, "policy": str},
    "aws_sqs_queue_redrive_policy": {"queue_url": str, "redrive_policy": str},
    "aws_sns_topic_subscription": {
        "topic_arn": str,
        "protocol": str,
        "endpoint": str,
        "raw_message_delivery": bool,
        "filter_policy": str,
        "filter_policy_scope": str,
        "redrive_policy": str,
        "depends_on": list,
    },
}
"""The documented arguments that melange uses, and their types."""

REQUIRED = {
    "aws_sqs_queue_policy": {"queue_url", "policy"},
    "aws_sqs_queue_redrive_policy": {"queue_url", "redrive_policy"},
    "aws_sns_topic_subscription": {"topic_arn", "protocol", "endpoint"},
}


@pytest.fixture
def topology():
    driver = InMemoryDriver(prefix="staging-")

    def declare():
        ExchangeMessageConsumer(
            "billing", "orders", OTHERS, driver=driver, filter_events=["OrderPlaced"],
            queue=QueueOptions(tags={"team": "money"}),
        )  # fmt: skip
        ExchangeMessageConsumer("ledger.fifo", "payments.fifo", driver=driver)
        QueueMessagePublisher("billing")
        return Publication("orders", "OrderPlaced")

    with driver:
        return collect("shop", declare).topology


@pytest.mark.parametrize("key", [None, KEY])
def test_the_template_has_no_fault_for_cfn_lint(topology, key):
    template = json.dumps(to_cloudformation(topology, key))

    assert [str(match) for match in cfnlint.lint(template, regions=["eu-west-1"])] == []


def test_cfn_lint_finds_a_fault(topology):
    template = to_cloudformation(topology)
    template["Resources"]["QueueBilling"]["Properties"]["MessageRetention"] = 5

    assert cfnlint.lint(json.dumps(template), regions=["eu-west-1"])


def test_a_deleted_stack_keeps_its_queues(topology):
    resources = to_cloudformation(topology)["Resources"].values()

    kept = [one["DeletionPolicy"] for one in resources if one["Type"] == "AWS::SQS::Queue"]
    assert kept == ["Retain"] * 4


@pytest.mark.parametrize("key", [None, KEY])
def test_terraform_has_only_documented_arguments(topology, key):
    resources = to_terraform(topology, key)["resource"]

    for kind, instances in resources.items():
        for name, arguments in instances.items():
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name)
            assert REQUIRED.get(kind, set()) <= set(arguments)
            for argument, value in arguments.items():
                assert type(value) is TERRAFORM_ARGUMENTS[kind][argument], (kind, argument)


def test_terraform_refers_only_to_what_it_declares(topology):
    document = to_terraform(topology)
    declared = {f"{kind}.{name}" for kind, instances in document["resource"].items() for name in instances}

    text = json.dumps(document["resource"])
    references = {found.rpartition(".")[0] for found in re.findall(r"\$\{([^}]+)\}", text)}
    dependencies = {
        one
        for arguments in document["resource"]["aws_sns_topic_subscription"].values()
        for one in arguments["depends_on"]
    }

    assert references | dependencies <= declared | {"data.aws_caller_identity.current"}


def test_policies_inside_of_terraform_are_json(topology):
    for arguments in to_terraform(topology)["resource"]["aws_sqs_queue_policy"].values():
        assert json.loads(arguments["policy"])["Statement"][0]["Sid"] == "MelangeTopics"


def test_what_is_given_by_its_address_is_not_exported(topology):
    template, terraform = to_cloudformation(topology), to_terraform(topology)

    assert [name for name in template["Resources"] if "TopicPayments" in name] == ["TopicPaymentsFifo"]
    assert set(terraform["resource"]["aws_sns_topic"]) == {"orders", "payments_fifo"}
    assert template["Resources"]["BindingPaymentsToBilling"]["Properties"]["TopicArn"] == OTHERS


def test_the_bucket_of_large_events_has_a_lifecycle_rule():
    def declare():
        driver = LargeEvents(InMemoryDriver(), S3Store("our-large-events"), prefix="shop/", payload_days=90)
        ExchangeMessageConsumer("billing", "orders", driver=driver)
        return Publication("orders", "OrderPlaced")

    topology = collect("shop", declare).topology
    template, terraform = to_cloudformation(topology), to_terraform(topology)["resource"]

    assert from_document(json.loads(json.dumps(to_document(topology)))) == topology
    assert [str(match) for match in cfnlint.lint(json.dumps(template), regions=["eu-west-1"])] == []
    (rule,) = template["Resources"]["PayloadsOurLargeEvents"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert (rule["Prefix"], rule["ExpirationInDays"]) == ("shop/", 90)
    assert terraform["aws_s3_bucket"] == {"our_large_events": {"bucket": "our-large-events"}}
    (rule,) = terraform["aws_s3_bucket_lifecycle_configuration"]["our_large_events"]["rule"]
    assert (rule["filter"], rule["expiration"]) == ({"prefix": "shop/"}, {"days": 90})
    (statement,) = [
        one for one in to_iam(topology, Account())["consumer"]["Statement"] if one["Sid"] == "LargeEvents"
    ]
    assert statement["Resource"] == ["arn:aws:s3:::our-large-events/shop/*"]


@pytest.mark.parametrize("to_export", [to_cloudformation, to_terraform])
def test_names_that_become_one_are_refused(to_export):
    topology = Topology("shop", queues=(DeclaredQueue("a_b"), DeclaredQueue("a-b")))

    with pytest.raises(ConfigurationError, match="rename one of them"):
        to_export(topology)


def test_policies_name_the_resources_of_each_role(topology):
    policies = to_iam(topology, Account("eu-west-1", "123456789012"))

    publish = policies["relay"]["Statement"][0]
    assert publish["Resource"] == ["arn:aws:sns:eu-west-1:123456789012:staging-orders"]
    assert set(policies) == {"publisher", "consumer", "relay", "operator"}
    consume = {one["Sid"]: one for one in policies["consumer"]["Statement"]}
    assert consume["DeadLetter"]["Resource"] == [
        "arn:aws:sqs:eu-west-1:123456789012:staging-billing-dlq",
        "arn:aws:sqs:eu-west-1:123456789012:staging-ledger-dlq.fifo",
    ]


def test_a_role_that_the_program_does_not_have_gets_no_policy():
    topology = collect("shop", lambda: ExchangeMessageConsumer("a", driver=InMemoryDriver())).topology

    assert set(to_iam(topology, Account())) == {"consumer", "operator"}


def test_every_role_may_use_the_key(topology):
    policies = to_iam(topology, Account(), KEY)

    assert all(policy["Statement"][-1]["Resource"] == [KEY] for policy in policies.values())
