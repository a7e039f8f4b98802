"""`melange outbox relay`: which relay it runs, and how it ends."""

import io
import sys

import pytest

from melange import DriverClosedError, DriverManager
from melange.cli.terminal import progress
from melange.drivers.memory import InMemoryDriver
from melange.outbox.tables import MessageState

SHOP = """
import os
from sqlalchemy import create_engine
from melange.drivers.memory import InMemoryDriver
from melange.outbox import OutboxRelay

driver = InMemoryDriver()
queue = driver.declare_queue("billing", driver.declare_topic("orders"))
engine = create_engine(os.environ["DATABASE_URL"])
relay = OutboxRelay(engine, driver)
stopped = OutboxRelay(engine, driver)
stopped.stop()
undeclared = OutboxRelay(engine, InMemoryDriver(), declare=False)

def new(): return OutboxRelay(engine, driver)
def nothing(): return None
"""


@pytest.fixture(autouse=True)
def shop(write, engine):
    write("shop.py", SHOP)
    yield
    if "shop" in sys.modules:
        sys.modules["shop"].engine.dispose()


@pytest.mark.parametrize("attribute", ["relay", "new"])
def test_until_empty_it_publishes_what_is_pending_with_the_relay_of_the_program(
    run, add, states, attribute
) -> None:
    ids = [add() for _ in range(3)]

    result = run("outbox", "relay", f"shop:{attribute}", "--until-empty")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "published 3 messages" in result.stderr
    assert states() == dict.fromkeys(ids, MessageState.SENT)
    assert len(sys.modules["shop"].driver.receive(sys.modules["shop"].queue, 10, 0)) == 3


def test_without_a_program_the_url_says_which_outbox_and_the_name_which_driver(run, add, states) -> None:
    id_ = add()
    drivers = []
    DriverManager.instance().add_available_drivers(
        kept=lambda: drivers.append(InMemoryDriver()) or drivers[-1]
    )

    result = run("outbox", "relay", "--driver", "kept", "--batch-size", "7", "--until-empty")

    assert result.exit_code == 0
    assert states() == {id_: MessageState.SENT}
    with pytest.raises(DriverClosedError):
        drivers[0].get_topic("orders")


def test_a_relay_that_stops_cleanly_ends_with_0(run) -> None:
    result = run("outbox", "relay", "shop:stopped")

    assert result.exit_code == 0
    assert "the relay has stopped" in result.stderr


def test_a_topic_that_takes_nothing_makes_until_empty_end_with_1(run, add, states) -> None:
    id_ = add("orders")

    result = run("outbox", "relay", "shop:undeclared", "--until-empty")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert states() == {id_: MessageState.PENDING}


@pytest.mark.parametrize(
    "arguments",
    [
        ["shop:relay", "--database-url", "sqlite:///shop.db"],
        ["shop:relay", "--driver", "aws"],
        ["shop:relay", "--batch-size", "10"],
        ["shop:relay", "--poll-seconds", "1"],
        ["shop:relay", "--until-empty", "--health-file", "health"],
        ["shop:relay", "--health-file", "no/such/directory/health"],
        ["shop:relay", "--log-level", "loud"],
        ["shop:rely"],
        ["shop:engine"],
        ["shop:nothing"],
        ["shop:OutboxRelay"],
        ["--until-empty", "--poll-seconds", "1"],
        ["--batch-size", "0"],
        ["--batch-size", "1001"],
        ["--poll-seconds", "0"],
        ["--poll-seconds", "nan", "--driver", "kept"],
        ["--driver", "memory"],
        ["--driver", "nobody-has-it"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_one_complaint(run, add, states, arguments) -> None:
    id_ = add()
    DriverManager.instance().add_available_drivers(kept=InMemoryDriver)

    result = run("outbox", "relay", *arguments)

    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert states() == {id_: MessageState.PENDING}


def test_a_failure_inside_the_program_is_shown_from_where_the_program_begins(run, write) -> None:
    write("broken.py", "def relay():\n    return 1 / 0\n")

    result = run("outbox", "relay", "broken:relay")

    assert result.exit_code == 1
    assert 'broken.py", line 2, in relay\n' in result.stderr
    assert "melange/cli" not in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "is_shown"), [(Terminal(), True), (io.StringIO(), False)], ids=["terminal", "file"]
)
def test_progress_is_shown_on_terminals_only(monkeypatch, stream, is_shown) -> None:
    monkeypatch.setattr(sys, "stderr", stream)

    with progress("Relaying", 2) as advance:
        advance(2)

    assert ("Relaying" in stream.getvalue()) == is_shown


def test_messages_that_were_refused_make_until_empty_end_with_1(run, add, states) -> None:
    refused, sent = add(body="", key="a"), add()

    result = run("outbox", "relay", "shop:relay", "--until-empty")

    assert result.exit_code == 1
    assert "see `melange outbox failed`" in result.stderr
    assert states() == {refused: MessageState.FAILED, sent: MessageState.SENT}


def test_without_declaring_a_topic_that_is_not_there_is_waited_for(run, add, states) -> None:
    id_ = add("mistyped")
    DriverManager.instance().add_available_drivers(kept=InMemoryDriver)

    result = run("outbox", "relay", "--driver", "kept", "--no-declare", "--until-empty")

    assert result.exit_code == 1
    assert "topic 'mistyped' does not exist" in result.stderr
    assert states() == {id_: MessageState.PENDING}
