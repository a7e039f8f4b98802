"""The statement that lets topics in, everybody else's kept; and what a queue's policy and a key's policy let a topic do."""

import json

import pytest

from melange.drivers.aws.policies import allow_topics, allowed_topics, key_policy_problem, sending_problem
from melange.errors import ConfigurationError

QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:stock"
PRODUCTS = "arn:aws:sns:us-east-1:123456789012:products"
ORDERS = "arn:aws:sns:us-east-1:999999999999:orders"
FOREIGN = {"Sid": "Ops", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": QUEUE_ARN}
QUEUE = "arn:aws:sqs:us-east-1:123456789012:billing"
TOPIC = "arn:aws:sns:us-east-1:123456789012:orders"
SNS = {"Service": "sns.amazonaws.com"}


def test_the_statement_lets_exactly_this_topic_of_this_account_in():
    policy = json.loads(allow_topics(None, QUEUE_ARN, [PRODUCTS]))

    assert policy == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "MelangeTopics",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": QUEUE_ARN,
                "Condition": {
                    "ArnEquals": {"aws:SourceArn": [PRODUCTS]},
                    "StringEquals": {"aws:SourceAccount": ["123456789012"]},
                },
            }
        ],
    }


def test_a_second_topic_joins_the_first_in_the_same_statement():
    first = allow_topics(None, QUEUE_ARN, [PRODUCTS])

    policy = allow_topics(first, QUEUE_ARN, [ORDERS])

    assert len(json.loads(policy)["Statement"]) == 1
    assert set(allowed_topics(policy)) == {PRODUCTS, ORDERS}
    assert json.loads(policy)["Statement"][0]["Condition"]["StringEquals"]["aws:SourceAccount"] == [
        "123456789012",
        "999999999999",
    ]


def test_nothing_is_written_when_the_topic_is_let_in_already():
    policy = allow_topics(None, QUEUE_ARN, [PRODUCTS, ORDERS])

    assert allow_topics(policy, QUEUE_ARN, [PRODUCTS]) is None


def test_a_list_of_one_and_the_one_are_the_same():
    policy = json.loads(allow_topics(None, QUEUE_ARN, [PRODUCTS]))
    policy["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"] = PRODUCTS

    assert allow_topics(json.dumps(policy), QUEUE_ARN, [PRODUCTS]) is None


@pytest.mark.parametrize("statements", [FOREIGN, [FOREIGN]], ids=["object", "list"])
def test_statements_of_others_and_their_version_are_kept(statements):
    before = json.dumps({"Version": "2008-10-17", "Id": "theirs", "Statement": statements})

    policy = json.loads(allow_topics(before, QUEUE_ARN, [PRODUCTS]))

    assert policy["Version"] == "2008-10-17"
    assert policy["Id"] == "theirs"
    assert policy["Statement"][0] == FOREIGN
    assert len(policy["Statement"]) == 2


def test_a_statement_of_ours_that_was_widened_is_set_right():
    policy = json.loads(allow_topics(None, QUEUE_ARN, [PRODUCTS]))
    policy["Statement"][0]["Principal"] = "*"

    repaired = json.loads(allow_topics(json.dumps(policy), QUEUE_ARN, [PRODUCTS]))

    assert repaired["Statement"][0]["Principal"] == {"Service": "sns.amazonaws.com"}


def test_a_policy_beyond_8192_bytes_is_refused():
    topics = [f"arn:aws:sns:us-east-1:123456789012:topic-{number:03}" for number in range(200)]

    with pytest.raises(ConfigurationError, match="8,192"):
        allow_topics(None, QUEUE_ARN, topics)


def test_a_twenty_first_statement_is_refused():
    before = json.dumps({"Statement": [{**FOREIGN, "Sid": f"s{number}"} for number in range(20)]})

    with pytest.raises(ConfigurationError, match="21 statements"):
        allow_topics(before, QUEUE_ARN, [PRODUCTS])


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_a_policy_that_is_no_policy_is_left_alone(text):
    with pytest.raises(ConfigurationError, match="left alone"):
        allow_topics(text, QUEUE_ARN, [PRODUCTS])


@pytest.mark.parametrize("text", [None, "", "{", "5", "{}", json.dumps({"Statement": [5, FOREIGN]})])
def test_no_topics_are_found_where_there_is_no_statement_of_ours(text):
    assert allowed_topics(text) == []


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
