"""The policies in docs/aws.md list what each role calls."""

from __future__ import annotations

import json
import re

import boto3
import pytest

from documentation.pages import REPOSITORY
from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
    Reject,
    Retry,
)
from melange.drivers.aws import AwsDriver
from melange.messages import Message
from melange.operations import DeadLetters, Selection

PAGE = "".join((REPOSITORY / "docs" / name).read_text() for name in ("aws.md", "dead-letters.md"))

FREE = {"sts:GetCallerIdentity"}
"""What needs no permission."""


@pytest.fixture
def calls():
    """The permissions that the driver's calls needed, in the order of their first use."""
    return {}


@pytest.fixture
def make_driver(sns_sqs_server, calls):
    def make() -> AwsDriver:
        session = boto3.Session()
        session.events.register("before-call", lambda model, **_: calls.setdefault(_permission(model)))
        return AwsDriver(session=session, endpoint_url=sns_sqs_server)

    return make


@pytest.fixture
def administrator(sns_sqs_server):
    """A driver whose calls are not recorded."""
    return AwsDriver(endpoint_url=sns_sqs_server)


def test_a_publisher_needs_what_its_policy_lists(make_driver, calls) -> None:
    ExchangeMessagePublisher("permissions-1", make_driver()).publish({}, "OrderPlaced")

    assert set(calls) == _actions("Publisher")


def test_a_declaring_consumer_needs_what_its_policy_lists(make_driver, administrator, calls) -> None:
    consumer = ExchangeMessageConsumer("permissions-2", "permissions-2", driver=make_driver())
    ExchangeMessagePublisher("permissions-2", administrator).publish({}, "OrderPlaced")
    _defer_and_dead_letter(consumer, calls)

    assert set(calls) == _actions("DeclareTopic", "DeclareQueues", "Consume", "DeadLetter")


def test_roles_that_declare_nothing_need_what_their_policy_lists(make_driver, administrator, calls) -> None:
    ExchangeMessageConsumer("permissions-3", "permissions-3", driver=administrator)
    topic_arn = administrator.get_topic("permissions-3").address

    consumer = ExchangeMessageConsumer(
        "permissions-3", driver=make_driver(), queue=QueueOptions(declare=False)
    )
    ExchangeMessagePublisher(topic_arn, make_driver(), declare=False).publish({}, "OrderPlaced")
    _defer_and_dead_letter(consumer, calls)

    optional = {"sns:GetTopicAttributes"}  # the page says what goes on without it
    assert set(calls) - optional == _actions("PublishOnly", "ConsumeOnly", "DeadLetterOnly")


def test_filters_and_tags_need_what_the_table_lists(make_driver, calls) -> None:
    queue = topic = "permissions-4"
    for event_types in (["A"], ["A", "B"]):
        ExchangeMessageConsumer(
            queue,
            topic,
            driver=make_driver(),
            filter_events=event_types,
            queue=QueueOptions(tags={"team": "x"}),
        )

    besides = _row("`filter_events=`") | _row("changing the filter") | _row("`tags=`")
    declaring = _actions("DeclareTopic", "DeclareQueues")
    # A server may take a second subscription with another filter for the first: then it is not looked up.
    assert set(calls) | {"sns:ListSubscriptionsByTopic"} == declaring | besides


def test_a_queue_publisher_needs_what_the_table_lists(make_driver, administrator, calls) -> None:
    administrator.declare_queue("permissions-5")

    QueueMessagePublisher("permissions-5", make_driver()).send({}, "OrderPlaced")

    assert set(calls) == _row("`QueueMessagePublisher`")


def test_a_topic_by_name_that_is_not_declared_needs_what_the_table_lists(
    make_driver, administrator, calls
) -> None:
    administrator.declare_topic("permissions-6")

    make_driver().get_topic("permissions-6")

    assert set(calls) - {"sns:GetTopicAttributes"} <= FREE | _row("the same where STS cannot be reached")


def test_an_operator_of_dead_letters_needs_what_its_policy_lists(make_driver, administrator, calls) -> None:
    dead_letters = administrator.declare_queue("permissions-7-dlq")
    administrator.declare_queue("permissions-7", dead_letter_queue=dead_letters)
    administrator.send(dead_letters, [Message("one", "{}"), Message("two", "{}")])

    letters = DeadLetters("permissions-7", make_driver())
    list(letters.browse())
    letters.retry(Selection(message_ids=frozenset({"one"})))
    letters.remove(Selection())

    assert set(calls) == _actions("DeadLetters", "IntoTheirQueue")


def _defer_and_dead_letter(consumer, calls) -> None:
    """Defer a delivery, then dead-letter it: these are all calls of a consumer."""

    @consumer.listener()
    def fail(event, receive_count):
        if receive_count == 1:
            raise Retry(0)
        raise Reject("done")

    while "sqs:DeleteMessage" not in calls:
        consumer.consume_event(wait_seconds=5)


def _permission(model) -> str:
    service, operation = model.service_model.service_name, model.name
    # The batch forms of a call are allowed by the permission of the single one.
    return f"{service}:{operation.removesuffix('Batch')}"


def _actions(*statement_ids: str) -> set[str]:
    """Return the actions that the policies of the page list under these statement ids."""
    blocks = [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ]
    statements = [one for block in blocks for one in block.get("Statement", [])]
    by_id = {one["Sid"]: one["Action"] for one in statements}
    actions = [by_id[statement_id] for statement_id in statement_ids]
    return {action for some in actions for action in ([some] if isinstance(some, str) else some)}


def _row(start: str) -> set[str]:
    """Return the actions in the table row of the page that starts so."""
    (row,) = re.findall(rf"^\| {re.escape(start)}.*$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+:\w+)`", row))
