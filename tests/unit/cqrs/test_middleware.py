"""Functions around handlers."""

from __future__ import annotations

import asyncio
import sys

import pytest

from melange import ConfigurationError
from melange.cqrs import Command, CommandBus


class Ping(Command[str]):
    pass


def noting(name: str, seen: list[str]):
    def middleware(command, call):
        seen.append(f"{name} before")
        result = call(command)
        seen.append(f"{name} after")
        return f"{name}({result})"

    return middleware


def noting_async(name: str, seen: list[str]):
    async def middleware(command, call):
        seen.append(f"{name} before")
        result = await call(command)
        seen.append(f"{name} after")
        return f"{name}({result})"

    return middleware


def test_the_first_is_outermost() -> None:
    seen: list[str] = []
    bus = CommandBus(middleware=[noting("outer", seen), noting("inner", seen)])
    bus.register(lambda command: "pong", Ping)

    assert bus.send(Ping()) == "outer(inner(pong))"
    assert seen == ["outer before", "inner before", "inner after", "outer after"]


def test_a_middleware_may_leave_the_handler_out_or_call_it_again() -> None:
    calls = []

    def retry(command, call):
        try:
            return call(command)
        except ConnectionError:
            return call(command)

    bus = CommandBus(middleware=[retry])

    @bus.handler
    def fail_once(command: Ping) -> str:
        calls.append(command)
        if len(calls) == 1:
            raise ConnectionError
        return "pong"

    assert bus.send(Ping()) == "pong"
    assert len(calls) == 2


def test_it_stands_around_classes_too() -> None:
    bus = CommandBus(middleware=[noting("outer", [])])

    @bus.handler
    class Handler:
        def handle(self, command: Ping) -> str:
            return "pong"

    assert bus.send(Ping()) == "outer(pong)"


def test_an_asynchronous_one_stands_around_both_kinds() -> None:
    for handler in (lambda command: "pong", pong_async):
        seen: list[str] = []
        bus = CommandBus(middleware=[noting_async("outer", seen), noting_async("inner", seen)])
        bus.register(handler, Ping)

        assert asyncio.run(bus.send_async(Ping())) == "outer(inner(pong))"
        assert seen == ["outer before", "inner before", "inner after", "outer after"]
        with pytest.raises(ConfigurationError, match="asynchronous"):
            bus.send(Ping())


async def pong_async(command: Ping) -> str:
    return "pong"


@pytest.mark.parametrize("inside", ["handler", "middleware"])
def test_a_plain_one_around_something_asynchronous_is_refused(inside) -> None:
    if inside == "handler":
        bus, handler = CommandBus(middleware=[noting("outer", [])]), pong_async
    else:
        bus, handler = (
            CommandBus(middleware=[noting("outer", []), noting_async("inner", [])]),
            lambda command: "pong",
        )

    with pytest.raises(ConfigurationError, match=r"is a plain function and .* inside of it is asynchronous"):
        bus.register(handler, Ping)


def test_without_any_the_handler_is_called_directly() -> None:
    frames = []
    bus = CommandBus()

    @bus.handler
    def handle(command: Ping) -> str:
        frames.append(sys._getframe(1).f_code.co_name)
        return "pong"

    bus.send(Ping())

    assert frames == ["send"]
