"""Scopes follow the context into threads and tasks, and end only where they were entered."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from melange import DomainEventBus
from melange.domain import Subscribers
from unit.domain.given import in_a_thread, names

ResultT = TypeVar("ResultT")


class Happened:
    pass


def group_of(*handlers) -> Subscribers:
    group = Subscribers()
    for handler in handlers:
        group.on(object)(handler)
    return group


def alpha(event: object) -> None: ...


def beta(event: object) -> None: ...


def gamma(event: object) -> None: ...


class TestFollowing:
    def test_a_scope_follows_into_thread_pools_and_bare_subscribers_do_not(self, bus) -> None:
        async def main():
            bus.subscribe(alpha)
            with bus.scope(group_of(beta)):
                return [
                    names(bus),
                    await asyncio.to_thread(names, bus),
                    await anyio.to_thread.run_sync(names, bus),
                    await sync_to_async(names, thread_sensitive=False)(bus),
                    await sync_to_async(names, thread_sensitive=True)(bus),
                ]

        assert asyncio.run(main()) == [["alpha", "beta"], *[["beta"]] * 4]

    def test_what_a_worker_subscribes_in_a_scope_that_followed_stays_there(self, bus) -> None:
        def job():
            bus.subscribe(gamma)
            return names(bus)

        async def main():
            asyncio.get_running_loop().set_default_executor(pool := ThreadPoolExecutor(1))
            with bus.scope(group_of(beta)):
                inside = await asyncio.to_thread(job)
                return (
                    inside,
                    await asyncio.to_thread(names, bus),
                    pool.submit(names, bus).result(),
                    names(bus),
                )

        assert asyncio.run(main()) == (["beta", "gamma"], ["beta"], [], ["beta"])

    def test_a_thread_without_the_context_is_in_no_scope(self, bus) -> None:
        with bus.scope(group_of(beta)):
            assert in_a_thread(lambda: names(bus)) == []

    def test_a_thread_that_is_started_in_a_copy_of_the_context_is_in_the_scope(self, bus) -> None:
        with bus.scope(group_of(beta)):
            context = contextvars.copy_context()

        assert in_a_thread(lambda: context.run(names, bus)) == ["beta"]

    def test_a_scope_that_asynchronous_code_opens_is_there_where_asgiref_brings_the_code_back(
        self, bus
    ) -> None:
        """As for a synchronous view below an asynchronous middleware, by asgiref."""
        bus.subscribe(alpha)
        bus.publish(Happened())

        async def middleware():
            with bus.scope(group_of(beta)):
                return await sync_to_async(names)(bus)

        assert async_to_sync(middleware)() == ["alpha", "beta"]
        assert names(bus) == ["alpha"]

    def test_the_transaction_of_the_scope_follows_too(self, bus, seen) -> None:
        calls: list[Callable[[], None]] = []
        group = group_of(bus.after_commit(seen.append))

        async def main():
            with bus.scope(group, on_commit=calls.append):
                await asyncio.to_thread(bus.publish, "event")

        asyncio.run(main())
        before = list(seen)
        for call in calls:
            call()

        assert (before, seen) == ([], ["event"])

    def test_a_worker_publishes_on_its_own_while_the_caller_is_publishing(self, bus, seen) -> None:
        group = Subscribers()
        group.on(str)(seen.append)

        @group.on(Happened)
        async def hand_over(event):
            await asyncio.to_thread(bus.publish, "from the worker")
            seen.append((await asyncio.to_thread(bus.event_being_handled), "handed over"))

        async def main():
            with bus.scope(group):
                await bus.publish_async(Happened())

        asyncio.run(main())

        assert seen == ["from the worker", (None, "handed over")]

    def test_a_child_task_keeps_the_scope_that_it_began_in(self, bus) -> None:
        async def child(parent_has_left: asyncio.Event):
            await parent_has_left.wait()
            return names(bus)

        async def main():
            parent_has_left = asyncio.Event()
            with bus.scope(group_of(beta)):
                task = asyncio.create_task(child(parent_has_left))
                await asyncio.sleep(0)
            parent_has_left.set()
            return await task, names(bus)

        assert asyncio.run(main()) == (["beta"], [])


class TestLeavingElsewhere:
    """Requests that hold a scope in a generator, which another thread or task closes."""

    @staticmethod
    def request(bus: DomainEventBus, handler: Callable[[object], None]) -> Iterator[None]:
        with bus.scope(group_of(handler)):
            yield

    def test_the_thread_that_closes_it_keeps_its_own_scope(self, bus) -> None:
        first, second = self.request(bus, alpha), self.request(bus, beta)
        in_a_thread(lambda: next(first))
        next(second)

        first.close()
        inside = names(bus)
        second.close()

        assert (inside, names(bus)) == (["beta"], [])

    def test_the_thread_that_entered_it_is_out_of_it(self, bus) -> None:
        request = self.request(bus, alpha)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(next, request).result()
            inside = pool.submit(names, bus).result()
            request.close()
            bus_is_quiet = pool.submit(names, bus).result()
            pool.submit(bus.subscribe, gamma).result()
            after = pool.submit(names, bus).result()

        assert (inside, bus_is_quiet, after) == (["alpha"], [], ["gamma"])

    def test_events_go_to_nobody_of_a_scope_that_was_closed_elsewhere(self, bus, seen) -> None:
        request = self.request(bus, seen.append)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(next, request).result()
            pool.submit(bus.publish, "inside").result()
            request.close()
            pool.submit(bus.publish, "after").result()
            pool.submit(bus.publish, "still after").result()

        assert seen == ["inside"]

    def test_the_collector_may_close_it_in_the_midst_of_another_request(self, bus, seen) -> None:
        garbage = [self.request(bus, alpha)]
        in_a_thread(lambda: next(garbage[0]))
        group = group_of(seen.append)

        @group.on(Happened)
        def collect(event):
            garbage.clear()
            gc.collect()
            bus.publish("follows")

        with bus.scope(group):
            bus.publish(event := Happened())
            bus.publish("next")

        assert seen == [event, "follows", "next"]

    def test_tasks_that_close_each_others_scopes_keep_their_own(self, bus) -> None:
        async def main():
            entered, closed = asyncio.Event(), asyncio.Event()
            request = self.request(bus, alpha)

            async def first():
                next(request)
                entered.set()
                await closed.wait()
                return names(bus)

            async def second():
                await entered.wait()
                with bus.scope(group_of(beta)):
                    request.close()
                    closed.set()
                    return names(bus)

            return await asyncio.gather(first(), second())

        assert asyncio.run(main()) == [[], ["beta"]]

    def test_scopes_that_end_in_the_wrong_order_take_their_own_groups_along(self, bus) -> None:
        bus.subscribe(alpha)
        first, second = self.request(bus, beta), self.request(bus, gamma)
        next(first)
        next(second)

        first.close()
        between = names(bus)
        second.close()

        assert (between, names(bus)) == (["alpha", "gamma"], ["alpha"])

    def test_one_scope_object_may_be_entered_again_inside_of_itself_and_in_two_threads(self, bus) -> None:
        scope = bus.scope(group_of(beta))
        entered, left = threading.Event(), threading.Event()

        def other():
            with scope:
                entered.set()
                left.wait(10)
                return names(bus)

        with ThreadPoolExecutor(1) as pool:
            with scope:
                future = pool.submit(other)
                entered.wait(10)
                with scope:
                    pass
                inside = names(bus)
            after = names(bus)
            left.set()

        assert (inside, after, future.result()) == (["beta"], [], ["beta"])


class TestNothingIsKept:
    def test_groups_and_handlers_of_a_request_are_collected_after_it(self, bus) -> None:
        application = group_of(alpha)

        class Request:
            def handle(self, event: object) -> None: ...

        request = Request()
        collected = weakref.ref(request)
        with bus.scope(application, group_of(request.handle), application):
            bus.publish(Happened())
        with bus.scope():
            bus.subscribe(request.handle)
            with bus.scope(application):
                bus.publish(Happened())

        del request
        gc.collect()

        assert collected() is None

    def test_routes_of_a_group_are_compiled_once_in_threads_too(self, bus) -> None:
        asked = []

        class Meta(type):
            def __subclasscheck__(cls, other):
                asked.append(other)
                return super().__subclasscheck__(other)

        class Watched(metaclass=Meta):
            pass

        group = Subscribers()
        group.on(Watched)(lambda event: None)

        async def main():
            for _ in range(3):
                with bus.scope(group):
                    await asyncio.to_thread(bus.publish, Happened())
                    bus.publish(Happened())

        asyncio.run(main())

        assert asked == [Happened]


class TestDeferredBlocks:
    def test_one_object_may_be_nested_in_itself(self, bus, seen) -> None:
        bus.on(str)(seen.append)
        block = bus.deferred()

        with block:
            bus.publish("outer")
            with block:
                bus.publish("inner")
            held = list(seen)
        bus.publish("after")

        assert held == []
        assert seen == ["outer", "inner", "after"]

    def test_one_object_may_serve_several_threads(self, bus) -> None:
        block = bus.deferred()
        barrier = threading.Barrier(2)

        def work(number):
            heard: list[int] = []
            bus.on(int)(heard.append)
            with block:
                bus.publish(number)
                barrier.wait(10)
                assert heard == []
            barrier.wait(10)
            bus.publish(-number)
            return heard

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, [1, 2])) == [[1, -1], [2, -2]]

    def test_a_block_that_is_left_in_another_thread_mutes_nobody(self, bus, seen) -> None:
        def hold() -> Iterator[None]:
            with bus.deferred():
                bus.publish("dropped")
                yield

        bus.on(str)(seen.append)
        holding = hold()
        next(holding)
        muted = list(seen)

        in_a_thread(holding.close)
        bus.publish("after")

        assert muted == []
        assert seen == ["after"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_handler_for_after_the_commit_waits_whatever_begins_the_transaction(bus, seen, order) -> None:
    """As when one group writes to the database, and another one sends mails."""
    transactions: list[list[Callable[[], None]]] = []

    def on_commit(call):
        if transactions:
            transactions[-1].append(call)
        else:
            call()

    mailing, writing = Subscribers(), Subscribers()
    mailing.on(Happened)(bus.after_commit(lambda event: seen.append("mailed")))
    writing.on(Happened)(lambda event: bus.publish("follows"))
    writing.on(str)(lambda event: transactions.append([]))

    with bus.scope(*[mailing, writing][::order], on_commit=on_commit):
        bus.publish(Happened())
        before = list(seen)
        for call in transactions[0]:
            call()

    assert (before, seen) == ([], ["mailed"])


def test_where_there_is_no_transaction_the_handlers_errors_are_those_of_the_publish(bus, seen) -> None:
    group = Subscribers()

    @group.on(Happened)
    @bus.after_commit
    def fail(event):
        raise LookupError

    group.on(Happened)(bus.after_commit(lambda event: seen.append("the other")))

    def publish():
        with bus.scope(group, on_commit=lambda call: call()):
            bus.publish(Happened(), errors="collect")

    with pytest.raises(ExceptionGroup) as raised:
        publish()

    assert [type(error) for error in raised.value.exceptions] == [LookupError]
    assert raised.value.exceptions[0].__notes__[0].endswith("fail, handling Happened")
    assert seen == ["the other"]


def test_a_publish_that_fails_leaves_nothing_to_wait_for(bus, seen) -> None:
    group = Subscribers()
    group.on(Happened)(bus.after_commit(seen.append))

    @group.on(Happened)
    def fail(event):
        raise LookupError

    with bus.scope(group, on_commit=lambda call: call()):
        with pytest.raises(LookupError):
            bus.publish(Happened())
        bus.publish("works on")

    assert seen == []
