"""A driver that was built before a fork works in both processes, and neither reads the other's answers."""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable

from melange.drivers.aws import AwsDriver
from melange.messages import Message, Queue

ROUNDS = 40


def in_a_fork(work: Callable[[], object]) -> Callable[[], object]:
    """Run ``work`` in a forked process; the function returned waits for its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)  # a child that waits for a lock of its parent's threads ends, and fails the test
            os.write(writing, json.dumps(work()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)

    def result() -> object:
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        return json.loads(text)

    return result


def send_and_take(driver: AwsDriver, queue: Queue) -> list[str]:
    """Send one message after the other to the queue, and return what was received from it."""
    bodies = []
    for number in range(ROUNDS):
        assert driver.send(queue, [Message(f"id-{number}", f"{queue.name}-{number}")]) == []
        deliveries = driver.receive(queue, 1, 5)
        bodies += [delivery.message.body for delivery in deliveries]
        assert driver.acknowledge(deliveries) == []
    return bodies


def test_each_process_receives_the_messages_of_its_own_queue(driver):
    ours, theirs = driver.declare_queue("fork-ours"), driver.declare_queue("fork-theirs")
    send_and_take(driver, ours)  # so that there is a connection to be inherited

    child = in_a_fork(lambda: send_and_take(driver, theirs))
    bodies = send_and_take(driver, ours)

    assert bodies == [f"fork-ours-{number}" for number in range(ROUNDS)]
    assert child() == [f"fork-theirs-{number}" for number in range(ROUNDS)]


def test_a_fork_while_a_client_is_being_built_does_not_stop_the_child(driver):
    queue = driver.declare_queue("fork-locks")
    clients = driver._calls.clients
    building, forked = threading.Event(), threading.Event()
    make = clients._make

    def make_slowly(name: str) -> object:
        building.set()
        forked.wait(10)
        return make(name)

    clients._make = make_slowly
    thread = threading.Thread(target=clients.build, args=("sts",))
    thread.start()
    building.wait(10)
    child = in_a_fork(lambda: (forked.set(), driver.measure_queue(queue).visible)[1])
    forked.set()
    thread.join()

    assert child() == 0


def test_closing_in_the_child_leaves_the_parents_connections_open(driver):
    queue = driver.declare_queue("fork-closing")

    child = in_a_fork(driver.close)

    assert child() is None
    assert driver.measure_queue(queue).visible == 0
