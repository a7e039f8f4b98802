"""`melange outbox` as real processes, on a database file and a local SNS+SQS server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from melange.messages import Queue
from melange.outbox import Outbox, OutboxMessage, metadata
from melange.outbox.tables import MessageState
from waiting import eventually

DEADLINE_SECONDS = 60
COMMAND = [sys.executable, "-m", "melange.cli", "outbox"]


@pytest.fixture
def topic_name() -> str:
    return f"outbox-process-{uuid4().hex}"


@pytest.fixture
def queue(driver, topic_name) -> Queue:
    return driver.declare_queue(topic_name, driver.declare_topic(topic_name))


@pytest.fixture
def engine(tmp_path, monkeypatch, sns_sqs_server) -> Iterator[Engine]:
    """Make an outbox, and an environment that names it and the server."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sns_sqs_server)
    engine = create_engine(url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def publish(engine, topic_name) -> Callable[[int], set[str]]:
    """Commit a transaction that publishes so many events; return their message ids."""

    def publish_events(count: int) -> set[str]:
        with Session(engine) as session, session.begin():
            return {
                Outbox(session).publish(
                    topic_name, {"event_type_name": "Work", "number": number}, key=number % 3
                )
                for number in range(count)
            }

    return publish_events


@pytest.fixture
def start(tmp_path, engine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``melange outbox``; what is left at the end is killed."""
    processes = []

    def start_process(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True
            )
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


def test_a_relay_publishes_what_is_committed_while_it_runs_and_sigterm_ends_it_with_0(
    start, publish, driver, queue, tmp_path
) -> None:
    health, log = tmp_path / "health", tmp_path / "log"
    relay = start("relay", "--health-file", str(health), "--log-format", "json")
    wait_until(health.exists, relay, log)
    message_ids = publish(25)
    received: set[str] = set()

    def has_received_all() -> bool:
        deliveries = driver.receive(queue, 10, 1)
        received.update(delivery.message.message_id for delivery in deliveries)
        return received >= message_ids

    wait_until(has_received_all, relay, log)
    relay.send_signal(signal.SIGTERM)
    relay.communicate(timeout=DEADLINE_SECONDS)

    assert relay.returncode == 0, log.read_text()
    assert received == message_ids
    assert not health.exists()
    assert output_of(start("status")) == "nothing waits\n"


INTERRUPTED = """
import os, signal
from sqlalchemy import create_engine
from melange.drivers.memory import InMemoryDriver
from melange.outbox import OutboxRelay

class Interrupting(InMemoryDriver):
    def publish(self, topic, messages):
        signal.raise_signal(signal.SIGTERM)
        return super().publish(topic, messages)

relay = OutboxRelay(create_engine(os.environ["DATABASE_URL"]), Interrupting(), batch_size=1)
"""


def test_a_signal_ends_until_empty_after_the_batch_in_hand(start, publish, engine, tmp_path) -> None:
    (tmp_path / "shop.py").write_text(INTERRUPTED)
    publish(2)

    relay = start("relay", "shop:relay", "--until-empty")
    relay.communicate(timeout=DEADLINE_SECONDS)

    log = (tmp_path / "log").read_text()
    with Session(engine) as session:
        states = session.scalars(select(OutboxMessage.state).order_by(OutboxMessage.id)).all()
    assert (relay.returncode, states) == (1, [MessageState.SENT, MessageState.PENDING]), log
    assert "stopped before the outbox was empty" in log


def test_what_was_refused_is_shown_then_skipped_and_what_it_held_goes_on(
    start, engine, driver, queue
) -> None:
    with Session(engine) as session, session.begin():
        outbox = Outbox(session, max_message_bytes=1_000_000)
        outbox.publish("too-small", {"event_type_name": "Work", "load": "x" * 300_000}, key=1)

    relay = start("relay", "--until-empty")
    relay.communicate(timeout=DEADLINE_SECONDS)
    assert relay.returncode == 1  # something is left to be decided about
    assert "MessageTooLargeError" in output_of(start("failed"))
    assert output_of(start("skip", "1", "--yes")) == "1 message skipped\n"
    assert output_of(start("purge", "--older-than", "0s")) == "1 message deleted\n"


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    return output


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], log: Path) -> None:
    def holds() -> object:
        assert process.poll() is None, log.read_text()
        return condition()

    eventually(holds, timeout_seconds=DEADLINE_SECONDS, explain=log.read_text)
