"""What a process does after it has forked, and when it ends."""

import os
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, Gathering, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.errors import NoReplyError
from melange.request_reply import Requester, reply
from waiting import eventually

DEADLINE_SECONDS = 60
EVENT = {"event_type_name": "ProductAdded"}

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
threads_are_left_behind = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


def run(program: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    ).stdout


def code_of(child: int) -> int:
    """Wait for a forked process; return its exit code."""
    ended = eventually(lambda: (found := os.waitpid(child, os.WNOHANG))[0] and found)
    return os.waitstatus_to_exitcode(ended[1])


@forks
def test_a_forked_child_makes_ids_of_its_own() -> None:
    printed = run("""
        import os
        from melange.messages import new_uuid
        new_uuid()  # reads ahead
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(*[new_uuid() for _ in range(200)], sep="\\n", flush=True)
    """)

    ids = printed.split()
    assert len(ids) == len(set(ids)) == 400


@forks
@threads_are_left_behind
def test_a_forked_process_publishes_with_threads_of_its_own(driver) -> None:
    publisher = ExchangeMessagePublisher("products", driver, gather=Gathering(linger_seconds=0))
    publisher.publish(EVENT)

    child = os.fork()
    if child == 0:
        os._exit(0 if publisher.publish(EVENT, message_id="child") == "child" else 1)

    assert code_of(child) == 0


@pytest.fixture
def service(driver):
    """Answer requests in a thread, until the test ends."""
    consumer = ExchangeMessageConsumer("pricing", driver=driver, queue=QueueOptions(wait_seconds=1))
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            consumer.consume_event()

    consumer.listener(name="price")(lambda event: reply({"event_type_name": "PriceGiven"}, driver))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield consumer
    stopping.set()
    driver.end_waits(consumer.queue)
    thread.join()


def reply_queues(driver) -> list[str]:
    return [queue.name for queue in driver.inspection().tagged_queues("melange-reply-queue", "true")]


@forks
@threads_are_left_behind
def test_a_forked_process_receives_its_replies_by_a_queue_of_its_own(driver, service) -> None:
    requester = Requester("pricing", driver)
    requester.ask(EVENT, timeout_seconds=DEADLINE_SECONDS)
    of_parent = reply_queues(driver)

    child = os.fork()
    if child == 0:
        with suppress(NoReplyError):  # nothing answers here: the service has stayed in the parent
            requester.ask(EVENT, timeout_seconds=0.1)
        requester.close()
        os._exit(0 if reply_queues(driver) == of_parent else 1)

    assert code_of(child) == 0
    requester.close()


def test_a_running_consumer_does_not_keep_the_process_from_exiting() -> None:
    run("""
        from melange import DriverManager, ThreadedExchangeMessageConsumer
        DriverManager.instance().use_driver(driver_name="memory")
        consumer = ThreadedExchangeMessageConsumer("stock", "products")
        consumer.listener()(print)
        consumer.start()
    """)
