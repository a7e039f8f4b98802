"""Relays on SQLite in processes of their own, signalled and killed."""

from __future__ import annotations

import logging
import signal

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_with_0_on_a_signal(database, start_process, eventually, number) -> None:
    database.write("a0", "a1")
    process = start_process()
    eventually(lambda: database.states == ["sent"] * 2)

    code = process.end(number)

    assert code == 0
    assert process.published == ["a0", "a1"]
    assert process.said("the relay has stopped")


def test_a_second_relay_on_standby_and_takes_over_when_the_first_is_killed(
    database, start_process, start_relay, driver, eventually, caplog
) -> None:
    caplog.set_level(logging.INFO, "melange")
    first = start_process()
    database.write("a0")
    eventually(lambda: database.states == ["sent"])
    second = start_relay()
    eventually(lambda: "on standby" in caplog.text)
    database.write("a1")
    eventually(lambda: database.states == ["sent"] * 2)
    stood_by, ready = second.health().on_standby, second.health().ready

    code = first.end(signal.SIGKILL)
    database.write("a2")

    eventually(lambda: driver.accepted == ["a2"])
    assert (code, stood_by, ready) == (-signal.SIGKILL, True, True)
    assert first.published == ["a0", "a1"]
    assert not second.health().on_standby
    assert caplog.text.count("on standby") == 1


def test_the_queue_of_a_relay_that_was_killed_in_the_middle_is_complete_and_in_order(
    database, start_process, eventually
) -> None:
    names = [f"a{number}" for number in range(300)]
    published = []
    for start in range(0, 300, 100):
        database.write(*names[start : start + 100])
        process = start_process(20)
        eventually(lambda process=process: len(process.published) > 25)
        process.end(signal.SIGKILL)
        published += process.published
    last = start_process()
    eventually(lambda: database.states == ["sent"] * 300)
    last.end(signal.SIGTERM)
    published += last.published

    assert list(dict.fromkeys(published)) == names
    assert len(published) <= 300 + 3 * 20
