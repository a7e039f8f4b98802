"""What a plan finds, and what applying it changes and leaves."""

import json

import pytest

from melange import (
    NO_DEAD_LETTER_QUEUE,
    ConfigurationError,
    DriverError,
    ExchangeMessageConsumer,
    QueueNotFoundError,
    QueueOptions,
    RetryPolicy,
    TopicNotFoundError,
)
from melange.drivers.base import EventFilter
from melange.drivers.memory import InMemoryDriver
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.operations import DeadLetters, Selection
from melange.topology import Difference, apply_plan, collect, make_plan


def summary(plan):
    return [(change.action, change.kind, change.name) for change in plan.changes]


def test_of_an_empty_broker_everything_is_created(driver, program):
    plan = make_plan(program(), driver)

    assert summary(plan) == [
        ("create", "topic", "orders"),
        ("create", "queue", "billing-dlq"),
        ("create", "queue", "billing"),
        ("create", "binding", "orders -> billing"),
    ]
    assert plan.has_drift


def test_planning_changes_nothing(driver, program):
    make_plan(program(), driver)

    with pytest.raises(QueueNotFoundError):
        driver.get_queue("billing")


def test_after_applying_nothing_differs(driver, program):
    topology = program(filter_events=["OrderPlaced"], queue=QueueOptions(tags={"team": "money"}))

    applied = apply_plan(make_plan(topology, driver))

    assert len(applied.done) == 4
    assert make_plan(topology, driver).changes == ()


def test_what_is_applied_is_what_a_consumer_declares(program, driver):
    apply_plan(make_plan(program(filter_events=["OrderPlaced"]), driver))
    with InMemoryDriver() as other:
        declared = ExchangeMessageConsumer(
            "billing", "orders", driver=other, filter_events=["OrderPlaced"]
        ).queue

        applied = driver.get_queue("billing")

        assert applied.max_receive_count == declared.max_receive_count
        assert applied.dead_letter_queue.name == declared.dead_letter_queue.name
        assert [one.event_filter for one in driver.list_bindings(applied)] == [
            one.event_filter for one in other.list_bindings(declared)
        ]


def test_a_broker_that_a_consumer_has_declared_has_no_drift(driver, program):
    ExchangeMessageConsumer("billing", "orders", driver=driver)

    plan = make_plan(program(), driver)

    assert not plan.has_drift
    assert {change.differences[0].setting for change in plan.changes} == {"tag melange-topology"}


def test_a_filter_that_differs_is_changed(driver, program):
    apply_plan(make_plan(program(filter_events=["OrderPlaced"]), driver))
    topology = program(filter_events=["OrderPlaced", "OrderPaid"])

    plan = make_plan(topology, driver)
    apply_plan(plan)

    assert plan.changes[0].differences == (Difference("filter", "OrderPlaced", "OrderPaid, OrderPlaced"),)
    assert plan.changes[0].takes == "up to 15 minutes on AWS"
    assert make_plan(topology, driver).changes == ()


def test_a_filter_without_types_takes_one_off_without_pruning(driver, program):
    apply_plan(make_plan(program(filter_events=["OrderPlaced"]), driver))

    apply_plan(make_plan(program(filter_events=()), driver))

    assert [one.event_filter for one in driver.list_bindings(driver.get_queue("billing"))] == [None]


def test_a_filter_that_the_program_does_not_name_any_more_is_removed_with_prune_only(driver, program):
    apply_plan(make_plan(program(filter_events=["OrderPlaced"]), driver))
    topology = program()

    applied = apply_plan(make_plan(topology, driver))
    left = make_plan(topology, driver)
    apply_plan(left, prune=True)

    assert [reason for _, reason in applied.left] == ["removed with --prune only"]
    assert summary(left) == [("remove", "binding", "orders -> billing")]
    assert make_plan(topology, driver).changes == ()


def test_a_binding_that_the_program_does_not_name_any_more_is_removed_with_prune_only(driver, program):
    apply_plan(make_plan(program("orders", "returns"), driver))
    topology = program("orders")

    apply_plan(make_plan(topology, driver))
    left = make_plan(topology, driver)
    apply_plan(left, prune=True)

    assert summary(left) == [("remove", "binding", "returns -> billing")]
    assert [one.topic.name for one in driver.list_bindings(driver.get_queue("billing"))] == ["orders"]


def test_a_queue_of_an_old_name_is_found_by_its_mark_and_removed_with_prune_only(driver, program):
    apply_plan(make_plan(program(queue_name="invoices"), driver))
    topology = program()

    apply_plan(make_plan(topology, driver))
    left = make_plan(topology, driver)
    apply_plan(left, prune=True)

    assert {name for _, _, name in summary(left)} == {"invoices", "invoices-dlq"}
    with pytest.raises(QueueNotFoundError):
        driver.get_queue("invoices")


def test_a_queue_with_messages_is_removed_only_together_with_them(driver, program):
    apply_plan(make_plan(program(queue_name="invoices"), driver))
    driver.publish(driver.get_topic("orders"), [Message("id", "{}", "OrderPlaced")])
    topology = program()

    left = apply_plan(make_plan(topology, driver), prune=True).left
    apply_plan(make_plan(topology, driver), prune=True, delete_messages=True)

    ((_, reason),) = left
    assert reason.startswith(
        "it holds about 1 message. If invoices was renamed: --renamed invoices=NEW_NAME;"
    )
    assert reason.endswith(" if nothing needs them: --delete-messages")
    assert make_plan(topology, driver).changes == ()


def test_queues_of_others_on_the_same_topic_are_named_and_left_alone(driver, program):
    ExchangeMessageConsumer("shipping", "orders", driver=driver)

    plan = make_plan(program(), driver)
    apply_plan(plan, prune=True)

    assert plan.notes == (
        "topic orders also feeds queue shipping, which this program does not consume (about 0 messages)",
    )
    assert driver.get_queue("shipping")


def test_a_queue_of_another_topology_is_not_taken_over_by_accident(driver, program):
    apply_plan(make_plan(program(name="shop-staging"), driver))
    plan = make_plan(program(name="shop"), driver)

    with pytest.raises(ConfigurationError, match="marked for the topology 'shop-staging'"):
        apply_plan(plan)
    apply_plan(plan, adopt=True)

    assert plan.has_drift
    assert make_plan(program(name="shop"), driver).changes == ()


def test_a_receive_limit_below_what_the_attempts_need_is_raised_and_a_higher_one_kept(driver, program):
    dead_letters = driver.declare_queue("billing-dlq", retention_seconds=14 * 86_400)
    driver.declare_queue("billing", dead_letter_queue=dead_letters, max_receive_count=5)
    topology = program(retry=RetryPolicy(max_attempts=25))

    plan = make_plan(topology, driver)
    apply_plan(plan)

    differences = [one for change in plan.changes for one in change.differences]
    assert Difference("receives before that", "5", "100") in differences
    assert driver.get_queue("billing").max_receive_count == 100
    driver.declare_queue("billing", max_receive_count=900)
    assert make_plan(topology, driver).changes == ()


def test_an_existing_dead_letter_queue_of_another_name_is_kept_unless_one_is_named(driver, program):
    others = driver.declare_queue("failures", retention_seconds=14 * 86_400)
    driver.declare_queue("billing", dead_letter_queue=others, max_receive_count=1_000)

    apply_plan(make_plan(program(), driver))
    kept = driver.get_queue("billing").dead_letter_queue.name
    apply_plan(make_plan(program(queue=QueueOptions(dead_letter_queue_name="billing-dlq")), driver))

    assert kept == "failures"
    assert driver.get_queue("billing").dead_letter_queue.name == "billing-dlq"


def test_a_dead_letter_queue_is_taken_off_if_the_program_says_so(driver, program):
    apply_plan(make_plan(program(), driver))

    apply_plan(make_plan(program(queue=QueueOptions(dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)), driver))

    assert driver.get_queue("billing").dead_letter_queue is None


def test_the_retention_of_a_dead_letter_queue_is_restored(driver, program):
    apply_plan(make_plan(program(), driver))
    driver.declare_queue("billing-dlq", retention_seconds=60)

    (change,) = make_plan(program(), driver).changes

    assert change.differences == (Difference("retention", "1 minute", "14 days"),)


def test_a_filter_by_the_body_differs_from_one_by_headers(driver, program):
    apply_plan(make_plan(program(filter_events=["A"]), driver))

    (change,) = make_plan(
        program(filter_events=["A"], queue=QueueOptions(filter_scope="body")), driver
    ).changes

    assert change.differences == (Difference("filter", "A", "A (in the body)"),)


def test_what_is_given_by_its_address_is_left_alone(driver, program):
    topic = driver.declare_topic("payments")
    queue = driver.declare_queue("theirs")
    topology = program(topic.address, queue_name=queue.address)

    apply_plan(make_plan(topology, driver))

    assert driver.list_bindings(queue) == []


def test_an_address_that_does_not_exist_is_an_error(driver, program):
    with pytest.raises(TopicNotFoundError):
        make_plan(program("arn:aws:sns:us-east-1:123456789012:payments"), driver)


def test_names_get_the_prefix_of_the_driver(program):
    with InMemoryDriver(prefix="staging-") as driver:
        topology = collect(
            "shop", lambda: ExchangeMessageConsumer("billing", "orders", driver=driver)
        ).topology

        apply_plan(make_plan(topology, driver))

        assert driver.get_queue("billing").address.endswith(":staging-billing")
        assert make_plan(topology, driver).changes == ()


def test_a_topology_of_another_prefix_is_refused(driver, program):
    with InMemoryDriver(prefix="staging-") as other, pytest.raises(ConfigurationError, match="prefix"):
        make_plan(program(), other)


def test_a_plan_says_in_json_what_it_changes(driver, program):
    apply_plan(make_plan(program(filter_events=["A"]), driver))

    document = make_plan(program(filter_events=["B"]), driver).to_document()

    assert document["drift"] is True
    assert document["changes"][0]["differences"] == [{"setting": "filter", "now": "A", "wanted": "B"}]


def test_an_unrelated_filter_of_a_broker_is_the_same_in_any_order(driver, program):
    topic = driver.declare_topic("orders")
    apply_plan(make_plan(program(filter_events=["A", "B"]), driver))
    driver.declare_queue("billing", topic, event_filter=EventFilter(("B", "A")))

    assert make_plan(program(filter_events=["A", "B"]), driver).changes == ()


def test_the_messages_of_a_renamed_queue_move_with_their_ids_and_the_old_queue_goes(driver, program):
    old = ExchangeMessageConsumer("billing", "orders", driver=driver).queue
    driver.publish(
        driver.get_topic("orders"), [Message(f"id-{number}", "{}", "OrderPlaced") for number in range(15)]
    )
    driver.send(old.dead_letter_queue, [Message("dead", "{}")])
    topology = program(queue_name="invoicing")

    plan = make_plan(topology, driver, renamed={"billing": "invoicing"})
    apply_plan(plan)

    moves = [(change.name, change.message_count) for change in plan.changes if change.action == "move"]
    assert moves == [("billing-dlq -> invoicing-dlq", 1), ("billing -> invoicing", 15)]
    received = [
        *driver.receive(driver.get_queue("invoicing"), 10, 0),
        *driver.receive(driver.get_queue("invoicing"), 10, 0),
    ]
    assert {delivery.message.message_id for delivery in received} == {f"id-{number}" for number in range(15)}
    assert driver.measure_queue(driver.get_queue("invoicing-dlq")).visible == 1
    assert [one.topic.name for one in driver.list_bindings(driver.get_queue("invoicing"))] == ["orders"]
    with pytest.raises(QueueNotFoundError):
        driver.get_queue("billing")


def dead_letters_after_a_rename(driver, program, renamed, *messages):
    """Rename billing with these messages in its dead-letter queue; return them as the new queue's operator sees them."""
    old = ExchangeMessageConsumer("billing", "orders", driver=driver).queue
    driver.send(old.dead_letter_queue, messages)
    apply_plan(make_plan(program(queue_name="invoicing"), driver, renamed=renamed))
    return list(DeadLetters("invoicing", driver).browse())


@pytest.mark.parametrize("old_and_new", [("billing", "invoicing"), ("billing-dlq", "invoicing-dlq")])
def test_dead_letters_of_a_renamed_queue_keep_their_reason_and_can_be_retried(driver, program, old_and_new):
    note = {"reason": "no price", "listener": "bill", "queue": "billing", "attempts": 7}
    dead = Message("dead", "{}", headers={DEAD_LETTER_HEADER: json.dumps(note), "tenant": "north"})

    (letter,) = dead_letters_after_a_rename(driver, program, dict([old_and_new]), dead)
    report = DeadLetters("invoicing", driver).retry(Selection(reason="no price"))

    assert (letter.reason, letter.listener_name, letter.attempts) == ("no price", "bill", 7)
    assert letter.queue_name == "invoicing"
    assert report.sent_to == {"invoicing": 1}
    (delivery,) = driver.receive(driver.get_queue("invoicing"), 10, 0)
    assert delivery.message.headers == {"tenant": "north"}


def test_a_dead_letter_without_a_note_has_none_after_a_rename(driver, program):
    (letter,) = dead_letters_after_a_rename(
        driver, program, {"billing": "invoicing"}, Message("foreign", "{}")
    )

    assert (letter.origin, letter.message.headers) == ("unknown", {})


def test_what_the_broker_dead_lettered_by_itself_still_says_so_after_a_rename(driver, program):
    dead_letters = driver.declare_queue("billing-dlq")
    old = driver.declare_queue("billing", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(old, [Message("poison", "{}")])
    driver.defer(driver.receive(old, 1, 0), 0)
    driver.receive(old, 1, 0)

    (letter,) = dead_letters_after_a_rename(driver, program, {"billing": "invoicing"})

    assert (letter.origin, letter.queue_name) == ("broker", "invoicing")
    assert letter.reason.startswith("moved by the broker")
    assert letter.dead_since is not None


def test_a_queue_with_messages_in_flight_is_not_removed_after_the_move(driver, program):
    old = ExchangeMessageConsumer("billing", "orders", driver=driver).queue
    driver.publish(driver.get_topic("orders"), [Message("id", "{}", "OrderPlaced")])
    (delivery,) = driver.receive(old, 1, 0)
    topology = program(queue_name="invoicing")

    with pytest.raises(DriverError, match="stop the consumers of the old name"):
        apply_plan(make_plan(topology, driver, renamed={"billing": "invoicing"}))
    driver.defer([delivery], 0)
    apply_plan(make_plan(topology, driver, renamed={"billing": "invoicing"}))

    assert driver.measure_queue(driver.get_queue("invoicing")).visible == 1


@pytest.mark.parametrize("renamed", [{"old": "nowhere"}, {"billing": "billing"}])
def test_a_rename_between_other_names_than_an_old_and_a_declared_one_is_refused(driver, program, renamed):
    with pytest.raises(ConfigurationError, match="declares"):
        make_plan(program(), driver, renamed=renamed)


def test_a_rename_that_is_done_changes_nothing(driver, program):
    topology = program()
    apply_plan(make_plan(topology, driver))

    assert make_plan(topology, driver, renamed={"invoices": "billing"}).changes == ()
