import json

import pytest

from melange.server.policies import Access, Policy

TOPIC = "arn:aws:sns:us-east-1:000000000000:events"
QUEUE = "arn:aws:sqs:us-east-1:000000000000:orders"
ACCESS = Access("sns.amazonaws.com", "sqs:SendMessage", QUEUE, TOPIC, "000000000000")
ALLOWED = {
    "Effect": "Allow",
    "Principal": {"Service": "sns.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Resource": QUEUE,
}


def policy(*statements):
    return Policy.parse(json.dumps({"Statement": list(statements)}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Principal": "*"},
        {"Principal": {"AWS": ["*"]}},
        {"Action": ["SQS:SendMessage", "SQS:ReceiveMessage"]},
        {"Action": "sqs:*"},
        {"Action": "sqs:Send*"},
        {"Resource": "arn:aws:sqs:*:*:orders"},
        {"Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:*:eve?ts"}}},
        {"Condition": {"ArnEquals": {"aws:SourceArn": [TOPIC, "other"]}}},
        {"Condition": {"StringEquals": {"aws:SourceAccount": "000000000000"}}},
        {"Condition": {"StringNotEquals": {"AWS:SourceAccount": "111111111111"}}},
        {"Condition": {"StringEqualsIfExists": {"aws:PrincipalTag/team": "shop"}}},
    ],
)
def test_a_statement_that_fits_allows(changes):
    assert policy(ALLOWED | changes).allows(ACCESS)


@pytest.mark.parametrize(
    "changes",
    [
        {"Principal": {"AWS": "111111111111"}},
        {"NotPrincipal": {"Service": "sns.amazonaws.com"}},
        {"Action": "sqs:ReceiveMessage"},
        {"Resource": f"{QUEUE}2"},
        {"NotAction": "sqs:SendMessage", "Action": None},
        {"Condition": {"ArnEquals": {"aws:SourceArn": f"{TOPIC}2"}}},
        {"Condition": {"StringNotLike": {"aws:SourceAccount": "0*"}}},
        {"Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}, "StringEquals": {"aws:SourceAccount": "1"}}},
        {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
    ],
)
def test_a_statement_that_does_not_fit_allows_nothing(changes):
    assert not policy(ALLOWED | changes).allows(ACCESS)


def test_a_denial_wins():
    assert not policy(ALLOWED, ALLOWED | {"Effect": "Deny", "Principal": "*"}).allows(ACCESS)
