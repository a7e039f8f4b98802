"""The keeper of leases, asked to renew by hand."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from melange import (
    DeduplicationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.poison_messages import Suspects
from melange.deduplication.base import Claimed, DeduplicationKey
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure, LeaseLostError
from melange.messages import Delivery, Message
from melange.testing import ManualClock
from waiting import eventually

TIMEOUT_SECONDS = 30


class UnreachableStore(MemoryDeduplicationStore):
    """Grants claims, and then is gone."""

    def __init__(self, clock) -> None:
        super().__init__(clock=clock)
        self.renewals = 0

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        self.renewals += 1
        raise DeduplicationError("no answer")


@pytest.fixture
def make_keeper():
    """Make keepers that end with the test."""
    keepers: list[LeaseKeeper] = []

    def make(*arguments) -> LeaseKeeper:
        keepers.append(LeaseKeeper(*arguments))
        return keepers[-1]

    yield make
    for keeper in keepers:
        keeper.release_all()


@pytest.fixture
def hold(driver, publisher, make_consumer):
    """Hold three deliveries, each with a claim of its listener."""

    def hold_three(keeper, store):
        queue = make_consumer().queue
        publisher.publish_batch([{"event_type_name": "Held"}] * 3)
        leases = keeper.hold(driver.receive(queue, 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))
        for lease in leases:
            key = DeduplicationKey(queue.address, "job", lease.delivery.message.message_id, ())
            lease.claimed = store.claim(key, "token", TIMEOUT_SECONDS)
        return leases

    return hold_three


def test_leases_and_claims_are_renewed_once_half_of_the_time_is_over(
    driver, clock, store, hold, make_keeper
) -> None:
    keeper = make_keeper(driver, TIMEOUT_SECONDS, store)
    leases = hold(keeper, store)

    for _ in range(4):
        clock.advance(TIMEOUT_SECONDS / 2)
        keeper.renew_due()
        eventually(lambda: not any(lease.is_renewing for lease in leases))

    assert [lease.remaining_seconds for lease in leases] == [TIMEOUT_SECONDS] * 3
    key = leases[0].claimed.key
    assert store.claim(key, "another", TIMEOUT_SECONDS).name == "BUSY"


def test_a_store_that_does_not_answer_is_asked_once_a_round_and_costs_no_lease(
    driver, clock, hold, make_keeper
) -> None:
    store = UnreachableStore(clock)
    keeper = make_keeper(driver, TIMEOUT_SECONDS, store)
    leases = hold(keeper, store)

    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    eventually(lambda: not any(lease.is_renewing for lease in leases))

    assert store.renewals == 1
    assert [lease.remaining_seconds for lease in leases] == [TIMEOUT_SECONDS] * 3


def renew(keeper: LeaseKeeper, leases: list[Lease]) -> None:
    keeper.renew_due()
    eventually(lambda: not any(lease.is_renewing for lease in leases))


def test_no_lease_lasts_longer_than_the_broker_allows(
    driver, clock, store, publisher, make_consumer, make_keeper
) -> None:
    keeper = make_keeper(driver, 3_600, store)
    queue = make_consumer().queue
    publisher.publish({"event_type_name": "Held"})
    (lease,) = keeper.hold(driver.receive(queue, 10, 0, visibility_timeout_seconds=3_600))
    capabilities = driver.capabilities
    shown_at = capabilities.max_visibility_seconds

    while not lease.is_lost():
        clock.advance(10)
        renew(keeper, [lease])

    assert shown_at - capabilities.max_wait_seconds <= clock.monotonic() <= shown_at
    assert keeper.lost_count == 1


def test_a_lease_is_reported_lost_once(driver, clock, store, hold, make_keeper) -> None:
    reported: list[Lease] = []
    keeper = make_keeper(driver, TIMEOUT_SECONDS, store, reported.append)
    leases = hold(keeper, store)

    clock.advance(TIMEOUT_SECONDS)
    for _ in range(3):
        renew(keeper, leases)
        clock.advance(TIMEOUT_SECONDS / 8)

    assert len(reported) == keeper.lost_count == 3


class BlockingDriver(InMemoryDriver):
    """Answers a renewal of the chosen messages only when told to; ``deferred_for`` has the seconds in order."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.slow_ids: set[str] = set()
        self.deferred_for: list[int] = []
        self.asked = threading.Event()
        self.answer = threading.Event()

    def defer(self, deliveries, seconds):
        if seconds and any(delivery.message.message_id in self.slow_ids for delivery in deliveries):
            self.asked.set()
            assert self.answer.wait(30)
        self.deferred_for.append(seconds)
        return super().defer(deliveries, seconds)


@pytest.fixture
def blocking_driver(clock):
    driver = BlockingDriver(clock=clock)
    yield driver
    driver.answer.set()


def test_a_slow_renewal_delays_no_other_lease(blocking_driver, clock, make_keeper) -> None:
    driver = blocking_driver
    ExchangeMessageConsumer("stock", "products", driver=driver)
    ids = ExchangeMessagePublisher("products", driver).publish_batch([{"event_type_name": "Held"}] * 20)
    queue = driver.get_queue("stock")
    keeper = make_keeper(driver, TIMEOUT_SECONDS, None)
    slow = keeper.hold(driver.receive(queue, 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))
    driver.slow_ids = {lease.delivery.message.message_id for lease in slow}
    assert driver.slow_ids < set(ids)

    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    assert driver.asked.wait(30)
    quick = keeper.hold(driver.receive(queue, 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))
    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    eventually(lambda: all(lease.remaining_seconds == TIMEOUT_SECONDS for lease in quick))
    keeper.release(quick)

    assert driver.acknowledge([lease.delivery for lease in quick]) == []
    assert len(keeper) == 10


def test_a_slow_renewal_delays_no_other_run_of_a_worker() -> None:
    driver = BlockingDriver()
    consumer = ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=4),
        retry=RetryPolicy(backoff=lambda attempts: 0),
    )
    runs: Counter[int] = Counter()
    others_are_done = threading.Event()

    @consumer.listener()
    def run(event, attempt):
        if event["number"] == 0:
            others_are_done.wait(30)
        runs[event["number"]] += 1
        if event["number"] % 10 == 1 and attempt == 1:
            raise ConnectionError("tried again")

    publish = ExchangeMessagePublisher("products", driver).publish
    driver.slow_ids = {publish({"event_type_name": "Held", "number": 0})}
    worker = Worker(consumer, concurrency=4, grace_seconds=5)
    worker.start()
    try:
        assert driver.asked.wait(30)  # the renewal of the slow one hangs
        for number in range(1, 201):
            publish({"event_type_name": "Held", "number": number})
        eventually(lambda: driver.measure_queue(consumer.queue).in_flight == 1 and len(runs) == 200)
    finally:
        driver.answer.set()
        others_are_done.set()
        worker.stop(30)

    assert [runs[number] for number in range(1, 11)] == [2, *[1] * 9]


def test_a_renewal_that_is_answered_after_the_deadline_does_not_bring_the_lease_back(
    blocking_driver, clock, make_keeper
) -> None:
    driver = blocking_driver
    ExchangeMessageConsumer("stock", "products", driver=driver)
    driver.slow_ids = {ExchangeMessagePublisher("products", driver).publish({"event_type_name": "Held"})}
    keeper = make_keeper(driver, TIMEOUT_SECONDS, None)
    (lease,) = keeper.hold(
        driver.receive(driver.get_queue("stock"), 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS)
    )

    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    assert driver.asked.wait(30)
    clock.advance(TIMEOUT_SECONDS / 2)
    assert lease.is_lost()
    driver.answer.set()
    eventually(lambda: not lease.is_renewing)

    assert lease.is_lost()
    assert keeper.lost_count == 1


def test_what_is_given_back_during_its_renewal_is_not_hidden_again(
    blocking_driver, clock, make_keeper
) -> None:
    driver = blocking_driver
    consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
    driver.slow_ids = {ExchangeMessagePublisher("products", driver).publish({"event_type_name": "Held"})}
    keeper = make_keeper(driver, TIMEOUT_SECONDS, None)
    settler = consumer.settler(keeper, Suspects())
    (lease,) = keeper.hold(driver.receive(consumer.queue, 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))

    clock.advance(TIMEOUT_SECONDS / 2)
    keeper.renew_due()
    assert driver.asked.wait(30)
    given_back: list[int] = []
    giving_back = threading.Thread(target=lambda: given_back.append(settler.defer([(lease, 0)])))
    giving_back.start()
    giving_back.join(0.2)
    assert giving_back.is_alive()  # it waits for the renewal
    driver.answer.set()
    giving_back.join(30)

    assert given_back == [1]
    assert driver.deferred_for == [TIMEOUT_SECONDS, 0]
    assert driver.measure_queue(consumer.queue).visible == 1


class SlowToRenew(MemoryDeduplicationStore):
    """Answers ``renew`` when told to, as it is then."""

    def __init__(self, clock) -> None:
        super().__init__(clock=clock)
        self.asked = threading.Event()
        self.answer = threading.Event()

    def renew(self, claimed, lease_seconds):
        self.asked.set()
        assert self.answer.wait(30)
        return super().renew(claimed, lease_seconds)


def test_a_claim_that_is_completed_during_its_renewal_is_not_judged_lost(driver, clock, publisher) -> None:
    store = SlowToRenew(clock)
    consumer = ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        deduplication=store,
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=TIMEOUT_SECONDS),
    )
    runs = []

    @consumer.listener()
    def slow(event, lease_lost):
        runs.append(lease_lost)
        eventually(lambda: clock.advance(1) or store.asked.is_set())

    @consumer.listener()
    def after_it_was_completed(event):
        store.answer.set()
        eventually(lambda: not any(one.name == "melange-renewal" for one in threading.enumerate()))

    publisher.publish({"event_type_name": "Held"})

    assert consumer.consume_event() == 1
    (lease_lost,) = runs
    assert not lease_lost()
    assert driver.measure_queue(consumer.queue).in_flight == 0


class LosesAnswers(MemoryDeduplicationStore):
    """Completes the first time and loses the answer; is unavailable until the claim was renewed."""

    def __init__(self, clock) -> None:
        super().__init__(clock=clock)
        self.renewed = threading.Event()

    def complete(self, claimed):
        if not self.renewed.is_set():
            super().complete(claimed)
            raise DeduplicationError("no answer")
        return super().complete(claimed)

    def renew(self, claimed, lease_seconds):
        held = super().renew(claimed, lease_seconds)
        self.renewed.set()
        return held


def test_a_renewal_after_a_completion_without_an_answer_costs_no_lease(driver, clock, publisher) -> None:
    store = LosesAnswers(clock)
    consumer = ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        deduplication=store,
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=TIMEOUT_SECONDS),
    )
    consumer.listener()(lambda event: None)
    publisher.publish({"event_type_name": "Held"})
    settled: list[int] = []
    consuming = threading.Thread(target=lambda: settled.append(consumer.consume_event()))
    consuming.start()
    eventually(lambda: len(store) == 1)  # completed

    clock.advance(TIMEOUT_SECONDS / 2)
    eventually(lambda: clock.advance(0.05) or store.renewed.is_set())
    consuming.join(30)

    assert settled == [1]
    assert driver.measure_queue(consumer.queue).in_flight == 0


class EqualAndNotIdentical(InMemoryDriver):
    """Reports failures with copies of what it was given."""

    refused_id = ""

    def defer(self, deliveries, seconds):
        refused = [one for one in deliveries if one.message.message_id == self.refused_id]
        accepted = [one for one in deliveries if one not in refused]
        return [
            *(Failure(Delivery(*one), LeaseLostError("expired")) for one in refused),
            *super().defer(accepted, seconds),
        ]


def test_a_renewal_that_failed_is_matched_whatever_object_the_driver_returns(clock, make_keeper) -> None:
    driver = EqualAndNotIdentical(clock=clock)
    ExchangeMessageConsumer("stock", "products", driver=driver)
    ids = ExchangeMessagePublisher("products", driver).publish_batch([{"event_type_name": "Held"}] * 3)
    driver.refused_id = ids[1]
    keeper = make_keeper(driver, TIMEOUT_SECONDS, None)
    leases = keeper.hold(
        driver.receive(driver.get_queue("stock"), 10, 0, visibility_timeout_seconds=TIMEOUT_SECONDS)
    )

    clock.advance(TIMEOUT_SECONDS / 2)
    renew(keeper, leases)

    assert [lease.delivery.message.message_id for lease in leases if lease.is_lost()] == [ids[1]]


def test_messages_of_one_poll_keep_their_leases_in_real_time() -> None:
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=2),
    )
    receive_counts = []

    @consumer.listener()
    def slow(event, receive_count):
        receive_counts.append(receive_count)
        threading.Event().wait(1)

    ExchangeMessagePublisher("products", driver).publish_batch([{"event_type_name": "Held"}] * 4)

    assert consumer.consume_event() == 4
    assert receive_counts == [1, 1, 1, 1]


class ImpatientClock(ManualClock):
    """Stands still, and gives waits up at once."""

    def __init__(self) -> None:
        super().__init__(stuck_after_seconds=0.01)
        self.given_up = 0

    def wait(self, condition, seconds) -> None:
        try:
            super().wait(condition, seconds)
        except TimeoutError:
            self.given_up += 1
            raise


def test_a_clock_of_a_test_that_stands_still_is_no_failure_to_renew(make_keeper, caplog) -> None:
    clock = ImpatientClock()
    with InMemoryDriver(clock=clock) as driver:
        keeper = make_keeper(driver, TIMEOUT_SECONDS, None)
        queue = driver.declare_queue("stock")
        driver.send(queue, [Message("1", "{}")])

        keeper.hold(driver.receive(queue, 1, 0, visibility_timeout_seconds=TIMEOUT_SECONDS))

        eventually(lambda: clock.given_up > 2)
        assert "renewing leases failed" not in caplog.text
