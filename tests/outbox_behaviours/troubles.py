"""What relays make of brokers that do not take messages for a while."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import text

import waiting
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverClosedError,
    DriverConnectionError,
    InvalidMessageError,
    TopicNotFoundError,
)
from melange.outbox import OutboxRelay
from outbox_behaviours.databases import TOPIC
from outbox_behaviours.drivers import OUTAGE, raising


class TroubleBehaviours:
    @pytest.mark.parametrize("order", [1, -1])
    def test_an_entry_that_fails_among_others_is_tried_again_and_its_key_waits(
        self, database, driver, start_relay, eventually, order
    ):
        database.write(*["a0", "a1", "b0", "c0", "b1"][::order])
        failing = ["a0"] * 3 if order == 1 else ["a1"] * 3
        driver.judge = lambda topic, name: OUTAGE if name in failing and failing.pop() else None

        start_relay()

        eventually(lambda: len(driver.accepted) == 5)
        assert [name for name in driver.accepted if name[0] == "a"] == ["a0", "a1"][::order]
        eventually(lambda: database.states == ["sent"] * 5)

    def test_a_backlog_does_not_use_up_the_attempts_of_an_entry_that_fails_for_a_moment(
        self, database, driver, start_relay
    ):
        database.write("a0", *(f"-{number}" for number in range(300)))
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None

        start_relay(batch_size=10)

        waiting.eventually(lambda: len(driver.accepted) == 300)  # and no time passes
        waiting.eventually(lambda: database.states.count("pending") == 1)
        assert database.column("attempts")[0] == 1

    def test_an_entry_that_goes_on_failing_among_others_is_set_aside(self, database, driver, relay_pending):
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None
        database.write("a0", "a1")

        for number in range(3):
            assert database.states[:2] == ["pending", "pending"]
            database.write(f"b{number}")
            with contextlib.suppress(DriverConnectionError):
                relay_pending(max_attempts=3)

        assert driver.accepted == ["b0", "b1", "b2"]
        assert database.states[:2] == ["failed", "held"]
        assert database.column("attempts")[0] == 3
        assert database.column("error")[0] == "DriverConnectionError: no answer"

    def test_an_entry_that_fails_alone_is_held_against_nobody_and_does_not_spin(
        self, database, driver, clock, start_relay, eventually, caplog
    ):
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None
        database.write("a0")
        start_relay(max_attempts=1)

        for tries in range(1, 6):
            eventually(lambda tries=tries: caplog.text.count("is in trouble") >= tries)
            database.write("a1")
            clock.advance(0.1)
            assert len(driver.calls) == tries
            clock.advance(60)

        assert database.column("attempts")[0] == 0
        driver.judge = lambda topic, name: None
        clock.advance(60)
        eventually(lambda: len(driver.accepted) == 6)

    @pytest.mark.parametrize(
        "error",
        [
            OUTAGE,
            AccessDeniedError("not you"),
            TopicNotFoundError("broken"),
            ConfigurationError("no usable AWS region"),
            KeyError("a bug of the driver"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_trouble_with_a_topic_pauses_that_one_until_it_is_over(
        self, database, driver, clock, start_relay, eventually, error
    ):
        driver.judge = lambda topic, name: raising(error) if topic == "broken" else None
        database.write("a0", "a1", "b0", topic="broken")
        database.write("a2", "a3", topic="whole")
        start_relay()

        waiting.eventually(lambda: driver.accepted == ["a2", "a3"])
        database.write("a4", topic="whole")
        clock.advance(0.1)
        waiting.eventually(lambda: driver.accepted == ["a2", "a3", "a4"])
        waiting.eventually(lambda: database.states == ["pending"] * 3 + ["sent"] * 3)
        driver.judge = lambda topic, name: None
        clock.advance(60)

        eventually(lambda: database.states == ["sent"] * 6)
        assert driver.accepted[3:] == ["a0", "b0", "a1"]
        assert database.column("attempts") == [0] * 6

    def test_a_driver_that_is_set_up_wrong_is_held_against_no_message(
        self, database, driver, relay_pending, monkeypatch
    ):
        database.write("a0")
        wrong = ConfigurationError("no usable AWS region")
        monkeypatch.setattr(driver, "declare_topic", lambda name: raising(wrong))

        with pytest.raises(ConfigurationError, match="no usable AWS region"):
            relay_pending()

        assert database.states == ["pending"]

    def test_a_topic_that_was_deleted_is_not_made_again_without_its_subscriptions(
        self, database, driver, start_relay, eventually
    ):
        database.write("a0")
        relay = start_relay()
        eventually(lambda: driver.accepted == ["a0"])
        driver.delete_topic(driver.get_topic(TOPIC))

        database.write("a1")

        eventually(lambda: TOPIC in relay.health().troubles)
        assert database.states == ["sent", "pending"]
        driver.declare_queue("stock", driver.declare_topic(TOPIC))
        eventually(lambda: driver.accepted == ["a0", "a1"])

    def test_a_name_that_no_topic_can_have_fails_its_messages(self, database, driver, relay_pending):
        database.write("a0", "a1")
        with database.engine.begin() as connection:  # an outbox refuses it; a program of another kind may not
            connection.execute(text("UPDATE melange_outbox SET topic = 'no such name' WHERE id = 1"))

        relay_pending()

        assert driver.accepted == ["a1"]
        assert database.states == ["failed", "sent"]
        assert "no such name" in database.column("error")[0]

    def test_a_topic_that_it_creates_is_told_about_for_nobody_is_bound_to_it(
        self, database, relay_pending, caplog
    ):
        database.write("a0", topic="mistyped")

        relay_pending()
        relay_pending()

        told = [record.getMessage() for record in caplog.records if "mistyped" in record.getMessage()]
        assert len(told) == 1
        assert "did not exist and was created" in told[0]

    def test_a_topic_that_is_not_there_waits_for_it_unless_it_is_declared(
        self, database, driver, relay_pending
    ):
        database.write("a0")

        with pytest.raises(TopicNotFoundError, match=TOPIC):
            relay_pending(declare=False)
        assert database.states == ["pending"]
        driver.declare_topic(TOPIC)

        assert relay_pending(declare=False) == 1

    def test_what_was_published_before_the_driver_was_closed_is_marked(self, database, driver):
        database.write("a0", "a1", "a2")
        driver.judge = lambda topic, name: raising(DriverClosedError()) if name == "a2" else None

        exit_code = OutboxRelay(database.engine, driver, handle_signals=False).run()

        assert exit_code == 1
        assert database.states == ["sent", "sent", "pending"]

    def test_an_error_that_no_database_takes_as_text_is_written_all_the_same(
        self, database, driver, relay_pending
    ):
        database.write("a0", "b0")
        odd = InvalidMessageError("\ud800 \0 " + "x" * 5_000)
        driver.judge = lambda topic, name: odd if name == "a0" else None

        relay_pending()

        assert database.states == ["failed", "sent"]
        assert database.column("error")[0].startswith("InvalidMessageError: ?  xxx")
