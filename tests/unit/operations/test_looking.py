"""Looking at dead letters: what is shown, how it is selected and grouped, and that nothing is taken."""

from datetime import timedelta

import pytest

from melange import ConfigurationError, ExchangeMessageConsumer, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.operations import DeadLetters, Selection

MANY = 45


class TestWhatIsShown:
    def test_a_dead_letter_of_a_consumer_says_why_and_where(self, consumer, publish, letters) -> None:
        @consumer.listener("OrderPlaced", name="bill")
        def bill(event):
            raise ConnectionError("the bank is closed")

        publish({"number": 1}, headers={"tenant": "north"})
        consumer.consume_event()

        (letter,) = letters.browse()

        assert letter.origin == "consumer"
        assert letter.reason == "attempt 1 of 1 failed: ConnectionError: the bank is closed"
        assert (letter.listener_name, letter.attempts, letter.queue_name) == ("bill", 1, "billing")
        assert letter.event_type_name == "OrderPlaced"
        assert letter.headers == {"tenant": "north"}
        assert letter.dead_since == consumer.driver.clock.now()
        assert letter.problem is None

    def test_what_the_broker_moved_by_itself_is_shown(self, driver, letters) -> None:
        queue = driver.declare_queue("billing", max_receive_count=1)
        driver.send(queue, [Message("m-1", '{"event_type_name":"OrderPlaced"}')])
        driver.defer(driver.receive(queue, 1, 0), 0)
        assert driver.receive(queue, 1, 0) == []

        (letter,) = letters.browse()

        assert letter.origin == "broker"
        assert letter.reason.startswith("moved by the broker")
        assert letter.event_type_name == "OrderPlaced"
        assert letter.dead_since == driver.clock.now()

    def test_messages_of_other_programs_are_shown(self, driver, letters) -> None:
        foreign = Message("m-1", "not json", headers={DEAD_LETTER_HEADER: "broken"})
        driver.send(letters.queue, [foreign, Message("m-2", "[1]")])

        first, second = sorted(letters.browse(), key=lambda letter: letter.message_id)

        assert (first.origin, first.reason) == ("unknown", "broken")
        assert first.problem.startswith("the body is not JSON")
        assert second.reason.startswith("no reason")
        assert second.problem == "the body is not an object"

    @pytest.mark.parametrize(
        "note", ["[]", '{"attempts":"x","listener":7,"rejected_at":"yesterday"}', "{" * 5_000]
    )
    def test_a_malformed_note_hides_nothing(self, driver, letters, note) -> None:
        driver.send(letters.queue, [Message("m-1", "{}", headers={DEAD_LETTER_HEADER: note})])

        (letter,) = letters.browse()

        assert letter.reason
        assert letter.attempts is letter.listener_name is None

    def test_payloads_are_not_in_its_representation(self, add, letters) -> None:
        add(body='{"card":"4111"}')

        (letter,) = letters.browse()

        assert "4111" not in repr(letter)


class TestLookingIsNotTaking:
    def test_each_message_is_seen_once_and_is_visible_again_afterwards(self, add, letters, ids_in) -> None:
        added = sorted(add() for _ in range(MANY))

        seen = sorted(letter.message_id for letter in letters.browse())

        assert seen == added
        assert ids_in("billing-dlq") == added

    def test_a_long_queue_is_seen_once_with_several_calls_at_once(self, add, letters, ids_in) -> None:
        added = sorted(add() for _ in range(450))

        seen = sorted(letter.message_id for letter in letters.browse())

        assert seen == added
        assert ids_in("billing-dlq") == added

    def test_messages_are_released_when_the_look_is_given_up(self, add, letters, ids_in) -> None:
        added = sorted(add() for _ in range(MANY))

        browsing = letters.browse()
        next(browsing)
        browsing.close()

        assert ids_in("billing-dlq") == added

    def test_leases_are_renewed_so_that_a_slow_look_sees_nothing_twice(self, clock, add, letters) -> None:
        added = sorted(add() for _ in range(MANY))

        seen = [letter.message_id for letter in letters.browse(on_progress=lambda _: clock.advance(29))]

        assert sorted(seen) == added

    def test_the_receive_count_rises(self, add, letters) -> None:
        add()
        list(letters.browse())

        (letter,) = letters.browse()

        assert letter.receive_count == 2

    def test_what_is_in_flight_elsewhere_is_counted_and_not_seen(self, driver, add, letters) -> None:
        add()
        driver.receive(letters.queue, 1, 0)

        assert list(letters.browse()) == []
        assert letters.measure().in_flight == 1

    def test_a_limit_ends_the_look(self, add, letters, ids_in) -> None:
        added = sorted(add() for _ in range(MANY))

        assert len(list(letters.browse(limit=3))) == 3

        assert ids_in("billing-dlq") == added

    def test_a_limit_of_zero_shows_nothing(self, add, letters) -> None:
        add()

        assert list(letters.browse(limit=0)) == []

    def test_it_stops_when_asked(self, add, letters) -> None:
        for _ in range(MANY):
            add()
        answers = iter([False, True])

        assert len(list(letters.browse(stopping=lambda: next(answers)))) == 10

    def test_of_a_group_on_a_fifo_queue_the_first_ten_are_seen(self, driver, add) -> None:
        ExchangeMessageConsumer("pay.fifo", driver=driver)
        for group in "AB":
            for number in range(15):
                ids = {"message_group_id": group, "message_deduplication_id": f"{group}-{number}"}
                add(to="pay-dlq.fifo", queue="pay.fifo", **ids)
        pay = DeadLetters("pay.fifo", driver)

        seen = [letter.message.message_group_id for letter in pay.browse()]

        assert (seen.count("A"), seen.count("B")) == (10, 10)


class TestSelecting:
    @pytest.mark.parametrize(
        ("selection", "expected"),
        [
            (Selection(message_ids=frozenset({"card"})), {"card"}),
            (Selection(reason="BANK"), {"bank", "mail"}),
            (Selection(listener_name="bill"), {"bank", "card"}),
            (Selection(origin="consumer"), {"bank", "card", "mail", "both"}),
            (Selection(origin="unknown"), set()),
            (Selection(listener_name="mail"), {"mail", "both"}),
            (Selection(event_type_name="OrderPaid"), {"mail"}),
            (Selection(headers={"tenant": "north"}), {"bank"}),
            (Selection(headers={"tenant": "south"}), set()),
            (Selection(fields={"customer.id": 17}), {"card"}),
            (Selection(fields={"customer.id": "17"}), {"card"}),
            (Selection(fields={"lines.1.paid": "true"}), {"card"}),
            (Selection(fields={"lines.2.paid": "true"}), set()),
            (Selection(fields={"customer": "17"}), set()),
            (Selection(older_than_seconds=3_600), {"mail"}),
            (Selection(younger_than_seconds=3_600), {"bank", "card", "both"}),
            (Selection(reason="bank", listener_name="bill"), {"bank"}),
        ],
    )
    def test_everything_that_is_given_must_hold(self, driver, add, letters, selection, expected) -> None:
        add("the bank is closed", headers={"tenant": "north"}, message_id="bank")
        add(
            "no card",
            message_id="card",
            body='{"event_type_name":"OrderPlaced","customer":{"id":17},"lines":[{},{"paid":true}]}',
        )
        add(
            "the Bank again",
            "mail",
            message_id="mail",
            body='{"event_type_name":"OrderPaid"}',
            rejected_at=driver.clock.now() - timedelta(hours=2),
        )
        add("both failed", "audit, mail", message_id="both", body="not json")

        assert {letter.message_id for letter in letters.browse(selection)} == expected

    def test_letters_of_a_queue_that_is_gone_are_seen_in_the_dead_letter_queue_only(
        self, driver, add, letters
    ) -> None:
        add(queue="renamed", message_id="old")

        assert list(letters.browse()) == []
        assert [letter.message_id for letter in DeadLetters("billing-dlq", driver).browse()] == ["old"]

    def test_letters_of_another_queue_with_the_same_dead_letter_queue_are_left_alone(
        self, driver, add, letters
    ) -> None:
        driver.declare_queue("mailing", dead_letter_queue=letters.queue)
        add(message_id="ours")
        add(queue="mailing", message_id="theirs")
        driver.send(letters.queue, [Message("unknown", "{}")])

        assert [letter.message_id for letter in DeadLetters("billing", driver).browse()] == ["ours"]
        assert len(list(DeadLetters("billing-dlq", driver).browse())) == 3


class TestGrouping:
    def test_reasons_that_differ_in_numbers_ids_and_quotations_are_of_one_kind(self, add, letters) -> None:
        add("attempt 5 of 5 failed: ConnectionError: no answer from 10.0.0.7:5432 after 3.5 s")
        add("attempt 2 of 9 failed: ConnectionError: no answer from 10.0.0.8:5432 after 0.1 s")
        add("there is no product 'Ghosts' (0b7e2a60-67a4-4f3f-9a6a-1df0b2c6b1f7)")

        groups = letters.groups()

        assert [(group.count, group.aspects["reason"]) for group in groups] == [
            (2, "ConnectionError: no answer from .. after .. s"),
            (1, "there is no product .. (..)"),
        ]

    def test_listeners_that_fail_alike_are_named_once(self, add, letters) -> None:
        add(
            "attempt 5 of 5 failed: KeyError: 'a'; attempt 2 of 5 failed: KeyError: 'b'; no card",
            "bill, mail",
        )

        (group,) = letters.groups()

        assert group.aspects["reason"] == "KeyError: ..; no card"

    def test_a_group_says_since_when(self, clock, add, letters) -> None:
        start = clock.now()
        add()
        clock.advance(90)
        add()

        (group,) = letters.groups()

        assert (group.oldest, group.newest) == (start, start + timedelta(seconds=90))

    @pytest.mark.parametrize(
        ("by", "expected"),
        [
            (("listener",), [{"listener": "bill"}, {"listener": "mail"}]),
            (("queue",), [{"queue": "billing"}]),
            (("age",), [{"age": "under 1m"}]),
            (("group",), [{"group": None}]),
            (
                ("type", "listener"),
                [{"type": "OrderPlaced", "listener": "bill"}, {"type": "OrderPlaced", "listener": "mail"}],
            ),
        ],
    )
    def test_other_aspects_make_other_groups(self, add, letters, by, expected) -> None:
        add()
        add()
        add(listener="mail")

        assert [group.aspects for group in letters.groups(by=by)] == expected


class TestWhichQueues:
    def test_names_are_without_the_prefix_of_the_driver(self, add) -> None:
        with InMemoryDriver(prefix="staging-") as driver:
            queue = driver.declare_queue("mail", dead_letter_queue=driver.declare_queue("mail-dlq"))
            driver.send(queue.dead_letter_queue, [Message("m-1", "{}")])
            letters = DeadLetters("mail", driver)

            assert (letters.queue.name, letters.source and letters.source.name) == ("mail-dlq", "mail")
            assert letters.retry(Selection()).sent_to == {"mail": 1}

    def test_a_queue_without_dead_letters_is_refused(self, driver) -> None:
        driver.declare_queue("plain")

        with pytest.raises(ConfigurationError, match="no queue is known that uses it as one"):
            DeadLetters("plain", driver)

    def test_a_dead_letter_queue_whose_source_is_gone_can_be_looked_into(self, driver, consumer, add) -> None:
        add()
        driver.delete_queue(consumer.queue)

        assert len(list(DeadLetters("billing-dlq", driver).browse())) == 1

    def test_a_driver_that_offers_nothing_is_refused(self) -> None:
        class PlainDriver(InMemoryDriver):
            dead_letter_access = None

        driver = PlainDriver()
        ExchangeMessageConsumer("billing", driver=driver, queue=QueueOptions(wait_seconds=0))

        with pytest.raises(ConfigurationError, match="PlainDriver offers no administration"):
            DeadLetters("billing", driver)
