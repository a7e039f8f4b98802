"""Asynchronous subscribers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from melange import CascadeError, ConfigurationError, DomainEventBus, DomainSubscriber


@dataclass(frozen=True)
class Numbered:
    number: int


class Other:
    pass


def publish(bus: DomainEventBus, event: object, errors: str = "raise") -> None:
    asyncio.run(bus.publish_async(event, errors))


def test_both_kinds_are_called_one_after_the_other_in_order(bus, seen) -> None:
    @bus.on(Numbered)
    async def slow(event):
        seen.append("slow begins")
        await asyncio.sleep(0)
        seen.append("slow ends")

    @bus.on(Numbered)
    def plain(event):
        seen.append("plain")

    class Subscriber(DomainSubscriber):
        async def process(self, event):
            seen.append("subscriber")

    class Listening:
        async def __call__(self, event: Numbered) -> None:
            seen.append("object")

    bus.subscribe(Subscriber())
    bus.subscribe(Listening())

    publish(bus, Numbered(1))

    assert seen == ["slow begins", "slow ends", "plain", "subscriber", "object"]


def test_what_a_plain_function_returns_is_awaited_if_it_can_be(bus, seen) -> None:
    async def work(event):
        seen.append(event)

    @bus.on(Numbered)
    def coroutine(event):
        return work(event)

    @bus.on(Numbered)
    def task(event):
        return asyncio.ensure_future(work(event))

    bus.on(Numbered)(lambda event: event)

    publish(bus, Numbered(1))
    publish(bus, Numbered(2), "collect")

    assert seen == [Numbered(1)] * 2 + [Numbered(2)] * 2


@pytest.mark.parametrize("asynchronously", [True, False])
def test_events_that_follow_are_handled_breadth_first(bus, seen, asynchronously) -> None:
    @bus.on(Numbered)
    async def first(event):
        if event.number < 4:
            for number in (event.number * 2, event.number * 2 + 1):
                if asynchronously:
                    await bus.publish_async(Numbered(number))
                else:
                    bus.publish(Numbered(number))
        seen.append(event.number)

    publish(bus, Numbered(1))

    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_an_endless_chain_ends_in_a_clear_error(seen) -> None:
    bus = DomainEventBus(cascade_limit=10)

    @bus.on(Numbered)
    async def again(event):
        seen.append(event)
        await bus.publish_async(Numbered(event.number + 1))

    with pytest.raises(CascadeError):
        publish(bus, Numbered(0))

    assert len(seen) == 11


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_error_passes_and_the_bus_works_on(bus, seen, error, fails_at) -> None:
    @bus.on(Numbered)
    async def follow(event):
        if event.number < 3:
            await bus.publish_async(Numbered(event.number + 1))
        if event.number == fails_at:
            raise error

    async def main():
        with pytest.raises(error) as raised:
            await bus.publish_async(Numbered(1))
        assert raised.value.__notes__[0].endswith("follow, handling Numbered")
        assert not bus.is_publishing()
        bus.on(Numbered)(seen.append)
        await bus.publish_async(Numbered(7))

    asyncio.run(main())

    assert seen == [Numbered(7)]


def test_cancelling_a_publish_leaves_the_bus_working(bus, seen) -> None:
    @bus.on(Other)
    async def hang(event):
        bus.publish(Numbered(1))
        await asyncio.Event().wait()

    bus.on(Numbered)(seen.append)

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bus.publish_async(Other())
        bus.publish(Numbered(2))

    asyncio.run(main())

    assert seen == [Numbered(2)]


def test_collect_runs_all_and_raises_one_group(bus, seen) -> None:
    @bus.on(Numbered)
    async def fail(event):
        if event.number == 1:
            bus.publish(Numbered(2))
        raise LookupError(event.number)

    bus.on(Numbered)(seen.append)

    with pytest.raises(ExceptionGroup) as raised:
        publish(bus, Numbered(1), "collect")

    assert [error.args for error in raised.value.exceptions] == [(1,), (2,)]
    assert seen == [Numbered(1), Numbered(2)]


def test_any_other_policy_is_refused(bus) -> None:
    with pytest.raises(ConfigurationError, match="errors must be 'raise' or 'collect'"):
        publish(bus, Numbered(1), "ignore")


def test_a_synchronous_publish_in_a_running_loop_calls_plain_subscribers(bus, seen) -> None:
    bus.on(Numbered)(seen.append)

    async def main():
        bus.publish(Numbered(1))
        bus.publish(Numbered(2), errors="collect")

    asyncio.run(main())

    assert seen == [Numbered(1), Numbered(2)]


def test_it_works_without_asyncio(bus, seen) -> None:
    """As under another library of tasks."""

    @bus.on(Numbered)
    async def listen(event):
        seen.append(event)

    with pytest.raises(StopIteration):
        bus.publish_async(Numbered(1)).send(None)

    assert seen == [Numbered(1)]
