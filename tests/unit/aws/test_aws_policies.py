"""What a queue's policy and a key's policy let a topic do."""

import json

import pytest

from melange.drivers.aws.policies import key_policy_problem, sending_problem
from melange.drivers.aws.subscriptions import allow_topics

QUEUE = "arn:aws:sqs:us-east-1:123456789012:billing"
TOPIC = "arn:aws:sns:us-east-1:123456789012:orders"
SNS = {"Service": "sns.amazonaws.com"}


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(**changes):
    return {"Effect": "Allow", "Principal": SNS, "Action": "sqs:SendMessage", "Resource": QUEUE, **changes}


@pytest.mark.parametrize(
    "text",
    [
        allow_topics(None, QUEUE, [TOPIC]),
        policy(allow()),
        policy(allow(Principal="*", Action="*", Resource="*")),
        policy(allow(Principal={"AWS": "*"}, Action=["SQS:ReceiveMessage", "SQS:Send*"])),
        policy(allow(Principal={"Service": ["events.amazonaws.com", "sns.amazonaws.com"]})),
        policy(allow(Resource="arn:aws:sqs:*:123456789012:bill*")),
        policy(allow(Condition={"ArnLike": {"AWS:SourceArn": "arn:aws:sns:*:*:orders"}})),
        policy(allow(Condition={"StringEquals": {"aws:SourceAccount": "123456789012"}})),
        policy(allow(Condition={"StringEquals": {"aws:SourceOrgID": "o-1"}})),
        policy(allow(), allow(Effect="Deny", Condition={"Bool": {"aws:SecureTransport": "false"}})),
        policy(allow(), allow(Effect="Deny", Principal={"AWS": "arn:aws:iam::123456789012:role/x"})),
        json.dumps({"Statement": allow()}),
    ],
)
def test_a_policy_that_lets_the_topic_in_is_no_problem(text):
    assert sending_problem(text, QUEUE, TOPIC) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        policy(),
        "[]",
        policy(allow(Principal={"AWS": "arn:aws:iam::123456789012:root"})),
        policy(allow(Action="sqs:ReceiveMessage")),
        policy(allow(Resource="arn:aws:sqs:us-east-1:123456789012:billing-old")),
        policy(allow(Condition={"ArnEquals": {"aws:SourceArn": f"{TOPIC}-old"}})),
        policy(allow(Condition={"ArnEquals": {"aws:SourceArn": [f"{TOPIC}-1", f"{TOPIC}-2"]}})),
        policy(allow(Condition={"StringEquals": {"aws:SourceAccount": "210987654321"}})),
        allow_topics(None, QUEUE, [f"{TOPIC}-old"]),
    ],
)
def test_a_policy_that_does_not_let_the_topic_in_is_a_problem(text):
    assert sending_problem(text, QUEUE, TOPIC) == "no statement of the queue's policy lets the topic in"


def test_a_denial_wins():
    text = policy(allow(), allow(Effect="Deny", Principal="*"))

    assert "Deny" in sending_problem(text, QUEUE, TOPIC)


def test_a_policy_that_is_not_json_is_a_problem():
    assert sending_problem("{", QUEUE, TOPIC) == "the queue's policy is not JSON"


@pytest.mark.parametrize(
    ("actions", "missing"),
    [
        (["kms:GenerateDataKey*", "kms:Decrypt"], None),
        ("kms:*", None),
        (["kms:GenerateDataKey", "kms:Decrypt"], None),
        (["kms:Decrypt"], "kms:GenerateDataKey"),
        ([], "kms:GenerateDataKey and kms:Decrypt"),
    ],
)
def test_a_key_needs_both_permissions_for_sns(actions, missing):
    root = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*"}

    problem = key_policy_problem(policy(root, {"Effect": "Allow", "Principal": SNS, "Action": actions}))

    assert problem == (missing and f"the key's policy does not let sns.amazonaws.com use {missing}")
