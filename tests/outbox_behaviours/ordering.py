"""In which order messages leave, and in which calls."""

from __future__ import annotations

import random

from sqlalchemy import text
from sqlalchemy.orm import Session

from outbox_behaviours.drivers import REFUSAL, out_of_order


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
        assert out_of_order(driver.accepted) == []
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
        assert out_of_order(driver.accepted) == []
