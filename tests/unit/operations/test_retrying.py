"""Retrying, editing and removing dead letters."""

import json

import pytest

from melange import ConfigurationError, ExchangeMessageConsumer, QueueNotFoundError, Reject
from melange.messages import Message
from melange.operations import DeadLetters, Selection

ALL = Selection()
MANY = 45


def test_only_the_listener_that_failed_runs_again(consumer, publish, letters) -> None:
    ran = []
    is_mended = False

    @consumer.listener("OrderPlaced")
    def bill(event):
        ran.append("bill")
        if not is_mended:
            raise Reject("the bank is closed")

    @consumer.listener("OrderPlaced")
    def mail(event):
        ran.append("mail")

    publish({"number": 1}, headers={"tenant": "north"})
    consumer.consume_event()
    assert sorted(ran) == ["bill", "mail"]
    is_mended = True
    ran.clear()

    letters.retry(ALL)
    consumer.consume_event()

    assert ran == ["bill"]


def test_a_message_goes_back_as_it_was(add, letters, messages_in) -> None:
    add(message_id="m", body='{"a": 1}', headers={"tenant": "north"})

    report = letters.retry(ALL)

    (message,) = messages_in("billing")
    assert (message.message_id, message.body, dict(message.headers)) == ("m", '{"a": 1}', {"tenant": "north"})
    assert messages_in("billing-dlq") == []
    assert (report.done, report.sent_to, report.not_done) == (1, {"billing": 1}, [])


def test_only_the_selected_ones_go_and_the_others_stay_visible(add, letters, ids_in) -> None:
    others = sorted(add("no card") for _ in range(MANY))
    chosen = sorted(add("the bank is closed") for _ in range(MANY))

    report = letters.retry(Selection(reason="bank"))

    assert report.done == MANY
    assert report.seen == 2 * MANY
    assert ids_in("billing") == chosen
    assert ids_in("billing-dlq") == others


def test_a_message_that_fails_again_meanwhile_is_not_retried_twice(consumer, publish, letters) -> None:
    @consumer.listener("OrderPlaced")
    def bill(event):
        raise Reject("the bank is still closed")

    publish(*({"number": number} for number in range(10)))
    while letters.measure().visible < 10:
        consumer.consume_event()

    report = letters.retry(ALL, rate=10, on_progress=lambda _: consumer.consume_event())

    assert report.done == 10


def test_the_rate_is_kept_and_the_leases_of_the_rest_are_renewed(clock, add, letters, ids_in) -> None:
    others = sorted(add("no card") for _ in range(MANY))
    for _ in range(MANY):
        add("the bank is closed")
    start = clock.monotonic()

    report = letters.retry(Selection(reason="bank"), rate=0.5)

    assert report.done == MANY
    assert report.seen == 2 * MANY
    assert clock.monotonic() - start >= (MANY - 1) / 0.5
    assert ids_in("billing-dlq") == others


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_is_none_is_refused(letters, rate) -> None:
    with pytest.raises(ConfigurationError, match="rate must be"):
        letters.retry(ALL, rate=rate)


def test_a_limit_ends_it(add, letters, ids_in) -> None:
    for _ in range(MANY):
        add()

    report = letters.retry(ALL, limit=13)

    assert report.done == 13
    assert len(ids_in("billing")) == 13
    assert len(ids_in("billing-dlq")) == MANY - 13


def test_a_negative_limit_is_an_error_and_removes_nothing(add, letters, ids_in) -> None:
    added = sorted(add() for _ in range(3))

    with pytest.raises(ConfigurationError, match="limit must be 0 or more"):
        letters.remove(ALL, limit=-1)

    assert ids_in("billing-dlq") == added


def test_it_stops_when_asked_and_loses_nothing(add, letters, ids_in) -> None:
    added = sorted(add() for _ in range(MANY))
    looks = []

    report = letters.retry(ALL, on_progress=looks.append, stopping=lambda: len(looks) == 2)

    assert report.was_stopped
    assert report.done == 10
    assert sorted(ids_in("billing") + ids_in("billing-dlq")) == added


def test_ids_that_were_not_seen_are_reported(add, letters) -> None:
    message_id = add()

    report = letters.retry(Selection(message_ids=frozenset({message_id, "m-999"})))

    assert (report.done, report.unfound_ids) == (1, ["m-999"])


class TestWhereTo:
    def test_another_queue_can_be_named(self, driver, add, letters, ids_in) -> None:
        driver.declare_queue("quarantine")
        message_id = add()

        letters.retry(ALL, to="quarantine")

        assert ids_in("quarantine") == [message_id]

    def test_each_goes_to_the_queue_where_it_failed(self, driver, letters, add, ids_in) -> None:
        driver.declare_queue("mailing", dead_letter_queue=letters.queue)
        ours, theirs = add(), add(queue="mailing")

        report = DeadLetters("billing-dlq", driver).retry(ALL)

        assert (ids_in("billing"), ids_in("mailing")) == ([ours], [theirs])
        assert report.sent_to == {"billing": 1, "mailing": 1}

    def test_a_note_cannot_direct_a_message_to_a_queue_of_its_choice(self, driver, add, ids_in) -> None:
        driver.declare_queue("payments")
        forged = add(queue="payments")
        honest = add()

        report = DeadLetters("billing-dlq", driver).retry(ALL)

        assert [(one.message_id, "--to" in str(one.error)) for one in report.not_done] == [(forged, True)]
        assert ids_in("billing-dlq") == [forged]
        assert (ids_in("billing"), ids_in("payments")) == ([honest], [])

    def test_one_that_does_not_say_where_it_failed_goes_to_the_only_source(
        self, driver, letters, ids_in
    ) -> None:
        driver.send(letters.queue, [Message("foreign", "{}")])

        DeadLetters("billing-dlq", driver).retry(ALL)

        assert ids_in("billing") == ["foreign"]

    def test_the_dead_letter_queue_itself_is_refused(self, letters) -> None:
        with pytest.raises(ConfigurationError, match="is the dead-letter queue itself"):
            letters.retry(ALL, to="billing-dlq")

    def test_a_missing_queue_is_named_before_anything_is_done(self, add, letters, ids_in) -> None:
        message_id = add()

        with pytest.raises(QueueNotFoundError):
            letters.retry(ALL, to="biling")

        assert ids_in("billing-dlq") == [message_id]


class TestFifo:
    @pytest.fixture
    def pay(self, driver, consumer):
        ExchangeMessageConsumer("pay.fifo", driver=driver)
        return DeadLetters("pay.fifo", driver)

    @pytest.fixture
    def add_fifo(self, add):
        def add_to_group(number: int, group: str = "A") -> str:
            name = f"{group}-{number}"
            return add(
                message_id=name,
                to="pay-dlq.fifo",
                queue="pay.fifo",
                message_group_id=group,
                message_deduplication_id=f"dead-{name}",
            )

        return add_to_group

    def test_the_whole_group_goes_back_in_order(self, driver, pay, add_fifo) -> None:
        for number in range(25):
            add_fifo(number)

        report = pay.retry(ALL)

        queue, order = driver.get_queue("pay.fifo"), []
        while deliveries := driver.receive(queue, 10, 0):
            order += [delivery.message.message_id for delivery in deliveries]
            assert {delivery.message.message_group_id for delivery in deliveries} == {"A"}
            driver.acknowledge(deliveries)
        assert report.done == 25
        assert order == [f"A-{number}" for number in range(25)]

    def test_a_failure_ends_it_so_that_no_group_gets_out_of_order(self, refuse, add_fifo, pay) -> None:
        for number in range(25):
            add_fifo(number)
        refuse("A-9")

        report = pay.retry(ALL)

        assert report.done == 9
        assert [one.message_id for one in report.not_done] == ["A-9"]


class TestFailures:
    def test_what_was_not_sent_stays_and_is_reported(self, refuse, add, letters, ids_in) -> None:
        refused, accepted = add(), add()
        refuse(refused)

        report = letters.retry(ALL)

        assert [(one.message_id, str(one.error)) for one in report.not_done] == [(refused, "no answer")]
        assert report.done == 1
        assert (ids_in("billing"), ids_in("billing-dlq")) == ([accepted], [refused])

    def test_a_batch_that_is_refused_as_a_whole_stays(self, driver, add, letters, ids_in) -> None:
        message_id = add()
        driver.delete_queue(driver.get_queue("billing"))

        report = letters.retry(ALL)

        assert isinstance(report.not_done[0].error, QueueNotFoundError)
        assert ids_in("billing-dlq") == [message_id]


class TestRemoving:
    def test_only_the_selected_ones_are_removed(self, add, letters, ids_in) -> None:
        kept = add("no card")
        add("the bank is closed")

        report = letters.remove(Selection(reason="bank"))

        assert (report.done, report.sent_to) == (1, {})
        assert ids_in("billing-dlq") == [kept]
        assert ids_in("billing") == []


class TestEditing:
    def test_the_edited_message_has_a_new_id_and_a_note_of_the_old_one(
        self, add, letters, messages_in
    ) -> None:
        old_id = add(headers={"tenant": "north"})
        body = json.dumps({"event_type_name": "OrderCorrected", "number": 2})

        new_id = letters.edit(old_id, body)

        (message,) = messages_in("billing")
        assert message.message_id == new_id != old_id
        assert (message.body, message.event_type_name) == (body, "OrderCorrected")
        assert dict(message.headers) == {"tenant": "north", "melange-edited-from": old_id}
        assert messages_in("billing-dlq") == []

    def test_all_listeners_run_for_an_edited_message(self, consumer, publish, letters) -> None:
        ran = []

        @consumer.listener("OrderPlaced")
        def bill(event):
            ran.append("bill")
            if event["number"] == 1:
                raise Reject("one is no number")

        @consumer.listener("OrderPlaced")
        def mail(event):
            ran.append("mail")

        publish({"number": 1})
        consumer.consume_event()
        ran.clear()
        (letter,) = letters.browse()

        letters.edit(letter.message_id, '{"event_type_name":"OrderPlaced","number":2}')
        consumer.consume_event()

        assert sorted(ran) == ["bill", "mail"]

    def test_a_body_that_the_broker_would_refuse_changes_nothing(self, add, letters, ids_in) -> None:
        message_id = add()

        with pytest.raises(Exception, match="empty body"):
            letters.edit(message_id, "")

        assert ids_in("billing-dlq") == [message_id]

    def test_an_unknown_id_is_refused(self, letters) -> None:
        with pytest.raises(ConfigurationError, match="no dead letter with the id m-1"):
            letters.edit("m-1", "{}")


class TestMovingWholeQueues:
    def test_the_broker_moves_all_and_says_so(self, add, letters, ids_in) -> None:
        added = sorted(add() for _ in range(MANY))

        destination = letters.start_move()

        assert destination.name == "billing"
        assert ids_in("billing") == added
        (task,) = letters.moves()
        assert (task.status, task.destination_name, task.moved) == ("completed", "billing", MANY)

    def test_nothing_is_cancelled_when_nothing_runs(self, letters) -> None:
        assert letters.cancel_move() is None

    def test_with_several_sources_it_must_be_said_where_to(self, driver, letters) -> None:
        driver.declare_queue("mailing", dead_letter_queue=letters.queue)

        with pytest.raises(ConfigurationError, match="billing, mailing"):
            DeadLetters("billing-dlq", driver).start_move()
