"""Declaring where AWS does what no local server does: late, contended, and with others at work."""

import json

import pytest

from aws_answers import QUEUE, TOPIC, InstantClock, sns_answer, sns_error, sqs_answer, sqs_error
from melange.drivers.aws.policies import allow_topics, allowed_topics
from melange.drivers.base import EventFilter
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverConnectionError,
    QueueNotFoundError,
)

URL = "https://sqs.us-east-1.amazonaws.com/123456789012/stock"
ARN = "arn:aws:sqs:us-east-1:123456789012:stock"
ORDERS = "arn:aws:sns:us-east-1:123456789012:orders"
SUBSCRIPTION = f"{TOPIC.address}:1"

NO_QUEUE = sqs_error("AWS.SimpleQueueService.NonExistentQueue", modeled="QueueDoesNotExist")
THE_URL = sqs_answer(QueueUrl=URL)
DONE = sqs_answer()
IDENTITY = sns_answer("GetCallerIdentity", "<Account>123456789012</Account>")
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
    bound.will_answer("ListSubscriptionsByTopic", subscriptions("other"))

    with pytest.raises(ConfigurationError, match="Invalid endpoint"):
        bound.driver().declare_queue("stock", TOPIC)


def test_a_subscription_that_is_there_is_found_whatever_the_words_of_the_refusal(bound):
    bound.will_answer("Subscribe", sns_error("InvalidParameter", "in words that are new"))
    bound.will_answer("ListSubscriptionsByTopic", subscriptions(ARN))

    bound.driver().declare_queue("stock", TOPIC)


def test_a_role_that_may_not_look_for_the_subscription_is_told_both(bound):
    bound.will_answer("Subscribe", sns_error("InvalidParameter", "Subscription already exists"))
    bound.will_answer("ListSubscriptionsByTopic", sns_error("AuthorizationError", status=403))

    with pytest.raises(AccessDeniedError, match=r"already exists.*sns:ListSubscriptionsByTopic"):
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


@pytest.mark.parametrize("words", ["Topic already exists with different attributes", "in words that are new"])
def test_a_topic_with_other_attributes_is_reconciled_whatever_the_words_of_the_refusal(broker, words):
    broker.will_answer(
        "CreateTopic",
        sns_error("InvalidParameter", words),
        sns_answer("CreateTopic", f"<TopicArn>{TOPIC.address}</TopicArn>"),
    )
    broker.will_answer("GetCallerIdentity", IDENTITY)
    broker.will_answer("GetTopicAttributes", sns_answer("GetTopicAttributes", "<Attributes></Attributes>"))
    broker.will_answer("SetTopicAttributes", sns_answer("SetTopicAttributes"))

    broker.driver(kms_master_key_id="alias/shop").declare_topic("products")

    (change,) = broker.sent["SetTopicAttributes"]
    assert (change["AttributeName"], change["AttributeValue"]) == ("KmsMasterKeyId", "alias/shop")


def test_a_topic_that_sns_refuses_to_make_is_not_made_without_its_key(broker):
    broker.will_answer("CreateTopic", sns_error("InvalidParameter", "Invalid key"))
    broker.will_answer("GetCallerIdentity", IDENTITY)
    broker.will_answer("GetTopicAttributes", sns_error("NotFound", status=404))

    with pytest.raises(ConfigurationError, match="Invalid key"):
        broker.driver(kms_master_key_id="bad").declare_topic("products")

    assert len(broker.sent["CreateTopic"]) == 1


OF_ANOTHER_ACCOUNT = [
    "arn:aws:sqs:us-east-1:999999999999:stock",
    "https://sqs.us-east-1.amazonaws.com/999999999999/stock",
    "https://us-east-1.queue.amazonaws.com/999999999999/stock",
    "https://sqs-fips.us-east-1.amazonaws.com/999999999999/stock",
]


@pytest.mark.parametrize("name", OF_ANOTHER_ACCOUNT)
def test_a_queue_given_by_arn_or_url_is_bound_and_never_made(broker, name):
    policy = allow_topics(None, ARN, [TOPIC.address])
    broker.will_answer("GetQueueUrl", sqs_answer(QueueUrl=OF_ANOTHER_ACCOUNT[1]), NO_QUEUE)
    broker.will_answer("GetQueueAttributes", attributes(policy))
    broker.will_answer("Subscribe", SUBSCRIBED)
    driver = broker.driver()

    queue = driver.declare_queue(name, TOPIC)

    assert (queue.name, queue.address) == ("stock", OF_ANOTHER_ACCOUNT[1])
    assert broker.sent["GetQueueUrl"] == [{"QueueName": "stock", "QueueOwnerAWSAccountId": "999999999999"}]
    with pytest.raises(QueueNotFoundError):
        driver.declare_queue(name)
    assert not broker.sent["CreateQueue"]


@pytest.mark.parametrize("name", OF_ANOTHER_ACCOUNT)
def test_a_queue_of_another_region_is_refused_with_its_region(broker, name):
    with pytest.raises(ConfigurationError, match="region_name='us-east-1'"):
        broker.driver(region_name="eu-west-1").get_queue(name)


@pytest.mark.parametrize("name", ["https://sqs.us-east-1.amazonaws.com/", "http://127.0.0.1:4566/stock"])
def test_a_url_that_is_not_of_a_queue_is_refused(broker, name):
    with pytest.raises(ConfigurationError, match="not the URL of a queue"):
        broker.driver().get_queue(name)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://queue.amazonaws.com/123456789012/stock",
        "https://us-east-1.queue.amazonaws.com/123456789012/stock",
        "https://sqs-fips.us-east-1.amazonaws.com/123456789012/stock",
        "https://sqs.us-east-1.api.aws/123456789012/stock",
        "https://vpce-0a1b2c3d-abcdefgh.sqs.us-east-1.vpce.amazonaws.com/123456789012/stock",
    ],
)
def test_a_queue_has_one_address_whichever_endpoint_leads_to_it(broker, url):
    broker.will_answer("GetQueueUrl", sqs_answer(QueueUrl=url))
    broker.will_answer("GetQueueAttributes", attributes())

    assert broker.driver().get_queue("stock").address == URL


def test_queues_of_two_local_servers_have_two_addresses(broker):
    first, second = (f"http://127.0.0.1:{port}/000000000000/stock" for port in (4566, 4567))
    broker.will_answer("GetQueueUrl", sqs_answer(QueueUrl=first), sqs_answer(QueueUrl=second))
    broker.will_answer("GetQueueAttributes", attributes())
    driver = broker.driver()

    assert {driver.get_queue("stock").address for _ in range(2)} == {first, second}


def test_what_feeds_a_queue_is_told_with_its_filter(broker):
    broker.will_answer("GetQueueAttributes", attributes(allow_topics(None, ARN, [TOPIC.address, ORDERS])))
    broker.will_answer("ListSubscriptionsByTopic", sns_error("NotFound", status=404), subscriptions(ARN))
    broker.will_answer(
        "GetSubscriptionAttributes",
        subscription_attributes(FilterPolicy='{"melange-event-type": ["B", "A"]}'),
    )

    (binding,) = broker.driver().list_bindings(QUEUE)

    assert (binding.topic.name, binding.topic.address) == ("products", TOPIC.address)
    assert binding.event_filter == EventFilter(("A", "B"))
