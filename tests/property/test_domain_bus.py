"""The domain event bus against a model of a few lines."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from melange import DomainEventBus


class Event:
    def __init__(self, generation: int = 0) -> None:
        self.generation = generation


class Product(Event): ...


class Added(Product): ...


class Removed(Product): ...


class Other(Event): ...


EVENT_TYPES = [Event, Product, Added, Removed, Other]
GENERATIONS = 3


class Failure(Exception):
    pass


@dataclass(frozen=True)
class Reaction:
    """A subscriber: what it listens to, which events it publishes, and the generation in which it fails."""

    number: int
    listens_to: tuple[type, ...]
    publishes: tuple[type[Event], ...]
    fails_in: int | None
    is_asynchronous: bool = False


@dataclass
class Log:
    calls: list[tuple[int, str, int]] = field(default_factory=list)
    failures: int = 0


def model(reactions: list[Reaction], event: Event, *, collect: bool) -> Log:
    log, queue = Log(), deque([event])
    while queue:
        event = queue.popleft()
        for reaction in reactions:
            if not isinstance(event, reaction.listens_to):
                continue
            log.calls.append((reaction.number, type(event).__name__, event.generation))
            if event.generation < GENERATIONS:
                queue.extend(event_type(event.generation + 1) for event_type in reaction.publishes)
            if event.generation == reaction.fails_in:
                log.failures += 1
                if not collect:
                    return log
    return log


def subscribe(bus: DomainEventBus, reaction: Reaction, log: Log) -> None:
    def react(event):
        log.calls.append((reaction.number, type(event).__name__, event.generation))
        if event.generation < GENERATIONS:
            for event_type in reaction.publishes:
                bus.publish(event_type(event.generation + 1))
        if event.generation == reaction.fails_in:
            raise Failure

    async def react_async(event):
        await asyncio.sleep(0)
        react(event)

    bus.on(reaction.listens_to[0], *reaction.listens_to[1:])(
        react_async if reaction.is_asynchronous else react
    )


def reactions(is_asynchronous) -> st.SearchStrategy[list[Reaction]]:
    types = st.sampled_from(EVENT_TYPES)
    one = st.builds(
        Reaction,
        number=st.just(0),
        listens_to=st.lists(types, min_size=1, max_size=2).map(tuple),
        publishes=st.lists(types, max_size=2).map(tuple),
        fails_in=st.none() | st.integers(0, GENERATIONS),
        is_asynchronous=is_asynchronous,
    )
    return st.lists(one, max_size=4).map(
        lambda found: [
            Reaction(number, one.listens_to, one.publishes, one.fails_in, one.is_asynchronous)
            for number, one in enumerate(found)
        ]
    )


@given(
    subscribed=reactions(st.just(False)),
    events=st.lists(st.sampled_from(EVENT_TYPES), max_size=3),
    collect=st.booleans(),
)
def test_a_bus_does_what_the_model_does(subscribed, events, collect) -> None:
    bus, log = DomainEventBus(cascade_limit=100_000), Log()
    for reaction in subscribed:
        subscribe(bus, reaction, log)

    for event_type in events:
        expected = model(subscribed, event_type(), collect=collect)
        log.calls.clear()
        failures = failures_of(
            lambda event_type=event_type: bus.publish(event_type(), "collect" if collect else "raise")
        )

        assert (log.calls, failures) == (expected.calls, expected.failures)
        assert not bus.is_publishing()


@given(subscribed=reactions(st.booleans()), event_type=st.sampled_from(EVENT_TYPES), collect=st.booleans())
def test_an_awaited_publish_does_what_the_model_does(subscribed, event_type, collect) -> None:
    bus, log = DomainEventBus(cascade_limit=100_000), Log()
    expected = model(subscribed, event_type(), collect=collect)

    def publish() -> None:
        for reaction in subscribed:
            subscribe(bus, reaction, log)
        asyncio.run(bus.publish_async(event_type(), "collect" if collect else "raise"))

    failures = failures_of(publish)

    assert (log.calls, failures) == (expected.calls, expected.failures)


def failures_of(publish) -> int:
    try:
        publish()
    except Failure:
        return 1
    except ExceptionGroup as group:
        return len(group.exceptions)
    return 0
