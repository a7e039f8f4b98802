"""Events held back, events written down, and who listens to what."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass

import pytest

from melange import ConfigurationError, DomainEvent, DomainEventBus, DomainSubscriber
from melange.domain import Subscribers

pytest_plugins = ["melange.testing.fixtures"]


@dataclass(frozen=True)
class Numbered(DomainEvent):
    number: int


class Other:
    pass


def defer_and_fail(bus: DomainEventBus, event: object) -> None:
    with bus.deferred():
        bus.publish(event)
        raise LookupError


class TestDeferred:
    def test_events_are_held_until_the_block_has_ended_well(self, bus, seen) -> None:
        bus.on(Numbered)(seen.append)

        with bus.deferred():
            bus.publish(Numbered(1))
            bus.publish(Numbered(2))
            held = list(seen)

        assert held == []
        assert seen == [Numbered(1), Numbered(2)]

    def test_they_are_dropped_if_it_raises(self, bus, seen) -> None:
        bus.on(Numbered)(seen.append)

        with pytest.raises(LookupError):
            defer_and_fail(bus, Numbered(1))
        bus.publish(Numbered(2))

        assert seen == [Numbered(2)]

    def test_they_are_handled_before_those_that_follow_from_them(self, bus, seen) -> None:
        @bus.on(Numbered)
        def follow(event):
            seen.append(event.number)
            if event.number < 10:
                bus.publish(Numbered(event.number + 10))

        with bus.deferred():
            bus.publish(Numbered(1))
            bus.publish(Numbered(2))

        assert seen == [1, 2, 11, 12]

    def test_an_inner_block_hands_them_to_the_outer_one(self, bus, seen) -> None:
        bus.on(Numbered)(seen.append)

        with bus.deferred():
            with bus.deferred():
                bus.publish(Numbered(1))
            with pytest.raises(LookupError):
                defer_and_fail(bus, Numbered(2))
            held = list(seen)

        assert held == []
        assert seen == [Numbered(1)]

    def test_in_a_subscriber_they_wait_for_their_turn(self, bus, seen) -> None:
        @bus.on(Other)
        def defer(event):
            with bus.deferred():
                bus.publish(Numbered(1))
            seen.append("block is over")

        bus.on(Numbered)(seen.append)

        bus.publish(Other())

        assert seen == ["block is over", Numbered(1)]

    def test_what_was_subscribed_inside_hears_them_and_stays(self, bus, seen) -> None:
        with bus.deferred():
            bus.publish(Numbered(1))
            bus.on(Numbered)(seen.append)
        bus.publish(Numbered(2))

        assert seen == [Numbered(1), Numbered(2)]

    def test_any_number_can_be_held(self, seen) -> None:
        bus = DomainEventBus(cascade_limit=10)
        bus.on(Numbered)(seen.append)

        with bus.deferred():
            for number in range(100):
                bus.publish(Numbered(number))

        assert len(seen) == 100

    def test_an_asynchronous_subscriber_is_refused_where_the_event_is_published(self, bus, seen) -> None:
        @bus.on(Numbered)
        async def listen(event):
            seen.append(event)

        with bus.deferred(), pytest.raises(ConfigurationError, match="asynchronous"):
            bus.publish(Numbered(1))

        assert seen == []

    def test_async_with_publishes_to_asynchronous_subscribers(self, bus, seen) -> None:
        @bus.on(Numbered)
        async def listen(event):
            seen.append(event.number)

        async def main():
            async with bus.deferred():
                bus.publish(Numbered(1))
                await bus.publish_async(Numbered(2))
                seen.append("held")

        async def fail():
            async with bus.deferred():
                bus.publish(Numbered(3))
                raise LookupError

        asyncio.run(main())
        with pytest.raises(LookupError):
            asyncio.run(fail())

        assert seen == ["held", 1, 2]

    def test_errors_may_be_collected(self, bus) -> None:
        @bus.on(Numbered)
        def fail(event):
            raise LookupError(event.number)

        def publish_two():
            with bus.deferred(errors="collect"):
                bus.publish(Numbered(1))
                bus.publish(Numbered(2))

        with pytest.raises(ExceptionGroup) as raised:
            publish_two()

        assert [error.args for error in raised.value.exceptions] == [(1,), (2,)]

    def test_a_block_that_publishes_nothing_does_nothing(self, bus) -> None:
        with bus.deferred():
            assert not bus.is_publishing()

    def test_a_scope_inside_does_not_let_them_out(self, bus, seen) -> None:
        group = Subscribers()
        group.on(Numbered)(seen.append)

        with bus.deferred(), bus.scope(group):
            bus.publish(Numbered(1))
            assert seen == []


class TestRecording:
    def test_the_events_of_the_block_are_listed_as_they_are_handled(self, bus) -> None:
        @bus.on(Other)
        def follow(event):
            bus.publish(Numbered(1))

        bus.publish(Numbered(0))
        with bus.recording() as events:
            bus.publish(other := Other())
            bus.publish(Numbered(2))
        bus.publish(Numbered(3))

        assert events == [other, Numbered(1), Numbered(2)]

    def test_an_event_is_listed_though_a_subscriber_fails(self, bus) -> None:
        @bus.on(Numbered)
        def fail(event):
            raise LookupError

        with bus.recording() as events, pytest.raises(LookupError):
            bus.publish(Numbered(1))

        assert events == [Numbered(1)]

    def test_what_was_subscribed_inside_stays(self, bus, seen) -> None:
        with bus.recording():
            bus.on(Numbered)(seen.append)
        bus.publish(Numbered(1))

        assert seen == [Numbered(1)]
        assert len(bus.subscriptions) == 1

    def test_recordings_may_overlap(self, bus) -> None:
        with bus.recording() as outer:
            bus.publish(1)
            with bus.recording() as inner:
                bus.publish(2)
            bus.publish(3)

        assert (outer, inner) == ([1, 2, 3], [2])

    def test_reset_inside_ends_it(self, bus) -> None:
        with bus.recording() as events:
            bus.reset()
            bus.publish(1)

        assert events == []
        assert bus.subscriptions == ()


class TestFixture:
    def test_it_lists_what_the_test_publishes(self, domain_events) -> None:
        Numbered(1).emit()

        assert domain_events == [Numbered(1)]

    def test_subscribers_of_a_test_end_with_it(self, domain_events) -> None:
        DomainEventBus.instance().on(Numbered)(lambda event: None)

    @pytest.fixture(autouse=True)
    def _nothing_stays(self):
        before = DomainEventBus.instance().subscriptions
        yield
        assert DomainEventBus.instance().subscriptions == before


class TestDescription:
    def test_it_says_who_listens_to_what_in_order(self, bus) -> None:
        describe_all(bus)

        described = bus.describe()

        assert described == {
            f"{__name__}.Numbered": [f"{__name__}.describe_all.<locals>.first", f"{__name__}.Watcher"],
            f"{__name__}.Other": [f"{__name__}.describe_all.<locals>.first", f"{__name__}.second"],
            "*": [f"{__name__}.Everything"],
        }

    def test_a_group_is_described_as_a_bus_is(self, bus) -> None:
        group = Subscribers()
        describe_all(bus)
        describe_all(group)

        assert group.describe() == bus.describe()
        assert group.graph() == bus.graph()

    def test_the_graph_is_a_mermaid_flowchart(self, bus) -> None:
        describe_all(bus)

        assert bus.graph() == (
            "flowchart LR\n"
            f'    event0(["{__name__}.Numbered"])\n'
            f'    event1(["{__name__}.Other"])\n'
            '    event2(["every event"])\n'
            f'    handler0["{__name__}.describe_all.&lt;locals&gt;.first"]\n'
            f'    handler1["{__name__}.Watcher"]\n'
            f'    handler2["{__name__}.second"]\n'
            f'    handler3["{__name__}.Everything"]\n'
            "    event0 --> handler0\n"
            "    event0 --> handler1\n"
            "    event1 --> handler0\n"
            "    event1 --> handler2\n"
            "    event2 --> handler3\n"
        )

    def test_nobody_is_an_empty_description(self, bus) -> None:
        assert bus.describe() == {}
        assert bus.graph() == "flowchart LR\n"


class Watcher(DomainSubscriber):
    def process(self, event): ...

    def listens_to(self):
        return [Numbered]


class Everything(DomainSubscriber):
    def process(self, event): ...


def second(event: Other, option: int = 0) -> None: ...


def describe_all(registry: DomainEventBus | Subscribers) -> None:
    @registry.on
    def first(event: Numbered | Other) -> None: ...

    registry.subscribe(Watcher())
    registry.subscribe(functools.partial(second, option=1))
    registry.on(Numbered)(first)
    registry.subscribe(Everything())
