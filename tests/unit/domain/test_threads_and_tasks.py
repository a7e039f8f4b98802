"""Each thread and each task has its own subscribers, by whatever way the work got there."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from melange import ConfigurationError, DomainEventBus
from melange.domain import Subscribers
from unit.domain.given import in_a_thread, names


class Happened:
    pass


def alpha(event: object) -> None: ...


def beta(event: object) -> None: ...


def subscribe(bus: DomainEventBus, *functions) -> None:
    for function in functions:
        bus.subscribe(function)


class TestThreads:
    def test_a_new_thread_starts_empty_and_works_without_reset(self, bus, seen) -> None:
        subscribe(bus, alpha)

        def work():
            before = names(bus)
            bus.publish(Happened())
            bus.on(Happened)(seen.append)
            bus.publish(event := Happened())
            return before, event

        before, event = in_a_thread(work)

        assert before == []
        assert seen == [event]
        assert names(bus) == ["alpha"]

    def test_a_thread_that_is_started_in_a_copy_of_the_context_starts_empty(self, bus) -> None:
        """As free-threaded Python starts every thread."""
        subscribe(bus, alpha)

        context = contextvars.copy_context()

        assert in_a_thread(lambda: context.run(names, bus)) == []

    def test_threads_do_not_hear_each_other(self, bus) -> None:
        heard: dict[int, list[int]] = {number: [] for number in range(4)}
        barrier = threading.Barrier(4)

        def work(number):
            bus.on(int)(heard[number].append)
            barrier.wait(10)
            for _ in range(200):
                bus.publish(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))

        assert heard == {number: [number] * 200 for number in range(4)}

    def test_a_worker_keeps_what_its_last_job_subscribed_until_reset(self, bus) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(subscribe, bus, alpha).result()
            kept = pool.submit(names, bus).result()
            pool.submit(bus.reset).result()
            after = pool.submit(names, bus).result()

        assert (kept, after) == (["alpha"], [])

    def test_a_job_in_a_scope_leaves_nothing_behind(self, bus) -> None:
        def job():
            with bus.scope():
                subscribe(bus, alpha)
                return names(bus)

        with ThreadPoolExecutor(1) as pool:
            inside = pool.submit(job).result()
            after = pool.submit(names, bus).result()

        assert (inside, after) == (["alpha"], [])

    def test_a_group_may_be_open_in_many_threads_at_once(self, bus) -> None:
        group = Subscribers()
        heard: list[int] = []
        group.on(int)(heard.append)
        barrier = threading.Barrier(4)

        def work(number):
            with bus.scope(group):
                barrier.wait(10)
                bus.publish(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))

        assert sorted(heard) == [0, 1, 2, 3]

    def test_another_thread_is_not_publishing(self, bus) -> None:
        answers = []
        bus.on(Happened)(lambda event: answers.append(in_a_thread(bus.is_publishing)))

        bus.publish(Happened())

        assert answers == [False]


class TestCarry:
    def test_a_function_takes_the_subscribers_along_and_leaves_none_behind(self, bus) -> None:
        subscribe(bus, alpha)

        def job(other):
            bus.subscribe(other)
            return names(bus)

        carried = bus.carry(job)
        subscribe(bus, make("later"))
        with ThreadPoolExecutor(1) as pool:
            inside = pool.submit(carried, beta).result()
            after = pool.submit(names, bus).result()

        assert inside == ["alpha", "beta"]
        assert after == []
        assert names(bus) == ["alpha", "later"]

    def test_it_publishes_on_its_own_though_the_caller_is_publishing(self, bus, seen) -> None:
        bus.on(str)(seen.append)

        @bus.on(Happened)
        def hand_over(event):
            in_a_thread(bus.carry(lambda: bus.publish("from the other thread")))
            seen.append("handed over")

        bus.publish(Happened())

        assert seen == ["from the other thread", "handed over"]

    def test_it_works_in_the_same_thread_too(self, bus) -> None:
        carried = bus.carry(lambda: names(bus))
        subscribe(bus, alpha)

        assert carried() == []
        assert names(bus) == ["alpha"]

    def test_coroutine_functions_need_it_not(self, bus) -> None:
        async def work():
            pass

        with pytest.raises(ConfigurationError, match="leave carry\\(\\) out"):
            bus.carry(work)


class TestTasks:
    def test_a_child_starts_with_what_its_parent_had_and_changes_cross_in_neither_direction(
        self, bus
    ) -> None:
        async def child(parent_went_on: asyncio.Event, child_subscribed: asyncio.Event):
            at_first = names(bus)
            subscribe(bus, beta)
            child_subscribed.set()
            await parent_went_on.wait()
            return at_first, names(bus)

        async def parent():
            subscribe(bus, alpha)
            parent_went_on, child_subscribed = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(child(parent_went_on, child_subscribed))
            await child_subscribed.wait()
            subscribe(bus, make("gamma"))
            parent_went_on.set()
            return await task, names(bus)

        (at_first, in_child), in_parent = asyncio.run(parent())

        assert at_first == ["alpha"]
        assert in_child == ["alpha", "beta"]
        assert in_parent == ["alpha", "gamma"]
        assert names(bus) == []  # asyncio.run works in a copy, too

    def test_siblings_do_not_hear_each_other(self, bus) -> None:
        heard: dict[int, list[int]] = {number: [] for number in range(4)}

        async def work(number):
            bus.on(int)(heard[number].append)
            for _ in range(20):
                await asyncio.sleep(0)
                bus.publish(number)

        async def main():
            await asyncio.gather(*map(work, range(4)))

        asyncio.run(main())

        assert heard == {number: [number] * 20 for number in range(4)}

    def test_a_job_under_to_thread_starts_empty_and_leaves_nothing_behind(self, bus) -> None:
        def job():
            before = names(bus)
            subscribe(bus, beta)
            return before

        async def main():
            subscribe(bus, alpha)
            asyncio.get_running_loop().set_default_executor(pool := ThreadPoolExecutor(1))
            jobs = [await asyncio.to_thread(job), await asyncio.to_thread(job)]
            plain = pool.submit(names, bus).result()
            return jobs, plain, names(bus)

        assert asyncio.run(main()) == ([[], []], [], ["alpha"])

    def test_reset_in_a_worker_of_anyio_or_asgiref_leaves_the_caller_alone(self, bus) -> None:
        async def main():
            subscribe(bus, alpha)
            await anyio.to_thread.run_sync(bus.reset)
            await sync_to_async(bus.reset, thread_sensitive=False)()
            await sync_to_async(bus.reset, thread_sensitive=True)()
            return names(bus), await sync_to_async(names)(bus), await anyio.to_thread.run_sync(names, bus)

        assert asyncio.run(main()) == (["alpha"], [], [])

    def test_sync_code_that_asgiref_brings_back_to_its_thread_has_that_threads_subscribers(self, bus) -> None:
        subscribe(bus, alpha)

        async def view():
            return names(bus), await sync_to_async(names)(bus)

        in_the_loops_thread, back_home = async_to_sync(view)()

        assert back_home == ["alpha"]
        assert in_the_loops_thread in ([], ["alpha"])  # newer versions run the loop in the caller's thread

    def test_a_scope_that_is_left_in_another_context_is_left(self, bus) -> None:
        """As an asynchronous fixture or generator may."""
        subscribe(bus, alpha)
        scope = bus.scope()
        contextvars.copy_context().run(scope.__enter__)

        scope.__exit__(None, None, None)

        assert names(bus) == ["alpha"]


class TestTasksThatPublish:
    def test_a_child_does_not_drain_its_parents_queue_nor_wait_for_it(self, bus, seen) -> None:
        @bus.on(Happened)
        async def parent_handler(event):
            async def child():
                await bus.publish_async("child")
                seen.append("child has published")

            bus.publish("parent")
            await asyncio.create_task(child())
            seen.append("parent handled")

        bus.on(str)(seen.append)

        asyncio.run(bus.publish_async(Happened()))

        assert seen == ["child", "child has published", "parent handled", "parent"]

    def test_a_child_that_outlives_the_publish_publishes_on_its_own(self, bus, seen) -> None:
        async def main():
            tasks = []

            async def child():
                await asyncio.sleep(0)
                bus.publish("child")

            @bus.on(Happened)
            async def start(event):
                tasks.append(asyncio.create_task(child()))

            bus.on(str)(seen.append)
            await bus.publish_async(Happened())
            await asyncio.gather(*tasks)

        asyncio.run(main())

        assert seen == ["child"]

    def test_a_parent_publishes_while_its_child_is_in_the_middle_of_a_publish(self, bus, seen) -> None:
        async def main():
            child_is_publishing, go_on = asyncio.Event(), asyncio.Event()

            @bus.on(Happened)
            async def wait(event):
                child_is_publishing.set()
                await go_on.wait()
                seen.append("child")

            bus.on(str)(seen.append)
            task = asyncio.create_task(bus.publish_async(Happened()))
            await child_is_publishing.wait()
            assert not bus.is_publishing()
            bus.publish("parent")
            go_on.set()
            await task

        asyncio.run(main())

        assert seen == ["parent", "child"]

    def test_a_loop_that_a_subscriber_runs_publishes_on_its_own(self, bus, seen) -> None:
        @bus.on(Happened)
        def run_a_loop(event):
            asyncio.run(bus.publish_async("inside"))
            seen.append("loop is over")

        @bus.on(str)
        async def listen(event):
            seen.append(event)

        bus.publish(Happened())

        assert seen == ["inside", "loop is over"]

    def test_a_child_does_not_hold_back_what_its_parent_defers(self, bus, seen) -> None:
        bus.on(str)(seen.append)

        async def child():
            bus.publish("child")

        async def parent():
            async with bus.deferred():
                bus.publish("parent")
                await asyncio.create_task(child())

        asyncio.run(parent())

        assert seen == ["child", "parent"]


def make(name: str):
    def listen(event: object) -> None: ...

    listen.__name__ = name
    return listen
