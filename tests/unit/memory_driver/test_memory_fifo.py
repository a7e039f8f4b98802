"""What SQS does with FIFO queues beyond what every driver promises."""

import pytest

from melange.messages import Message
from unit.memory_driver.given import bodies, fifo_messages


def test_an_id_is_taken_again_after_a_purge(driver):
    queue = driver.declare_queue("queue.fifo")
    driver.send(queue, fifo_messages("same"))

    driver.purge_queue(queue)
    driver.send(queue, fifo_messages("same"))

    assert bodies(driver.receive(queue, 10, 0)) == ["same"]


def test_a_dead_letter_gets_the_brokers_id_of_the_message_as_deduplication_id(driver):
    dead_letters = driver.declare_queue("dead-letters.fifo")
    queue = driver.declare_queue("queue.fifo", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(queue, fifo_messages("poison"))
    held = driver.receive(queue, 1, 0)
    driver.defer(held, 0)
    driver.receive(queue, 1, 0)

    (dead,) = driver.receive(dead_letters, 1, 0)

    assert dead.message.message_deduplication_id == dead.broker_message_id == held[0].broker_message_id
    assert dead.message == held[0].message._replace(message_deduplication_id=dead.broker_message_id)


def test_two_messages_of_one_deduplication_id_are_both_dead_lettered(driver):
    dead_letters = driver.declare_queue("dead-letters.fifo")
    sources = [
        driver.declare_queue(name, dead_letter_queue=dead_letters, max_receive_count=1)
        for name in ("first.fifo", "second.fifo")
    ]
    for queue in sources:
        driver.send(queue, [fifo_messages("same")[0]._replace(body=queue.name)])
        driver.defer(driver.receive(queue, 1, 0), 0)
        driver.receive(queue, 1, 0)

    assert bodies(driver.receive(dead_letters, 10, 0)) == ["first.fifo", "second.fifo"]


@pytest.mark.parametrize("was_interrupted", [False, True])
def test_the_id_of_a_dead_letter_is_not_taken_for_new_messages(driver, was_interrupted):
    dead_letters = driver.declare_queue("dead-letters.fifo")
    queue = driver.declare_queue("queue.fifo", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(queue, fifo_messages("poison"))
    driver.defer(driver.receive(queue, 1, 0), 0)
    driver.receive(queue, 1, 0)
    (dead,) = driver.list_messages(dead_letters)
    if was_interrupted:
        driver._broker.queues[dead_letters.address].stored._is_indexed = False

    driver.send(dead_letters, fifo_messages(dead.message_deduplication_id))

    assert len(driver.list_messages(dead_letters)) == 2


@pytest.fixture
def _sees_three(monkeypatch):
    monkeypatch.setattr("melange.engine.fifo.SEARCHED_MESSAGES", 3)


@pytest.mark.usefixtures("_sees_three")
def test_a_group_behind_too_many_messages_of_another_is_hidden_until_some_are_gone(driver):
    queue = driver.declare_queue("queue.fifo")
    driver.send(queue, fifo_messages("a1", "a2", "a3", "a4", group="a"))
    driver.send(queue, fifo_messages("b1", group="b"))
    (a1,) = driver.receive(queue, 1, 0)
    assert driver.receive(queue, 10, 0) == []

    driver.acknowledge([a1])
    (a2,) = driver.receive(queue, 1, 0)
    assert driver.receive(queue, 10, 0) == []
    driver.acknowledge([a2])

    assert bodies(driver.receive(queue, 10, 0)) == ["a3", "a4", "b1"]


@pytest.mark.usefixtures("_sees_three")
def test_what_was_hidden_keeps_its_place_and_its_deduplication_id(driver):
    queue = driver.declare_queue("queue.fifo")
    driver.send(queue, fifo_messages(*"12345"))
    driver.send(queue, fifo_messages("5"))
    received = []

    while deliveries := driver.receive(queue, 2, 0):
        received += bodies(deliveries)
        driver.acknowledge(deliveries)

    assert received == list("12345")


def test_groups_take_turns_however_long_the_line_of_one_is(driver):
    queue = driver.declare_queue("queue.fifo")
    driver.send(queue, fifo_messages(*map(str, range(30)), group="long"))
    driver.send(queue, [Message("id", "short", message_group_id="short", message_deduplication_id="short")])

    first, second = driver.receive(queue, 10, 0), driver.receive(queue, 10, 0)

    assert bodies(first) == [str(number) for number in range(10)]
    assert bodies(second) == ["short"]
