"""Tasks of Trio are told apart, as those of asyncio are."""

from __future__ import annotations

import trio

from melange.domain import Subscribers
from unit.domain.given import names


class Happened:
    pass


def beta(event: object) -> None: ...


def test_events_of_one_task_are_not_handled_by_another(bus, seen) -> None:
    class Slow:
        pass

    async def main():
        is_handling, go_on = trio.Event(), trio.Event()

        @bus.on(Slow)
        async def handle(event):
            is_handling.set()
            await go_on.wait()
            seen.append(f"slow, in {trio.lowlevel.current_task().name}")

        @bus.on(str)
        def note(event):
            seen.append(f"{event}, in {trio.lowlevel.current_task().name}")

        async def first():
            await bus.publish_async(Slow())

        async def second():
            await is_handling.wait()
            assert not bus.is_publishing()
            bus.publish("quick")
            await bus.publish_async("awaited")
            go_on.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, name="first")
            nursery.start_soon(second, name="second")

    trio.run(main)

    assert seen == ["quick, in second", "awaited, in second", "slow, in first"]


def test_a_child_does_not_drain_its_parents_queue_nor_wait_for_it(bus, seen) -> None:
    @bus.on(Happened)
    async def parent(event):
        async def child():
            await bus.publish_async("child")

        bus.publish("parent")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        seen.append("handled")

    bus.on(str)(seen.append)

    trio.run(bus.publish_async, Happened())

    assert seen == ["child", "handled", "parent"]


def test_a_scope_follows_into_threads(bus) -> None:
    group = Subscribers()
    group.on(object)(beta)

    async def main():
        with bus.scope(group):
            return await trio.to_thread.run_sync(names, bus)

    assert trio.run(main) == ["beta"]
