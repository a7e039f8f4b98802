"""The in-memory driver against a model that does the same in the simplest way: one list, looked through each time."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from melange.drivers.base import QueueDepth
from melange.drivers.memory import InMemoryDriver
from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.errors import LeaseLostError
from melange.messages import Delivery, Message
from melange.testing import ManualClock

MAX_RECEIVE_COUNT = 3

groups = st.sampled_from("abc")
durations = st.sampled_from([0, 1, 5, 30])


@dataclass
class Sent:
    """A message as the model knows it."""

    body: str
    group: str
    visible_at: float
    receive_count: int = 0

    def is_spent(self) -> bool:
        return self.receive_count >= MAX_RECEIVE_COUNT

    def is_visible(self, now: float) -> bool:
        return self.visible_at <= now

    def is_in_flight(self, now: float) -> bool:
        return not self.is_visible(now) and self.receive_count > 0


@dataclass
class Held:
    """A delivery that somebody has, with the deadline that its holder knows of."""

    delivery: Delivery
    sent: Sent


@dataclass
class Model:
    in_queue: list[Sent] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    recent_ids: dict[str, float] = field(default_factory=dict)

    def spent(self) -> list[Sent]:
        return [sent for sent in self.in_queue if sent.is_spent()]


class QueueMachine(RuleBasedStateMachine):
    """What standard and FIFO queues have in common."""

    name = "queue"

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.driver = InMemoryDriver(clock=self.clock)
        suffix = ".fifo" if self.name.endswith(".fifo") else ""
        self.topic = self.driver.declare_topic(f"topic{suffix}")
        self.dead_letters = self.driver.declare_queue(f"dead-letters{suffix}")
        self.queue = self.driver.declare_queue(
            self.name,
            self.topic,
            dead_letter_queue=self.dead_letters,
            max_receive_count=MAX_RECEIVE_COUNT,
            retention_seconds=1_209_600,
        )
        self.model = Model()
        self.held: list[Held] = []
        self.bodies = map(str, range(1_000_000))

    @property
    def now(self):
        return self.clock.monotonic()

    def expected(self) -> list[Sent]:
        """What a receive may hand out now."""
        raise NotImplementedError

    def check_received(self, received: list[Sent], could_come: list[Sent], limit: int) -> None:
        raise NotImplementedError

    @rule(limit=st.integers(1, 10), visibility=durations)
    def receive(self, limit, visibility):
        could_come = self.expected()

        deliveries = self.driver.receive(self.queue, limit, 0, visibility_timeout_seconds=visibility)

        received = [self._sent(delivery) for delivery in deliveries]
        self.check_received(received, could_come, limit)
        for delivery, sent in zip(deliveries, received, strict=True):
            sent.receive_count += 1
            sent.visible_at = self.now + visibility
            assert delivery.receive_count == sent.receive_count
            assert delivery.deadline == sent.visible_at
            self.held.append(Held(delivery, sent))
        self._collect_dead_letters()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def acknowledge(self, data):
        some = data.draw(st.lists(st.sampled_from(self.held), max_size=4, unique_by=id))
        lost = []
        for held in some:
            if self._is_lost(held):
                lost.append(held.delivery)
            elif held.sent in self.model.in_queue:
                self.model.in_queue.remove(held.sent)

        failures = self.driver.acknowledge([held.delivery for held in some])

        self._check_failures(failures, lost)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), seconds=durations, goes_by_new_deadline=st.booleans())
    def defer(self, data, seconds, goes_by_new_deadline):
        some = data.draw(st.lists(st.sampled_from(self.held), max_size=4, unique_by=id))
        deliveries = [held.delivery for held in some]
        lost = []
        for held in some:
            if held.sent not in self.model.in_queue or self._is_lost(held):
                lost.append(held.delivery)
                continue
            held.sent.visible_at = self.now + seconds
            if goes_by_new_deadline:
                held.delivery = held.delivery._replace(deadline=held.sent.visible_at)

        failures = self.driver.defer(deliveries, seconds)

        self._check_failures(failures, lost)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 40]))
    def let_time_pass(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def counts_agree(self):
        in_queue = self.model.in_queue
        in_flight = sum(sent.is_in_flight(self.now) for sent in in_queue)
        visible = sum(sent.is_visible(self.now) for sent in in_queue)

        depth = self.driver.measure_queue(self.queue)

        assert depth == QueueDepth(visible, in_flight, delayed=len(in_queue) - visible - in_flight)

    def teardown(self):
        """Nothing is lost: whatever was neither acknowledged nor dead-lettered can still be received."""
        while self.model.in_queue:
            self.clock.advance(1_000)
            deliveries = self.driver.receive(self.queue, 10, 0)
            assert self.driver.acknowledge(deliveries) == []
            for delivery in deliveries:
                self.model.in_queue.remove(self._sent(delivery))
            dead = len(self.model.dead)
            self._collect_dead_letters()
            assert deliveries or len(self.model.dead) > dead, "the queue holds messages and gives none"
        self.driver.close()

    def _sent(self, delivery):
        return next(sent for sent in self.model.in_queue if sent.body == delivery.message.body)

    def _is_lost(self, held):
        if held.sent not in self.model.in_queue:
            # Gone for good, be it by this delivery or a later one: there is nothing to lose any more.
            return self.now >= held.delivery.deadline
        is_latest = held.delivery.receive_count == held.sent.receive_count
        return not is_latest or self.now >= min(held.sent.visible_at, held.delivery.deadline)

    def _check_failures(self, failures, lost):
        assert [failure.item for failure in failures] == lost
        assert all(isinstance(failure.error, LeaseLostError) for failure in failures)

    def _collect_dead_letters(self):
        """Take note of what was dead-lettered; the queue does so when it comes to it, not when it could."""
        while deliveries := self.driver.receive(self.dead_letters, 10, 0):
            assert self.driver.acknowledge(deliveries) == []
            for delivery in deliveries:
                sent = self._sent(delivery)
                assert sent.is_spent()
                assert sent.is_visible(self.now)
                assert delivery.receive_count == sent.receive_count + 1
                self.model.in_queue.remove(sent)
                self.model.dead.append(sent.body)


class StandardQueueMachine(QueueMachine):
    @rule(count=st.integers(1, 5))
    def publish(self, count):
        messages = [Message(f"id-{body}", body) for _, body in zip(range(count), self.bodies, strict=False)]

        assert self.driver.publish(self.topic, messages) == []

        self.model.in_queue += [Sent(message.body, "", visible_at=self.now) for message in messages]

    @rule(seconds=durations)
    def send_later(self, seconds):
        body = next(self.bodies)

        assert self.driver.send(self.queue, [Message(f"id-{body}", body)], delay_seconds=seconds) == []

        self.model.in_queue.append(Sent(body, "", visible_at=self.now + seconds))

    def expected(self):
        return [sent for sent in self.model.in_queue if sent.is_visible(self.now) and not sent.is_spent()]

    def check_received(self, received, could_come, limit):
        assert all(sent in could_come for sent in received)
        assert len(received) == min(limit, len(could_come))


class FifoQueueMachine(QueueMachine):
    name = "queue.fifo"

    @rule(group=groups, ids=st.lists(st.integers(0, 40), min_size=1, max_size=5))
    def publish(self, group, ids):
        messages = [
            Message(f"id-{body}", body, message_group_id=group, message_deduplication_id=f"once-{number}")
            for number, body in zip(ids, self.bodies, strict=False)
        ]

        assert self.driver.publish(self.topic, messages) == []

        for message in messages:
            used_until = self.model.recent_ids.get(message.message_deduplication_id, 0)
            if used_until <= self.now:
                self.model.recent_ids[message.message_deduplication_id] = self.now + DEDUPLICATION_SECONDS
                self.model.in_queue.append(Sent(message.body, group, visible_at=self.now))

    def expected(self):
        """Of each group, what comes before its first invisible message."""
        blocked: set[str] = set()
        found = []
        for sent in self.model.in_queue:
            if not sent.is_visible(self.now):
                blocked.add(sent.group)
            elif sent.group not in blocked and not sent.is_spent():
                found.append(sent)
        return found

    def check_received(self, received, could_come, limit):
        for group in {sent.group for sent in received}:
            in_order = [sent for sent in could_come if sent.group == group]
            came = [sent for sent in received if sent.group == group]
            assert came == in_order[: len(came)]
        # What is dead-lettered on the way takes its place in this receive.
        enough = min(limit, len(could_come)) if not self.model.spent() else min(1, len(could_come))
        assert enough <= len(received) <= limit


for machine in (StandardQueueMachine, FifoQueueMachine):
    machine.TestCase.settings = settings(stateful_step_count=40)

TestStandardQueue = StandardQueueMachine.TestCase
TestFifoQueue = FifoQueueMachine.TestCase
