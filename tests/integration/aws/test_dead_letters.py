"""Dead letters on a local SNS+SQS server, through operations."""

from __future__ import annotations

from uuid import uuid4

import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, RetryPolicy
from melange.messages import Message
from melange.operations import DeadLetters, Selection
from waiting import eventually


@pytest.fixture
def name():
    return f"dead-letters-{uuid4().hex}"


@pytest.fixture
def consumer(driver, name):
    return ExchangeMessageConsumer(
        name, name, driver=driver, queue=QueueOptions(wait_seconds=2), retry=RetryPolicy(max_attempts=1)
    )


def test_only_the_listener_that_failed_runs_again(driver, name, consumer) -> None:
    ran = []

    @consumer.listener("OrderPlaced", name="bill")
    def bill(event):
        ran.append("bill")
        if ran.count("bill") == 1:
            raise ConnectionError("the bank is closed")

    @consumer.listener("OrderPlaced", name="mail")
    def mail(event):
        ran.append("mail")

    ExchangeMessagePublisher(name, driver).publish({}, "OrderPlaced", headers={"tenant": "north"})
    eventually(consumer.consume_event)

    (letter,) = DeadLetters(name, driver).browse()
    report = DeadLetters(f"{name}-dlq", driver).retry(Selection(listener_name="bill"))
    eventually(consumer.consume_event)

    assert (letter.listener_name, letter.headers) == ("bill", {"tenant": "north"})
    assert report.sent_to == {name: 1}
    assert sorted(ran) == ["bill", "bill", "mail"]


def test_a_move_of_the_whole_queue_can_be_watched_and_cancelled(driver, name, consumer) -> None:
    letters = DeadLetters(name, driver)
    driver.send(letters.queue, [Message(f"m-{number}", "{}") for number in range(100)])

    letters.start_move(messages_per_second=1)

    eventually(lambda: letters.moves()[0].moved)
    assert letters.moves()[0].destination_name == name
    assert letters.cancel_move() in range(1, 100)
    assert eventually(lambda: letters.moves()[0].status == "cancelled")
