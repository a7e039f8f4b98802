"""What relays make of messages that are refused for good, and of what is decided about those."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from melange.outbox import OutboxAdministration
from outbox_behaviours.drivers import REFUSAL, raising


class RefusalBehaviours:
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
                decider.join(0.1)  # on PostgreSQL it has to wait for the relay

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
