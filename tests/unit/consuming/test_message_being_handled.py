"""Which message is being handled, wherever the code that asks for it runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from melange import ExchangeMessagePublisher, Middleware, Reject, Worker
from melange.messages import message_being_handled

EVENT = {"event_type_name": "ProductAdded"}
DEADLINE_SECONDS = 30


def ask() -> str | None:
    message = message_being_handled()
    return message and message.message_id


def test_outside_of_a_listener_there_is_none():
    assert message_being_handled() is None


def test_a_listener_and_what_it_calls_know_their_message(make_consumer, publisher):
    consumer, seen = make_consumer(), []
    consumer.listener(name="one")(lambda event: seen.append(ask()))
    consumer.listener(name="other")(lambda event: seen.append(ask()))
    message_ids = [publisher.publish(EVENT), publisher.publish(EVENT)]

    consumer.consume_event()

    assert seen == [message_ids[0]] * 2 + [message_ids[1]] * 2
    assert message_being_handled() is None


@pytest.mark.parametrize("error", [ValueError, Reject("no"), KeyboardInterrupt])
def test_after_an_error_there_is_none(make_consumer, publisher, error):
    consumer = make_consumer()

    @consumer.listener()
    def fail(event):
        raise error

    publisher.publish(EVENT)

    with contextlib.suppress(KeyboardInterrupt):
        consumer.consume_event()

    assert message_being_handled() is None


def test_a_listener_that_consumes_from_another_queue_is_back_at_its_own_message(
    driver, make_consumer, publisher
):
    outer, inner, seen = make_consumer("outer"), make_consumer("inner", "others"), []
    inner.listener(name="inner")(lambda event: seen.append(ask()))

    @outer.listener()
    def consume(event):
        before = ask()
        inner_id = ExchangeMessagePublisher("others", driver).publish(EVENT)
        inner.consume_event()
        seen.extend([inner_id, before, ask()])

    message_id = publisher.publish(EVENT)

    outer.consume_event()

    inside, inner_id, before, after = seen
    assert inside == inner_id
    assert before == after == message_id


class AskingAround(Middleware):
    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def around_listener(self, call, run):
        self.seen.append(ask())
        return run(call)


def test_what_goes_around_a_listener_knows_its_message_too(make_consumer, publisher):
    asking = AskingAround()
    consumer = make_consumer(middleware=[asking])
    consumer.listener(name="listener")(lambda event: None)
    message_id = publisher.publish(EVENT)

    consumer.consume_event()

    assert asking.seen == [message_id]


def test_on_a_worker_each_listener_knows_its_own_also_on_the_event_loop(make_consumer, publisher):
    consumer, seen, all_seen = make_consumer(), {}, threading.Event()

    def note(who: str, own_id: str) -> None:
        seen[who, own_id] = ask()
        if len(seen) == 30:
            all_seen.set()

    @consumer.listener(name="plain")
    def plain(event, message_id):
        note("plain", message_id)

    @consumer.listener(name="asynchronous")
    async def asynchronous(event, message_id):
        await asyncio.sleep(0)
        await asyncio.create_task(in_a_task(message_id))
        await asyncio.to_thread(note, "thread", message_id)

    async def in_a_task(message_id: str) -> None:
        note("task", message_id)

    message_ids = [publisher.publish(EVENT) for _ in range(10)]
    worker = Worker(consumer, grace_seconds=10, handle_signals=False)

    worker.start()

    assert all_seen.wait(DEADLINE_SECONDS)
    assert worker.stop(DEADLINE_SECONDS)
    assert seen == {(who, one): one for who in ("plain", "task", "thread") for one in message_ids}
