"""What no local server shows: pending subscriptions, keys that may not be looked at, listings in pages."""

import json

import pytest

from aws_answers import CannedBroker, sns_answer, sns_error, sqs_answer, sqs_error
from melange.drivers.aws.policies import allow_topics
from melange.errors import AccessDeniedError
from melange.topology import DeclaredBinding, DeclaredQueue, DeclaredTopic, Topology, diagnose, make_plan

QUEUE = "arn:aws:sqs:us-east-1:123456789012:billing"
TOPIC = "arn:aws:sns:us-east-1:123456789012:orders"
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/billing"

TOPOLOGY = Topology(
    "shop",
    topics=(DeclaredTopic("orders"),),
    queues=(DeclaredQueue("billing", (DeclaredBinding("orders"),), visibility_timeout_seconds=30),),
)


def attributes(**values):
    policy = allow_topics(None, QUEUE, [TOPIC])
    return sqs_answer(Attributes={"QueueArn": QUEUE, "Policy": policy, **values})


def subscriptions(operation, *addresses, next_token=None, topic=TOPIC):
    members = "".join(
        f"<member><SubscriptionArn>{address}</SubscriptionArn><Protocol>sqs</Protocol>"
        f"<TopicArn>{topic}</TopicArn><Endpoint>{QUEUE}</Endpoint></member>"
        for address in addresses
    )
    token = f"<NextToken>{next_token}</NextToken>" if next_token else ""
    return sns_answer(operation, f"<Subscriptions>{members}</Subscriptions>{token}")


@pytest.fixture
def broker():
    broker = CannedBroker()
    identity = sns_answer("GetCallerIdentity", "<Account>123456789012</Account>")
    broker.will_answer("GetCallerIdentity", identity)
    broker.will_answer("GetTopicAttributes", sns_answer("GetTopicAttributes", "<Attributes/>"))
    broker.will_answer("GetQueueUrl", sqs_answer(QueueUrl=URL))
    broker.will_answer("GetQueueAttributes", attributes())
    broker.will_answer("ListQueueTags", sqs_answer(Tags={"melange-topology": "shop"}))
    broker.will_answer("ListQueues", sqs_answer(QueueUrls=[URL]))
    broker.will_answer("ListSubscriptions", subscriptions("ListSubscriptions"))
    broker.will_answer("ListSubscriptionsByTopic", subscriptions("ListSubscriptionsByTopic", f"{TOPIC}:1"))
    entry = "<entry><key>{}</key><value>{}</value></entry>"
    values = entry.format("RawMessageDelivery", "true") + entry.format(
        "RedrivePolicy", json.dumps({"deadLetterTargetArn": f"{QUEUE}-dlq"}).replace('"', "&quot;")
    )
    broker.will_answer(
        "GetSubscriptionAttributes",
        sns_answer("GetSubscriptionAttributes", f"<Attributes>{values}</Attributes>"),
    )
    return broker


def test_a_healthy_queue_has_no_findings(broker):
    assert diagnose(TOPOLOGY, broker.driver()) == []


@pytest.mark.parametrize("address", ["PendingConfirmation"])
def test_a_subscription_that_waits_for_its_confirmation_is_found(broker, address):
    broker.will_now_answer("ListSubscriptionsByTopic", subscriptions("ListSubscriptionsByTopic", address))

    (finding,) = diagnose(TOPOLOGY, broker.driver())

    assert (finding.check, finding.severity) == ("pending", "error")
    assert make_plan(TOPOLOGY, broker.driver()).changes == ()


def test_a_key_that_may_not_be_looked_at_is_a_warning(broker):
    broker.will_now_answer("GetQueueAttributes", attributes(KmsMasterKeyId="alias/shop"))
    broker.will_answer("DescribeKey", sqs_error("AccessDeniedException", "not authorized"))

    (finding,) = diagnose(TOPOLOGY, broker.driver())

    assert (finding.check, finding.severity) == ("encryption", "warning")
    assert "kms:GetKeyPolicy" in finding.remedy


def test_subscriptions_are_read_from_all_pages(broker):
    operation = "ListSubscriptionsByTopic"
    broker.will_now_answer(
        operation, subscriptions(operation, next_token="more"), subscriptions(operation, f"{TOPIC}:1")
    )

    assert diagnose(TOPOLOGY, broker.driver()) == []
    assert broker.sent[operation][1]["NextToken"] == "more"


def test_only_queues_with_the_prefix_are_searched_for_the_mark(broker):
    driver = broker.driver(prefix="staging-")

    driver.inspection().tagged_queues("melange-topology", "shop")

    assert broker.sent["ListQueues"][0]["QueueNamePrefix"] == "staging-"


def test_a_topic_of_another_account_that_may_not_be_looked_at_is_compared_by_our_own_subscriptions(broker):
    theirs = "arn:aws:sns:us-east-1:210987654321:orders"
    topology = Topology(
        "shop",
        topics=(DeclaredTopic(theirs),),
        queues=(DeclaredQueue("billing", (DeclaredBinding(theirs),), visibility_timeout_seconds=30),),
    )
    denied = sns_error("AuthorizationError", status=403)
    broker.will_now_answer("GetTopicAttributes", denied)
    broker.will_now_answer("ListSubscriptionsByTopic", denied)
    policy = allow_topics(None, QUEUE, [theirs])
    broker.will_now_answer("GetQueueAttributes", sqs_answer(Attributes={"QueueArn": QUEUE, "Policy": policy}))
    before = make_plan(topology, broker.driver()).changes
    broker.will_now_answer(
        "ListSubscriptions", subscriptions("ListSubscriptions", f"{theirs}:1", topic=theirs)
    )

    assert [(change.action, change.kind) for change in before] == [("create", "binding")]
    assert make_plan(topology, broker.driver()).changes == ()


def test_an_own_topic_that_may_not_be_looked_at_is_an_error(broker):
    broker.will_now_answer("ListSubscriptionsByTopic", sns_error("AuthorizationError", status=403))

    with pytest.raises(AccessDeniedError, match="sns:ListSubscriptionsByTopic"):
        make_plan(TOPOLOGY, broker.driver())


def test_without_sts_a_topic_that_is_not_listed_is_missing(broker):
    broker.will_now_answer("GetCallerIdentity", sns_error("InvalidAction"))
    broker.will_answer("ListTopics", sns_answer("ListTopics", "<Topics/>"))

    assert broker.driver().inspection().topic("orders") is None
