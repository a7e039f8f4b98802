"""Faults that are in the program, or that the in-memory broker can have."""

import pytest

from melange import ExchangeMessageConsumer, QueueOptions, RetryPolicy
from melange.drivers.base import EventFilter
from melange.messages import Message
from melange.topology import apply_plan, collect, combined, diagnose, make_plan

DAYS = 86_400


def found(topology, driver):
    return [(finding.check, finding.severity, finding.resource) for finding in diagnose(topology, driver)]


@pytest.fixture
def applied(driver, program):
    def make(*topics, **options):
        topology = program(*topics, **options)
        apply_plan(make_plan(topology, driver))
        return topology

    return make


def test_a_healthy_topology_has_no_findings(driver, applied):
    topology = applied(event_types=["OrderPlaced"], filter_events=["OrderPlaced"])

    assert found(topology, driver) == []


def test_what_does_not_exist_is_missing(driver, program):
    assert found(program(), driver) == [
        ("missing", "error", "topic orders"),
        ("missing", "error", "queue billing"),
        ("missing", "error", "queue billing-dlq"),
    ]


def test_a_subscription_that_is_gone_is_missing(driver, applied):
    topology = applied()
    driver.delete_topic(driver.get_topic("orders"))
    driver.declare_topic("orders")

    assert found(topology, driver) == [("missing", "error", "orders -> billing")]


@pytest.mark.parametrize(("count", "severity"), [(25, "error"), (26, "warning")])
def test_a_receive_limit_below_what_the_attempts_need_is_found(driver, applied, count, severity):
    topology = applied(retry=RetryPolicy(max_attempts=25))
    driver.declare_queue("billing", max_receive_count=count)

    assert found(topology, driver) == [("receive-count", severity, "queue billing")]


@pytest.mark.parametrize("retention", [3 * DAYS, 4 * DAYS])
def test_a_dead_letter_queue_that_keeps_no_longer_than_its_source_is_found(driver, applied, retention):
    topology = applied()
    driver.declare_queue("billing-dlq", retention_seconds=retention)

    assert found(topology, driver) == [("dead-letter-retention", "error", "queue billing-dlq")]


@pytest.mark.parametrize(("limit", "is_found"), [(29, False), (30, True)])
def test_a_visibility_shorter_than_a_listener_may_run_is_found(driver, applied, limit, is_found):
    topology = applied(timeout_seconds=limit)

    assert found(topology, driver) == ([("visibility", "warning", "queue billing")] if is_found else [])


def test_a_filter_that_drops_what_a_listener_wants_is_found_in_the_program(driver, applied):
    topology = applied(filter_events=["OrderPaid"])

    assert ("filter-drops", "error", "orders -> billing") in found(topology, driver)


def test_a_filter_at_the_broker_that_drops_what_a_listener_wants_is_found(driver, applied):
    topology = applied()
    driver.declare_queue("billing", driver.get_topic("orders"), event_filter=EventFilter(("OrderPaid",)))

    (finding,) = diagnose(topology, driver)

    assert finding.problem == "the broker's filter drops OrderPlaced, to which bill listens"
    assert finding.remedy_for("shop:consumers") == (
        "melange topology apply shop:consumers --prune --only 'orders -> billing'; "
        "or keep a filter: filter_events=[OrderPlaced] in the program, then melange topology apply shop:consumers"
    )


def test_a_filter_at_the_broker_is_found_if_a_listener_takes_everything(driver):
    def declare():
        consumer = ExchangeMessageConsumer("audit", "orders", driver=driver)
        consumer.listener()(print)

    topology = collect("shop", declare).topology
    apply_plan(make_plan(topology, driver))
    driver.declare_queue("audit", driver.get_topic("orders"), event_filter=EventFilter(("OrderPaid",)))

    assert found(topology, driver) == [("filter-drops", "error", "orders -> audit")]


def test_a_type_that_no_publisher_publishes_is_found_in_filters_and_listeners(driver, applied):
    topology = applied(event_types=["OrderPaid"], filter_events=["OrderPlaced"])

    assert found(topology, driver) == [
        ("never-published", "warning", "orders -> billing"),
        ("never-published", "warning", "queue billing"),
    ]


def test_without_knowing_all_that_is_published_no_type_counts_as_unpublished(driver, applied):
    assert found(applied(event_types=None), driver) == []
    assert found(applied("orders", "returns", event_types=["OrderPaid"]), driver) == []


def test_publishers_of_another_service_count_too(driver, applied, program):
    topology = applied(event_types=["OrderPaid"])
    other = program(event_types=["OrderPlaced"])

    assert found(combined("shop", [topology, other]), driver) == []


def test_a_queue_that_is_marked_for_another_topology_is_found(driver, applied, program):
    applied(name="shop-staging")

    assert ("shared-name", "error", "queue billing") in found(program(name="shop"), driver)


def test_a_queue_that_receives_from_two_environments_is_found(driver, applied):
    topology = applied()
    driver.declare_queue("billing", driver.declare_topic("staging-orders"))

    assert found(topology, driver) == [("shared-name", "error", "queue billing")]


def test_findings_can_be_read_by_programs(driver, program):
    finding = diagnose(program(), driver)[0].to_document("shop:consumers")

    assert finding["check"] == "missing"
    assert finding["remedy"] == "melange topology apply shop:consumers"


def test_applying_repairs_what_it_says_it_repairs(driver, applied):
    topology = applied(retry=RetryPolicy(max_attempts=25), queue=QueueOptions(tags={"team": "money"}))
    driver.declare_queue("billing", max_receive_count=3)
    driver.declare_queue("billing-dlq", retention_seconds=60)
    before = found(topology, driver)

    apply_plan(make_plan(topology, driver))

    assert len(before) == 2
    assert found(topology, driver) == []


def test_a_marked_queue_that_the_program_does_not_declare_is_found(driver, applied, program):
    applied(queue_name="invoices")
    topology = applied()

    assert ("old-name", "error", "queue invoices") in found(topology, driver)


def test_an_old_queue_and_its_dead_letter_queue_are_one_finding_because_one_rename_takes_both(
    driver, applied
):
    applied(queue_name="invoices")
    topology = applied()
    driver.send(driver.get_queue("invoices-dlq"), [Message("dead", "{}")])

    (finding,) = diagnose(topology, driver)

    assert finding.resource == "queue invoices"
    assert "its dead-letter queue invoices-dlq about 1 message" in finding.problem


def test_dead_letters_that_wait_are_noted_after_all_faults(driver, applied):
    topology = applied()
    driver.send(driver.get_queue("billing-dlq"), [Message("dead", "{}")])
    driver.declare_queue("billing", driver.get_topic("orders"), event_filter=EventFilter(("OrderPaid",)))

    _, finding = diagnose(topology, driver)

    assert (finding.check, finding.severity, finding.resource) == (
        "dead-letters",
        "note",
        "queue billing-dlq",
    )
    assert (
        finding.remedy_for("shop:consumers --name x")
        == "melange dead-letters list billing --app shop:consumers"
    )
    assert finding.remedy_for("shop.json") == "melange dead-letters list billing"


def test_an_unmarked_queue_that_fills_from_our_topic_is_found(driver, applied):
    topology = applied()
    ExchangeMessageConsumer("invoices", "orders", driver=driver)
    before = found(topology, driver)
    driver.publish(driver.get_topic("orders"), [Message("id", "{}", "OrderPlaced")])

    assert before == []
    assert found(topology, driver) == [("old-name", "warning", "queue invoices")]
