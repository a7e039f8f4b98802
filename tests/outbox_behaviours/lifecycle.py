"""How relays are started, stopped and run once, and what they say."""

from __future__ import annotations

import logging
import threading

import pytest
from sqlalchemy.orm import Session

from melange.errors import (
    ConfigurationError,
    DriverConnectionError,
    DriverError,
    InvalidMessageError,
    NoDriverError,
    OutboxError,
)
from melange.outbox import Outbox, OutboxAdministration, OutboxRelay, metadata
from melange.outbox import relay_batch as batch
from outbox_behaviours.databases import named
from outbox_behaviours.drivers import OUTAGE, out_of_order, raising


class PendingBehaviours:
    def test_it_says_how_many_left_and_does_nothing_twice(self, database, relay_pending):
        database.write("a0", "b0", "-0")

        assert relay_pending() == 3
        assert relay_pending() == 0

    def test_what_can_go_has_gone_when_it_says_what_could_not(self, database, driver, relay_pending):
        database.write("a0", topic="broken")
        database.write(*(f"b{number}" for number in range(25)))
        driver.judge = lambda topic, name: raising(OUTAGE) if topic == "broken" else None

        with pytest.raises(DriverConnectionError, match="no answer"):
            relay_pending(batch_size=5)

        assert len(driver.accepted) == 25

    def test_an_entry_that_fails_among_others_is_told_too(self, database, driver, relay_pending):
        database.write("a0", "a1", *(f"b{number}" for number in range(25)))
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None

        with pytest.raises(DriverConnectionError, match="no answer"):
            relay_pending(batch_size=5)

        assert driver.accepted == [f"b{number}" for number in range(25)]

    def test_a_bug_of_the_driver_is_told_as_a_driver_s_error(self, database, driver, relay_pending):
        database.write("a0")
        driver.judge = lambda topic, name: raising(KeyError("bug"))

        with pytest.raises(DriverError, match="the driver failed with KeyError"):
            relay_pending()

    def test_without_the_table_the_error_says_how_to_make_it(self, database, relay_pending):
        metadata.drop_all(database.engine)

        with pytest.raises(OutboxError, match=r"melange outbox schema.*metadata.create_all"):
            relay_pending()
        with pytest.raises(OutboxError, match=r"melange outbox schema"):
            OutboxAdministration(database.engine).status()

    def test_without_a_driver_it_says_so(self, database):
        with pytest.raises(NoDriverError):
            OutboxRelay(database.engine).relay_pending()


class LifecycleBehaviours:
    def test_a_relay_waits_for_its_table_and_says_how_to_make_it(
        self, database, driver, start_relay, eventually, caplog
    ):
        caplog.set_level(logging.WARNING, "melange")
        metadata.drop_all(database.engine)
        start_relay()
        eventually(lambda: "melange outbox schema" in caplog.text)

        metadata.create_all(database.engine)
        database.write("a0")

        eventually(lambda: driver.accepted == ["a0"])

    def test_it_stops_at_once_during_an_outage_of_the_broker(self, database, driver, start_relay, eventually):
        database.write("a0")
        driver.judge = lambda topic, name: raising(OUTAGE)
        relay = start_relay(poll_seconds=60)
        eventually(lambda: driver.calls)

        assert relay.stop(10)

    def test_it_stops_at_once_during_an_outage_of_the_database(
        self, database, driver, start_relay, eventually, caplog
    ):
        metadata.drop_all(database.engine)
        relay = start_relay(poll_seconds=60)
        eventually(lambda: caplog.text.count("trying again") >= 3)

        assert relay.stop(10)

    def test_it_finishes_its_batch_before_it_stops(self, database, driver, start_relay, eventually):
        database.write(*(f"a{number}" for number in range(20)))
        reached, go_on = threading.Event(), threading.Event()

        def wait(topic, name):
            reached.set()
            assert go_on.wait(30)

        driver.judge = wait
        relay = start_relay(batch_size=5)
        assert reached.wait(30)

        in_time = relay.stop(0)
        go_on.set()

        assert not in_time
        assert relay.stop(30)
        assert database.states == ["sent"] * 5 + ["pending"] * 15

    def test_what_a_slow_broker_has_taken_is_marked_before_it_is_given_more(
        self, database, driver, relay_pending, monkeypatch
    ):
        monkeypatch.setattr(batch, "PUBLISHING_SECONDS", 0.0)
        database.write("a0", "b0", "a1", "a2")
        marked = []
        driver.judge = lambda topic, name: marked.append(database.states.count("sent"))

        count = relay_pending()

        assert count == 4
        assert out_of_order(driver.accepted) == []
        assert marked == [0, 0, 2, 3]  # the first two travel together

    def test_a_slow_topic_that_takes_nothing_leaves_the_others_their_turn(
        self, database, driver, relay_pending, monkeypatch
    ):
        monkeypatch.setattr(batch, "PUBLISHING_SECONDS", 0.0)
        database.write("a0", topic="away")
        database.write("b0")
        driver.judge = lambda topic, name: raising(OUTAGE) if topic == "away" else None

        with pytest.raises(DriverConnectionError):
            relay_pending()

        assert driver.accepted == ["b0"]

    def test_it_runs_once(self, database, driver, start_relay):
        relay = start_relay()

        with pytest.raises(ConfigurationError, match="a relay runs once"):
            relay.start()
        with pytest.raises(ConfigurationError, match="a relay runs once"):
            relay.run()
        assert relay.stop(30)
        assert relay.stop()
        with pytest.raises(ConfigurationError, match="a relay runs once"):
            relay.start()

    def test_stopped_before_it_was_started_it_ends_at_once(self, database, driver):
        relay = OutboxRelay(database.engine, driver)

        assert relay.stop()
        assert relay.run() == 0

    def test_run_ends_with_1_when_the_driver_was_closed(self, database, driver):
        database.write("a0")
        driver.close()
        relay = OutboxRelay(database.engine, driver, handle_signals=False)

        assert relay.run() == 1
        assert database.states == ["pending"]

    def test_without_a_driver_it_does_not_start_and_can_later(self, database, driver):
        relay = OutboxRelay(database.engine)

        with pytest.raises(NoDriverError):
            relay.start()

        assert relay.stop(0)

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 0},
            {"batch_size": 1_001},
            {"max_attempts": 0},
            {"poll_seconds": 0},
            {"poll_seconds": 3_601},
            {"poll_seconds": float("nan")},
            {"keep_sent_seconds": -1},
            {"keep_sent_seconds": float("inf")},
        ],
        ids=str,
    )
    def test_numbers_out_of_bounds_are_refused(self, database, driver, options):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            OutboxRelay(database.engine, driver, **options)

    def test_nothing_is_left_when_it_has_stopped(self, database, driver, start_relay, eventually):
        relay = start_relay()
        database.write("a0")
        eventually(lambda: driver.accepted)

        relay.stop(30)

        assert database.engine.pool.checkedout() == 0

    def test_the_pool_is_not_used_up_by_many_batches(self, database, driver, relay_pending):
        database.write(*(f"-{number}" for number in range(100)))

        relay_pending(batch_size=1)

        assert database.engine.pool.checkedout() == 0
        assert database.engine.pool.checkedin() <= 2


class LoggingBehaviours:
    def test_neither_payload_nor_password_is_logged_and_control_characters_are_escaped(
        self, database, driver, start_relay, eventually, caplog
    ):
        caplog.set_level(logging.DEBUG, "melange")
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            for name in ("refused", "failed", "accepted", "bug"):
                outbox.publish(
                    "orders" if name != "bug" else "broken",
                    {**named(name), "card": "S3CRET"},
                    key=name,
                    headers={"authorization": "S3CRET"},
                )

        def judge(topic, name):
            if name == "bug":
                raise LookupError("line\nfeed")
            return {
                "refused": InvalidMessageError("\x1b[31m\nrefused"),
                "failed": DriverError("\x1b[32m\nfailed"),
            }.get(name)

        driver.judge = judge
        start_relay()
        eventually(lambda: "is in trouble" in caplog.text and database.states.count("failed"))

        assert "S3CRET" not in caplog.text
        assert "\x1b" not in caplog.text
        assert all("\n" not in record.getMessage() for record in caplog.records)
