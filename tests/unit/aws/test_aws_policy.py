"""The queue policy: one statement of ours, everybody else's kept."""

import json

import pytest

from melange.drivers.aws.subscriptions import allow_topics, allowed_topics
from melange.errors import ConfigurationError

QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:stock"
PRODUCTS = "arn:aws:sns:us-east-1:123456789012:products"
ORDERS = "arn:aws:sns:us-east-1:999999999999:orders"
FOREIGN = {"Sid": "Ops", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": QUEUE_ARN}


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
