"""Handlers that wait for a commit, whatever the transaction is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from melange import ConfigurationError, DomainSubscriber
from melange.domain import Subscribers


class Happened:
    pass


class Transaction:
    """Stands for a database's: keeps calls until it is committed."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def on_commit(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def commit(self) -> None:
        for call in self.calls:
            call()


def test_a_handler_runs_when_the_scopes_transaction_is_committed(bus, seen) -> None:
    transaction, group = Transaction(), Subscribers()

    @group.on
    @bus.after_commit
    def late(event: Happened) -> None:
        seen.append("late")

    @group.on
    def early(event: Happened) -> None:
        seen.append("early")

    with bus.scope(group, on_commit=transaction.on_commit):
        bus.publish(Happened())
        before = list(seen)
        transaction.commit()

    assert (before, seen) == (["early"], ["early", "late"])


def test_it_runs_at_once_where_nobody_named_a_transaction(bus, seen) -> None:
    bus.on(Happened)(bus.after_commit(seen.append))

    bus.publish(event := Happened())

    assert seen == [event]


def test_an_inner_scope_has_the_transaction_of_the_outer_one(bus, seen) -> None:
    transaction = Transaction()
    bus.on(Happened)(bus.after_commit(seen.append))

    with bus.scope(on_commit=transaction.on_commit), bus.scope(), bus.recording():
        bus.publish(Happened())

    assert seen == []
    assert len(transaction.calls) == 1


def test_a_handler_may_have_its_own_transaction(bus, seen) -> None:
    its, another = Transaction(), Transaction()
    bus.on(Happened)(bus.after_commit(seen.append, on_commit=its.on_commit))

    with bus.scope(on_commit=another.on_commit):
        bus.publish(Happened())

    assert (len(its.calls), len(another.calls)) == (1, 0)


def test_a_subscriber_may_wait_too(bus, seen) -> None:
    class Listener(DomainSubscriber):
        def process(self, event: Any) -> None:
            seen.append(event)

        def listens_to(self):
            return [Happened]

    transaction = Transaction()
    bus.subscribe(late := bus.after_commit(Listener()))

    with bus.scope(on_commit=transaction.on_commit):
        bus.publish("something else")
        bus.publish(event := Happened())
        transaction.commit()
    bus.unsubscribe(late)

    assert seen == [event]
    assert bus.subscriptions == ()


def test_an_error_after_the_commit_says_who_and_what(bus) -> None:
    transaction = Transaction()

    @bus.on
    @bus.after_commit
    def fail(event: Happened) -> None:
        raise LookupError

    with bus.scope(on_commit=transaction.on_commit):
        bus.publish(Happened())

    with pytest.raises(LookupError) as raised:
        transaction.commit()
    assert raised.value.__notes__[0].endswith("fail, handling Happened")


def test_what_it_publishes_is_handled_before_it_is_over(bus, seen) -> None:
    transaction = Transaction()
    bus.on(str)(seen.append)

    @bus.on
    @bus.after_commit
    def follow(event: Happened) -> None:
        bus.publish("after the commit")

    with bus.scope(on_commit=transaction.on_commit):
        bus.publish(Happened())
        transaction.commit()

    assert seen == ["after the commit"]


def test_another_thread_to_which_the_subscribers_are_carried_has_another_transaction(bus, seen) -> None:
    transaction = Transaction()
    bus.on(Happened)(bus.after_commit(seen.append))

    with bus.scope(on_commit=transaction.on_commit):
        bus.carry(bus.publish)(Happened())

    assert len(seen) == 1
    assert transaction.calls == []


def test_it_is_described_as_what_it_is(bus) -> None:
    @bus.on
    @bus.after_commit
    def late(event: Happened) -> None: ...

    assert [name.rpartition(".")[2] for [name] in bus.describe().values()] == ["late"]


async def asynchronous(event: Happened) -> None: ...


class AsynchronousListener(DomainSubscriber):
    async def process(self, event: Any) -> None: ...


@pytest.mark.parametrize("handler", [asynchronous, AsynchronousListener()], ids=["function", "subscriber"])
def test_what_must_be_awaited_cannot_wait_for_a_commit(bus, handler) -> None:
    with pytest.raises(
        ConfigurationError, match="is asynchronous, and what runs after a commit is not awaited"
    ):
        bus.after_commit(handler)


def test_a_coroutine_that_nobody_would_await_is_an_error(bus) -> None:
    bus.on(Happened)(bus.after_commit(lambda event: asynchronous(event)))  # noqa: PLW0108

    with pytest.raises(ConfigurationError, match="returned a coroutine, which is never awaited"):
        bus.publish(Happened())
