"""Which event is being handled where the call comes from."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from melange import DomainEventBus


@dataclass(frozen=True)
class Numbered:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


@pytest.fixture
def look(bus, seen):
    """Write down what is being handled now."""
    return lambda event=None: seen.append(bus.event_being_handled())


def no_block(bus):
    return contextlib.nullcontext()


@pytest.mark.parametrize("errors", ["raise", "collect"])
def test_it_is_the_event_of_the_subscriber_that_calls(bus, seen, look, errors) -> None:
    bus.on(Numbered)(look)

    look()
    bus.publish(Numbered(1), errors)
    look()

    assert seen == [None, Numbered(1), None]


@pytest.mark.parametrize("errors", ["raise", "collect"])
def test_an_event_that_waits_is_being_handled_when_its_turn_comes(bus, seen, look, errors) -> None:
    @bus.on(Numbered)
    def follow(event):
        bus.publish(Other(event.number))
        look()

    bus.on(Numbered, Other)(look)

    bus.publish(Numbered(1), errors)

    assert seen == [Numbered(1), Numbered(1), Other(1)]


@pytest.mark.parametrize("errors", ["raise", "collect"])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_after_an_error_nothing_is_being_handled(bus, seen, look, error, errors) -> None:
    @bus.on(Numbered)
    def fail(event):
        raise error

    with pytest.raises((error, ExceptionGroup)):
        bus.publish(Numbered(1), errors)
    look()

    assert seen == [None]


def test_the_bus_does_not_keep_the_event(bus) -> None:
    bus.on(Numbered)(lambda event: None)

    bus.publish(Numbered(1))
    asyncio.run(bus.publish_async(Numbered(1)))

    assert bus._current().drain.event is None


def test_each_bus_has_its_own(bus, look, seen) -> None:
    another = DomainEventBus()
    another.on(Numbered)(look)

    another.publish(Numbered(1))

    assert seen == [None]


def test_another_thread_handles_nothing(bus, seen, look) -> None:
    with ThreadPoolExecutor(1) as pool:
        bus.on(Numbered)(lambda event: pool.submit(look).result())
        bus.on(Numbered)(lambda event: pool.submit(bus.carry(look)).result())

        bus.publish(Numbered(1))

    assert seen == [None, None]


class TestBlocks:
    def test_in_a_scope_of_a_subscriber_it_is_the_innermost_event(self, bus, seen, look) -> None:
        @bus.on(Numbered)
        def open_scope(event):
            with bus.scope():
                look()
                bus.publish(Other(2))
                with bus.scope():
                    look()

        bus.on(Other)(look)

        bus.publish(Numbered(1))

        assert seen == [Numbered(1), Other(2), Numbered(1)]

    def test_a_block_alone_handles_nothing(self, bus, seen, look) -> None:
        with bus.scope(), bus.deferred():
            bus.publish(Numbered(1))
            look()

        assert seen == [None]

    def test_events_that_were_held_back_are_handled_when_the_block_ends(self, bus, seen, look) -> None:
        bus.on(Numbered)(look)

        with bus.deferred():
            bus.publish(Numbered(1))
            bus.publish(Numbered(2))

        assert seen == [Numbered(1), Numbered(2)]

    def test_a_block_of_a_subscriber_leaves_its_event(self, bus, seen, look) -> None:
        @bus.on(Numbered)
        def hold(event):
            with bus.deferred(), bus.scope(), bus.deferred():
                bus.publish(Other(2))
                look()
            look()

        bus.on(Other)(look)

        bus.publish(Numbered(1))

        assert seen == [Numbered(1), Numbered(1), Other(2)]


class TestTasks:
    @pytest.mark.parametrize("errors", ["raise", "collect"])
    def test_it_is_the_same_before_and_after_an_await(self, bus, seen, look, errors) -> None:
        @bus.on(Numbered)
        async def follow(event):
            await bus.publish_async(Other(event.number))
            look()
            await asyncio.sleep(0)
            look()

        @bus.on(Other)
        async def other(event):
            await asyncio.sleep(0)
            look()

        async def main():
            await bus.publish_async(Numbered(1), errors)
            look()

        asyncio.run(main())

        assert seen == [Numbered(1), Numbered(1), Other(1), None]

    @pytest.mark.parametrize("block", [no_block, DomainEventBus.scope, DomainEventBus.deferred])
    def test_a_task_that_a_subscriber_started_handles_nothing(self, bus, seen, look, block) -> None:
        async def child():
            with block(bus):
                look()

        @bus.on(Numbered)
        async def start(event):
            await asyncio.create_task(child())
            with bus.scope():
                await asyncio.create_task(child())
            look()

        asyncio.run(bus.publish_async(Numbered(1)))

        assert seen == [None, None, Numbered(1)]

    def test_tasks_that_publish_at_the_same_time_see_each_their_own(self, bus, seen) -> None:
        @bus.on(Numbered)
        async def wait(event):
            for _ in range(5):
                await asyncio.sleep(0)
                seen.append(bus.event_being_handled() == event)

        async def main():
            async with asyncio.TaskGroup() as tasks:
                for number in range(10):
                    tasks.create_task(bus.publish_async(Numbered(number)))

        asyncio.run(main())

        assert seen == [True] * 50

    def test_a_child_that_publishes_in_the_scope_of_its_parent_hides_nothing(self, bus, seen, look) -> None:
        @bus.on(Other)
        async def slow(event):
            await asyncio.sleep(0)
            look()

        @bus.on(Numbered)
        async def start(event):
            with bus.scope():
                child = asyncio.create_task(bus.publish_async(Other(2)))
                await asyncio.sleep(0)
                look()
                await child

        asyncio.run(bus.publish_async(Numbered(1)))

        assert seen == [Numbered(1), Other(2)]
