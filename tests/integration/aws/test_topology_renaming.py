"""A renamed queue on a local server: its messages arrive at the new name as they were sent."""

import uuid

import boto3
import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, Reject
from melange.drivers.aws import AwsDriver
from melange.errors import QueueNotFoundError
from melange.operations import DeadLetters, Selection
from melange.topology import apply_plan, collect, make_plan


@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_messages_move_to_the_new_name_as_they_were_sent(sns_sqs_server, suffix):
    with AwsDriver(
        endpoint_url=sns_sqs_server, prefix=f"{uuid.uuid4().hex[:8]}-", call_timeout_seconds=60
    ) as driver:
        group = {"message_group_id": "7"} if suffix else {}
        ExchangeMessageConsumer(f"billing{suffix}", f"orders{suffix}", driver=driver)
        publisher = ExchangeMessagePublisher(f"orders{suffix}", driver)
        for number in range(3):
            publisher.publish({"number": number}, "OrderPlaced", headers={"tenant": "north"}, **group)
        topology = collect(
            "shop", lambda: ExchangeMessageConsumer(f"invoicing{suffix}", f"orders{suffix}", driver=driver)
        ).topology

        apply_plan(make_plan(topology, driver, renamed={f"billing{suffix}": f"invoicing{suffix}"}))

        consumer = ExchangeMessageConsumer(f"invoicing{suffix}", f"orders{suffix}", driver=driver)
        seen = []
        consumer.listener("OrderPlaced", name="bill")(
            lambda event, headers: seen.append((event["number"], headers["tenant"]))
        )
        while len(seen) < 3:
            assert consumer.consume_event(wait_seconds=5)
        assert sorted(seen) == [(0, "north"), (1, "north"), (2, "north")]
        assert seen == sorted(seen) or not suffix
        with pytest.raises(QueueNotFoundError):
            driver.get_queue(f"billing{suffix}")
        listed = boto3.client("sns", endpoint_url=sns_sqs_server).list_subscriptions_by_topic(
            TopicArn=driver.get_topic(f"orders{suffix}").address
        )
        assert len(listed["Subscriptions"]) == 1


def test_dead_letters_move_with_their_reasons_and_are_retried_at_the_new_name(sns_sqs_server):
    with AwsDriver(
        endpoint_url=sns_sqs_server, prefix=f"{uuid.uuid4().hex[:8]}-", call_timeout_seconds=60
    ) as driver:
        old = ExchangeMessageConsumer("billing", "orders", driver=driver)
        old.listener("OrderPlaced", name="bill")(reject)
        ExchangeMessagePublisher("orders", driver).publish(
            {"number": 1}, "OrderPlaced", headers={"tenant": "north"}
        )
        while not old.consume_event(wait_seconds=5):
            pass
        topology = collect(
            "shop", lambda: ExchangeMessageConsumer("invoicing", "orders", driver=driver)
        ).topology

        apply_plan(make_plan(topology, driver, renamed={"billing": "invoicing"}))

        letters = DeadLetters("invoicing", driver)
        (letter,) = letters.browse()
        assert (letter.reason, letter.listener_name, letter.queue_name) == ("no price", "bill", "invoicing")
        assert dict(letter.headers) == {"tenant": "north"}
        assert letters.retry(Selection(reason="no price")).sent_to == {"invoicing": 1}


def reject(event):
    raise Reject("no price")
