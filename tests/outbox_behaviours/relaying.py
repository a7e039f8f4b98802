"""In which order messages leave, and what relays make of brokers that do not take them."""

from __future__ import annotations

import contextlib
import logging
import random
import threading

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverClosedError,
    DriverConnectionError,
    DriverError,
    InvalidMessageError,
    NoDriverError,
    OutboxError,
    TopicNotFoundError,
)
from melange.outbox import Outbox, OutboxAdministration, OutboxRelay, batch, metadata
from melange.testing import ManualClock
from outbox_behaviours.databases import TOPIC, named
from outbox_behaviours.drivers import JudgingDriver

REFUSAL = InvalidMessageError("not this one")
OUTAGE = DriverConnectionError("no answer")


def raising(error):
    raise error


def in_order(names):
    """Tell whether the numbers of each key, its letter, ascend without a gap from 0."""
    seen: dict[str, int] = {}
    return all(int(name[1:]) == seen.setdefault(name[0], -1) + 1 and bump(seen, name) for name in names)


def bump(seen, name):
    seen[name[0]] += 1
    return True


class OrderBehaviours:
    def test_the_order_of_a_key_is_kept_over_batches_topics_and_calls(self, database, driver, relay_pending):
        keys = random.Random(4).choices("abcdefgh", k=300)
        counts = dict.fromkeys("abcdefgh", 0)
        names = []
        for key in keys:
            names.append(f"{key}{counts[key]}")
            counts[key] += 1
        for start in range(0, 300, 30):
            database.write(*names[start : start + 30])

        sent = relay_pending(batch_size=7)

        assert sent == 300
        assert in_order(driver.accepted)
        assert database.states == ["sent"] * 300

    def test_no_two_of_a_key_travel_in_one_call_and_others_travel_together(
        self, database, driver, relay_pending
    ):
        database.write("a0", "a1", "b0", "-0", "-1", "c0", "c1", "a2")

        relay_pending()

        assert driver.calls == [["a0", "b0", "-0", "-1", "c0"], ["a1", "c1"], ["a2"]]

    def test_what_has_no_key_travels_ten_at_a_time(self, database, driver, relay_pending):
        database.write(*(f"-{number}" for number in range(25)))

        relay_pending()

        assert [len(call) for call in driver.calls] == [10, 10, 5]

    def test_one_key_of_two_topics_is_two(self, database, driver, relay_pending):
        database.write("a0", topic="one")
        database.write("a1", topic="other")
        driver.judge = lambda topic, name: REFUSAL if topic == "one" else None

        relay_pending()

        assert driver.accepted == ["a1"]

    def test_what_commits_late_is_sent_though_later_ones_have_gone(self, database, driver, relay_pending):
        """A sequence gives ids before transactions end: relays must not look only behind the last one."""
        with Session(database.engine) as session:
            session.execute(text("DELETE FROM melange_outbox"))
            session.commit()
        database.write("a0", "a1", "a2")
        relay_pending()
        with Session(database.engine) as session, session.begin():
            session.execute(text("UPDATE melange_outbox SET state = 'pending', done_at = NULL WHERE id = 2"))

        relay_pending()

        assert driver.accepted == ["a0", "a1", "a2", "a1"]

    def test_a_message_of_fifo_has_its_key_as_group_and_its_id_to_be_known_by(
        self, database, driver, relay_pending
    ):
        queue = driver.declare_queue("stock.fifo", driver.declare_topic("orders.fifo"))
        database.write("a0", "a1", "b0", topic="orders.fifo")
        relay_pending()
        with Session(database.engine) as session, session.begin():
            session.execute(text("UPDATE melange_outbox SET state = 'pending', done_at = NULL"))

        relay_pending()

        groups = [message.message_group_id for message in driver.messages]
        assert groups == ["a", "b", "a"] * 2
        assert all(message.message_deduplication_id == message.message_id for message in driver.messages)
        assert driver.measure_queue(queue).visible == 3

    def test_a_relay_in_the_background_keeps_the_order_of_what_is_written_meanwhile(
        self, database, driver, start_relay, eventually
    ):
        start_relay(batch_size=3)

        for number in range(60):
            database.write(f"a{number}", f"b{number}")

        eventually(lambda: len(driver.accepted) >= 120)
        assert len(driver.accepted) == 120
        assert in_order(driver.accepted)


class TroubleBehaviours:
    def test_what_is_refused_for_good_stops_its_key_alone(self, database, driver, relay_pending):
        database.write("a0", "a1", "b0", "a2", "-0", "b1")
        driver.judge = lambda topic, name: REFUSAL if name in {"a0", "-0"} else None

        sent = relay_pending()

        assert sent == 2
        assert driver.accepted == ["b0", "b1"]
        assert database.states == ["failed", "held", "sent", "held", "failed", "sent"]
        assert database.column("error")[0] == "InvalidMessageError: not this one"

    def test_a_driver_that_refuses_the_whole_call_is_asked_for_each(self, database, driver, relay_pending):
        database.write("a0", "b0", "c0", "a1", "b1")
        driver.judge = lambda topic, name: raising(REFUSAL) if name == "b0" else None

        relay_pending()

        assert driver.accepted == ["a0", "c0", "a1"]
        assert database.states == ["sent", "failed", "sent", "sent", "held"]

    def test_what_comes_after_a_failed_message_is_held_also_when_it_comes_later(
        self, database, driver, relay_pending
    ):
        database.write("a0")
        driver.judge = lambda topic, name: REFUSAL if name == "a0" else None
        relay_pending()
        database.write("a1", "b0")

        relay_pending()

        assert driver.accepted == ["b0"]
        assert database.states == ["failed", "held", "sent"]

    def test_retried_it_goes_before_what_its_key_holds(self, database, driver, relay_pending):
        database.write("a0", "a1", "a2")
        driver.judge = lambda topic, name: REFUSAL if name == "a0" else None
        relay_pending()
        driver.judge = lambda topic, name: None

        retried = OutboxAdministration(database.engine).retry()
        database.write("a3")
        relay_pending()

        assert retried == 1
        assert driver.accepted == ["a0", "a1", "a2", "a3"]
        assert database.column("error")[0] is None

    def test_retried_in_vain_it_holds_them_again(self, database, driver, relay_pending):
        database.write("a0", "a1")
        driver.judge = lambda topic, name: REFUSAL if name == "a0" else None
        relay_pending()

        OutboxAdministration(database.engine).retry()
        relay_pending()

        assert database.states == ["failed", "held"]
        assert driver.accepted == []

    def test_skipped_it_never_leaves_and_its_key_goes_on(self, database, driver, relay_pending):
        database.write("a0", "a1", "a2", "b0", "b1")
        driver.judge = lambda topic, name: REFUSAL if name in {"a0", "b0"} else None
        relay_pending()

        skipped = OutboxAdministration(database.engine).skip([1])
        relay_pending()

        assert skipped == 1
        assert driver.accepted == ["a1", "a2"]
        assert database.states == ["skipped", "sent", "sent", "failed", "held"]

    @pytest.mark.parametrize("decide", ["retry", "skip"])
    def test_decided_while_a_relay_is_at_work(self, database, driver, start_relay, eventually, decide):
        database.write(*(f"a{number}" for number in range(30)))
        refused = {"a0"}
        driver.judge = lambda topic, name: REFUSAL if name in refused else None
        start_relay(batch_size=4)
        eventually(lambda: database.states.count("held") == 29)
        refused.clear()

        getattr(OutboxAdministration(database.engine), decide)([1])
        database.write("a30")

        expected = [f"a{number}" for number in range(0 if decide == "retry" else 1, 31)]
        eventually(lambda: len(driver.accepted) >= len(expected))
        assert driver.accepted == expected

    @pytest.mark.parametrize("decide", ["retry", "skip"])
    def test_a_decision_in_the_middle_of_a_relay_s_look_frees_nothing_out_of_order(
        self, database, driver, relay_pending, decide
    ):
        """Decided between any two statements of the relay."""
        for pause_after in range(6):
            with Session(database.engine) as session, session.begin():
                session.execute(text("DELETE FROM melange_outbox"))
            driver.accepted.clear()
            driver.judge = lambda topic, name: REFUSAL if name == "a0" else None
            database.write("a0", "a1")
            relay_pending()
            driver.judge = lambda topic, name: None
            database.write("a2")
            decided = self._decide_after(database, decide, pause_after)

            relay_pending()
            decided.join()
            relay_pending()

            assert driver.accepted == (["a0"] if decide == "retry" else []) + ["a1", "a2"]

    def _decide_after(self, database, decide, statements):
        """Decide in another thread after so many statements of this one, and give it time to."""
        count = 0
        mine = threading.current_thread()
        administration = OutboxAdministration(database.engine)

        def run():
            getattr(administration, decide)(database.ids_of("failed"))

        decider = threading.Thread(target=run)

        def after_cursor_execute(*_):
            nonlocal count
            if threading.current_thread() is not mine:
                return
            count += 1
            if count > statements and decider.ident is None:
                decider.start()
                decider.join(0.3)  # on PostgreSQL it has to wait for the relay

        event.listen(database.engine, "after_cursor_execute", after_cursor_execute)
        join = decider.join

        def stop_listening(*arguments):
            if (
                event.contains(database.engine, "after_cursor_execute", after_cursor_execute)
                and not arguments
            ):
                event.remove(database.engine, "after_cursor_execute", after_cursor_execute)
            if decider.ident is None:
                decider.start()
            join(*arguments)

        decider.join = stop_listening
        return decider

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
        self, database, relay_pending, start_relay, eventually
    ):
        driver = JudgingDriver(clock=ManualClock())
        database.write("a0", *(f"-{number}" for number in range(300)))
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None

        start_relay(driver, batch_size=10)

        eventually(lambda: len(driver.accepted) == 300)
        eventually(lambda: database.states.count("pending") == 1)
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
        self, database, start_relay, eventually
    ):
        clock = ManualClock()
        driver = JudgingDriver(clock=clock)
        driver.judge = lambda topic, name: OUTAGE if name == "a0" else None
        database.write("a0")
        start_relay(driver, max_attempts=1, poll_seconds=0.001)

        for tries in range(1, 6):
            eventually(lambda tries=tries: len(driver.calls) >= tries)
            database.write("a1")
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
        self, database, start_relay, eventually, error
    ):
        clock = ManualClock()
        driver = JudgingDriver(clock=clock)
        driver.judge = lambda topic, name: raising(error) if topic == "broken" else None
        database.write("a0", "a1", "b0", topic="broken")
        database.write("a2", "a3", topic="whole")
        start_relay(driver)

        eventually(lambda: driver.accepted == ["a2", "a3"])
        database.write("a4", topic="whole")
        eventually(lambda: driver.accepted == ["a2", "a3", "a4"])
        eventually(lambda: database.states == ["pending"] * 3 + ["sent"] * 3)
        driver.judge = lambda topic, name: None
        clock.advance(60)

        eventually(lambda: database.states == ["sent"] * 6)
        assert driver.accepted[3:] == ["a0", "b0", "a1"]
        assert database.column("attempts") == [0] * 6

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
        assert in_order(driver.accepted)
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
        eventually(lambda: "takes nothing" in caplog.text and database.states.count("failed"))

        assert "S3CRET" not in caplog.text
        assert "\x1b" not in caplog.text
        assert all("\n" not in record.getMessage() for record in caplog.records)
