"""Request and reply over SQS, with exactly the permissions that docs/request-reply.md lists."""

import re
import threading
import uuid
from pathlib import Path

import boto3
import pytest

from melange import ExchangeMessageConsumer, QueueOptions
from melange.drivers.aws import AwsDriver
from melange.request_reply import Requester, remove_abandoned_reply_queues, reply

PAGE = (Path(__file__).parents[3] / "docs" / "request-reply.md").read_text()


@pytest.fixture
def make_driver(sns_sqs_server):
    prefix = f"{uuid.uuid4().hex[:8]}-"

    def make(calls=None):
        session = boto3.Session()
        if calls is not None:
            session.events.register(
                "before-call", lambda model, **_: calls.add(f"sqs:{model.name.removesuffix('Batch')}")
            )
        return AwsDriver(session=session, endpoint_url=sns_sqs_server, prefix=prefix, call_timeout_seconds=60)

    return make


def test_a_question_is_answered_and_its_queue_removed(make_driver):
    asking, answering, cleaning = set(), set(), set()
    asker, service, cleaner = make_driver(asking), make_driver(answering), make_driver(cleaning)
    consumer = ExchangeMessageConsumer("pricing", driver=make_driver(), queue=QueueOptions(wait_seconds=5))
    consumer.listener("PriceAsked", name="price")(
        lambda event: reply({"event_type_name": "PriceGiven", "cents": 7}, service)
    )
    thread = threading.Thread(target=consumer.consume_event, daemon=True)
    thread.start()

    with Requester("pricing", asker) as requester:
        answer = requester.ask({"event_type_name": "PriceAsked"}, timeout_seconds=60)
        kept = remove_abandoned_reply_queues(cleaner)
    thread.join()

    assert (answer["cents"], kept) == (7, 0)
    assert list(make_driver().inspection().tagged_queues("melange-reply-queue", "true")) == []
    assert asking <= _row("the asker")
    assert answering <= _row("the service")  # the direct path to SQS has no events
    assert cleaning <= _row("`remove_abandoned_reply_queues`")


def _row(start: str) -> set[str]:
    (row,) = re.findall(rf"^\| {re.escape(start)} \|.*$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+:\w+)`", row))
