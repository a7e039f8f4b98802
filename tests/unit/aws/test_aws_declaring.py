"""Declaring where AWS does what no local server does: late, contended, and with others at work."""

import json

import pytest

from aws_answers import TOPIC, CannedBroker, InstantClock, sns_answer, sns_error, sqs_answer, sqs_error
from melange.drivers.aws.policy import allow_topics, allowed_topics
from melange.drivers.base import EventFilter
from melange.errors import AccessDeniedError, ConfigurationError, DriverConnectionError

URL = "https://sqs.us-east-1.amazonaws.com/123456789012/stock"
ARN = "arn:aws:sqs:us-east-1:123456789012:stock"
ORDERS = "arn:aws:sns:us-east-1:123456789012:orders"
SUBSCRIPTION = f"{TOPIC.address}:1"

NO_QUEUE = sqs_error("AWS.SimpleQueueService.NonExistentQueue", modeled="QueueDoesNotExist")
THE_URL = sqs_answer(QueueUrl=URL)
DONE = sqs_answer()
SUBSCRIBED = sns_answer("Subscribe", f"<SubscriptionArn>{SUBSCRIPTION}</SubscriptionArn>")


def attributes(policy=None):
    return sqs_answer(Attributes={"QueueArn": ARN, **({"Policy": policy} if policy else {})})


def subscription_attributes(**values):
    entries = "".join(
        f"<entry><key>{key}</key><value>{value}</value></entry>" for key, value in values.items()
    )
    return sns_answer("GetSubscriptionAttributes", f"<Attributes>{entries}</Attributes>")


def subscriptions(*endpoints, next_token=None):
    members = "".join(
        f"<member><SubscriptionArn>{TOPIC.address}:{number}</SubscriptionArn>"
        f"<Protocol>sqs</Protocol><Endpoint>{endpoint}</Endpoint></member>"
        for number, endpoint in enumerate(endpoints)
    )
    token = f"<NextToken>{next_token}</NextToken>" if next_token else ""
    return sns_answer("ListSubscriptionsByTopic", f"<Subscriptions>{members}</Subscriptions>{token}")


@pytest.fixture
def broker():
    return CannedBroker()


@pytest.fixture
def bound(broker):
    """A broker with the queue, which lets the topic in already."""
    broker.will_answer("GetQueueUrl", THE_URL)
    broker.will_answer("GetQueueAttributes", attributes(allow_topics(None, ARN, [TOPIC.address])))
    return broker


def test_a_queue_that_may_not_be_looked_up_is_not_made(broker):
    broker.will_answer("GetQueueUrl", sqs_error("AccessDenied", status=403))
    broker.will_answer("CreateQueue", THE_URL)

    with pytest.raises(AccessDeniedError, match="sqs:GetQueueUrl"):
        broker.driver().declare_queue("stock")

    assert "CreateQueue" not in broker.sent


def test_a_new_queue_is_waited_for_until_it_answers(broker):
    broker.will_answer("GetQueueUrl", NO_QUEUE)
    broker.will_answer("CreateQueue", THE_URL)
    broker.will_answer("GetQueueAttributes", NO_QUEUE, NO_QUEUE, attributes())
    clock = InstantClock()

    assert broker.driver(clock).declare_queue("stock").address == URL

    assert clock.waits == [0.5, 1.0]


def test_everything_named_is_there_from_the_creation_on(broker):
    broker.will_answer("GetQueueUrl", NO_QUEUE)
    broker.will_answer("CreateQueue", THE_URL)
    created = {"QueueArn": ARN, "MessageRetentionPeriod": "600", "KmsMasterKeyId": "alias/shop"}
    broker.will_answer("GetQueueAttributes", sqs_answer(Attributes=created))

    driver = broker.driver(kms_master_key_id="alias/shop")
    driver.declare_queue("stock", retention_seconds=600, tags={"team": "shop"})

    assert broker.sent["CreateQueue"] == [
        {
            "QueueName": "stock",
            "Attributes": {"MessageRetentionPeriod": "600", "KmsMasterKeyId": "alias/shop"},
            "tags": {"team": "shop"},
        }
    ]


@pytest.mark.parametrize(
    "code", [("QueueAlreadyExists", "QueueNameExists"), ("QueueNameExists", "QueueNameExists")]
)
def test_a_queue_that_another_process_has_just_made_is_reconciled(broker, code):
    broker.will_answer("GetQueueUrl", NO_QUEUE, THE_URL)
    broker.will_answer("CreateQueue", sqs_error(code[0], modeled=code[1]))
    broker.will_answer("GetQueueAttributes", attributes())
    broker.will_answer("SetQueueAttributes", DONE)

    broker.driver().declare_queue("stock", retention_seconds=600)

    assert broker.sent["SetQueueAttributes"][0]["Attributes"] == {"MessageRetentionPeriod": "600"}


def test_a_queue_that_sqs_refuses_to_make_is_a_configuration_error(broker):
    broker.will_answer("GetQueueUrl", NO_QUEUE)
    broker.will_answer("CreateQueue", sqs_error("InvalidAttributeValue", "bad key"))

    with pytest.raises(ConfigurationError, match="bad key"):
        broker.driver(kms_master_key_id="bad").declare_queue("stock")


def test_the_name_of_a_queue_deleted_just_now_is_worth_a_later_try(broker):
    broker.will_answer("GetQueueUrl", NO_QUEUE)
    broker.will_answer(
        "CreateQueue",
        sqs_error("AWS.SimpleQueueService.QueueDeletedRecently", modeled="QueueDeletedRecently"),
    )

    with pytest.raises(DriverConnectionError, match="QueueDeletedRecently"):
        broker.driver().declare_queue("stock")


def test_a_policy_that_is_right_is_not_written(bound):
    bound.will_answer("Subscribe", SUBSCRIBED)

    bound.driver().declare_queue("stock", TOPIC)

    assert not bound.sent["SetQueueAttributes"]


def test_a_policy_that_another_writer_overwrites_is_written_again_with_both(broker):
    theirs = allow_topics(None, ARN, [ORDERS])
    both = allow_topics(theirs, ARN, [TOPIC.address])
    broker.will_answer("GetQueueUrl", THE_URL)
    broker.will_answer("GetQueueAttributes", attributes(), attributes(), attributes(theirs), attributes(both))
    broker.will_answer("SetQueueAttributes", DONE)
    broker.will_answer("Subscribe", SUBSCRIBED)

    broker.driver().declare_queue("stock", TOPIC)

    written = [allowed_topics(call["Attributes"]["Policy"]) for call in broker.sent["SetQueueAttributes"]]
    assert written == [[TOPIC.address], [ORDERS, TOPIC.address]]


def test_a_policy_that_never_stays_is_given_up_with_a_clear_error(broker):
    broker.will_answer("GetQueueUrl", THE_URL)
    broker.will_answer("GetQueueAttributes", attributes())
    broker.will_answer("SetQueueAttributes", DONE)

    with pytest.raises(DriverConnectionError, match="keep changing the policy"):
        broker.driver().declare_queue("stock", TOPIC)

    assert not broker.sent["Subscribe"]


def test_a_subscription_with_other_attributes_is_found_and_left_alone(bound):
    bound.will_answer(
        "Subscribe", sns_error("InvalidParameter", "Subscription already exists with different attributes")
    )
    bound.will_answer(
        "ListSubscriptionsByTopic", subscriptions("other", next_token="2"), subscriptions("x", ARN)
    )

    bound.driver().declare_queue("stock", TOPIC)

    assert len(bound.sent["ListSubscriptionsByTopic"]) == 2
    assert not bound.sent["SetSubscriptionAttributes"]


def test_a_refused_subscription_is_a_configuration_error(bound):
    bound.will_answer("Subscribe", sns_error("InvalidParameter", "Invalid endpoint"))

    with pytest.raises(ConfigurationError, match="Invalid endpoint"):
        bound.driver().declare_queue("stock", TOPIC)


def test_a_filter_that_is_right_is_not_set_again(bound):
    bound.will_answer("Subscribe", SUBSCRIBED)
    bound.will_answer(
        "GetSubscriptionAttributes",
        subscription_attributes(FilterPolicy='{"melange-event-type": ["B", "A"]}'),
    )

    bound.driver().declare_queue("stock", TOPIC, event_filter=EventFilter(("A", "B")))

    assert not bound.sent["SetSubscriptionAttributes"]


def test_a_change_of_scope_drops_no_message_on_the_way(bound):
    bound.will_answer("Subscribe", SUBSCRIBED)
    bound.will_answer(
        "GetSubscriptionAttributes", subscription_attributes(FilterPolicy='{"melange-event-type": ["A"]}')
    )
    bound.will_answer("SetSubscriptionAttributes", sns_answer("SetSubscriptionAttributes"))

    bound.driver().declare_queue("stock", TOPIC, event_filter=EventFilter(("A",), scope="body"))

    steps = [
        (call["AttributeName"], call["AttributeValue"]) for call in bound.sent["SetSubscriptionAttributes"]
    ]
    assert steps == [
        ("FilterPolicy", "{}"),
        ("FilterPolicyScope", "MessageBody"),
        ("FilterPolicy", json.dumps({"event_type_name": ["A"]}, separators=(",", ":"))),
    ]


def test_a_topic_with_other_attributes_is_reconciled(broker):
    broker.will_answer(
        "CreateTopic",
        sns_error("InvalidParameter", "Topic already exists with different attributes"),
        sns_answer("CreateTopic", f"<TopicArn>{TOPIC.address}.fifo</TopicArn>"),
    )
    broker.will_answer("GetTopicAttributes", sns_answer("GetTopicAttributes", "<Attributes></Attributes>"))
    broker.will_answer("SetTopicAttributes", sns_answer("SetTopicAttributes"))

    broker.driver().declare_topic("products.fifo", content_based_deduplication=True)

    (change,) = broker.sent["SetTopicAttributes"]
    assert (change["AttributeName"], change["AttributeValue"]) == ("ContentBasedDeduplication", "true")


def test_a_topic_that_sns_refuses_to_make_is_not_made_without_its_key(broker):
    broker.will_answer("CreateTopic", sns_error("InvalidParameter", "Invalid key"))

    with pytest.raises(ConfigurationError, match="Invalid key"):
        broker.driver(kms_master_key_id="bad").declare_topic("products")

    assert len(broker.sent["CreateTopic"]) == 1
