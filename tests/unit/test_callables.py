"""What can be a handler, and what is said of what cannot: the same for domain subscribers, commands and queries."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NewType, Protocol, TypedDict, TypeVar, runtime_checkable
from unittest.mock import AsyncMock, Mock

import pytest

from melange import ConfigurationError, DomainEventBus
from melange.callables import check_takes_one, is_asynchronous, is_awaitable, place, refuse_awaitable
from melange.cqrs import Command, CommandBus
from melange.domain import Subscribers

T = TypeVar("T")


class Created(Generic[T]):
    pass


class WithData(Protocol):
    number: int


class NotRuntime(Protocol):
    def close(self) -> None: ...


@runtime_checkable
class WithDataAtRuntime(Protocol):
    number: int


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


class Dictionary(TypedDict):
    number: int


Number = NewType("Number", int)

NOT_EVENTS = [
    pytest.param(WithData, "names WithData, which is a protocol", id="protocol with data"),
    pytest.param(NotRuntime, "names NotRuntime, which is a protocol", id="protocol"),
    pytest.param(WithDataAtRuntime, "names WithDataAtRuntime, which is a protocol", id="runtime, with data"),
    pytest.param(Dictionary, "names Dictionary, which is a TypedDict", id="TypedDict"),
    pytest.param(Created[int], r"names .*Created\[int\], .*so that Created is all", id="parametrised"),
    pytest.param(list[int], r"names list\[int\], .*so that list is all", id="list of"),
    pytest.param(type[int], r"names type\[int\]", id="type of"),
    pytest.param(Number, "no class: only type checkers tell it from <class 'int'>", id="NewType"),
    pytest.param(T, "names ~T, which is no class but a type variable", id="TypeVar"),
    pytest.param("Created", "names 'Created', which is no class but text", id="text"),
    pytest.param(int | Dictionary, "names Dictionary, which is a TypedDict", id="in a union"),
    pytest.param(Annotated[T, 1], "names ~T, which is no class but a type variable", id="annotated"),
]


def take(event: object) -> None: ...


def annotated_with(annotation: Any) -> Callable[[Any], None]:
    def handle(event: Any) -> None: ...

    handle.__annotations__["event"] = annotation
    return handle


class TestTypes:
    @pytest.mark.parametrize("registry", [DomainEventBus, Subscribers])
    @pytest.mark.parametrize(("named", "says"), NOT_EVENTS)
    def test_what_objects_cannot_be_asked_about_is_refused_when_it_is_named(
        self, registry, named, says
    ) -> None:
        with pytest.raises(ConfigurationError, match=says) as raised:
            registry().on(named)(take)

        assert "_GenericAlias" not in str(raised.value)

    @pytest.mark.parametrize(("named", "says"), [one for one in NOT_EVENTS if one.id != "text"])
    def test_it_is_refused_in_annotations_and_listens_to_as_well(self, named, says) -> None:
        with pytest.raises(ConfigurationError, match=says):
            Subscribers().on(annotated_with(named))

    @pytest.mark.parametrize(
        ("named", "event", "is_heard"),
        [
            (Closable, types.SimpleNamespace, False),
            (Annotated[int, "a number"], int, True),
            (int | str, int, True),
            (Any, int, True),
            (Created, Created, True),
        ],
        ids=["runtime protocol", "Annotated", "union", "Any", "generic"],
    )
    def test_what_stands_for_classes_is_taken_both_ways(self, bus, seen, named, event, is_heard) -> None:
        bus.on(named)(seen.append)
        bus.on(handle := annotated_with(named))

        bus.publish(event())

        assert len(seen) == is_heard
        bus.unsubscribe(handle)

    def test_an_event_is_heard_by_the_protocol_that_it_has(self, bus, seen) -> None:
        class Door:
            def close(self) -> None: ...

        bus.on(Closable)(seen.append)

        bus.publish(door := Door())

        assert seen == [door]

    @pytest.mark.parametrize("named", [Created[int], Number, T, list[int]])
    def test_a_command_bus_does_not_take_them_for_handlers(self, named) -> None:
        with pytest.raises(ConfigurationError, match=r"so that|type checkers|type variable"):
            CommandBus().handler(named)(take)


class Methods:
    def of_a_class(self, event: int) -> None: ...

    def with_a_default(self, event: int = 0) -> None: ...

    async def asynchronous(self, event: int) -> None: ...

    @staticmethod
    def static(event: int) -> None: ...

    @classmethod
    def for_the_class(cls, event: int) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class TestOneArgument:
    @pytest.mark.parametrize(
        "method",
        [
            Methods.of_a_class,
            Methods.with_a_default,
            Methods.asynchronous,
            decorated(Methods.of_a_class),
        ],
        ids=["method", "with a default", "asynchronous", "decorated"],
    )
    def test_a_method_in_the_body_of_its_class_is_refused(self, method) -> None:
        for register in (Subscribers().on(int), Subscribers().on, CommandBus().handler):
            with pytest.raises(ConfigurationError, match=r"is a method in the body of its class"):
                register(method)

    def test_in_the_body_itself_too(self) -> None:
        group = Subscribers()

        def make_class():
            class Listener:
                @group.on(int)
                def listen(self, event: int) -> None: ...

            return Listener

        with pytest.raises(ConfigurationError, match=r"Listener.listen .*make an object"):
            make_class()
        assert group.subscriptions == ()

    @pytest.mark.parametrize(
        "handler",
        [lambda: None, lambda event, other: None, lambda *, event: None],
        ids=["none", "two", "by keyword"],
    )
    def test_what_takes_another_number_is_refused(self, handler) -> None:
        with pytest.raises(ConfigurationError, match="must take one positional argument"):
            Subscribers().on(int)(handler)

    @pytest.mark.parametrize(
        "handler",
        [
            Methods().of_a_class,
            Methods().with_a_default,
            Methods.static,
            Methods.for_the_class,
            decorated(Methods().of_a_class),
            functools.partial(Methods.of_a_class, Methods()),
            [].append,
            print,
            Mock(),
            AsyncMock(),
            lambda event, option=1, *rest, **more: None,
        ],
        ids=[
            "method",
            "default",
            "static",
            "class method",
            "decorated",
            "partial",
            "append",
            "print",
            "mock",
            "async mock",
            "lambda",
        ],
    )
    def test_what_takes_one_is_taken_and_can_be_unsubscribed(self, bus, handler) -> None:
        check_takes_one(handler)
        bus.on(int)(handler)

        bus.unsubscribe(handler)

        assert bus.subscriptions == ()

    def test_a_decorator_may_give_the_function_below_it_more(self, bus, seen) -> None:
        def with_a_session(function):
            @functools.wraps(function)
            def handle(event):
                function(event, "session")

            return handle

        @bus.on
        @with_a_session
        def listen(event: int, session: str) -> None:
            seen.append((event, session))

        bus.publish(1)

        assert seen == [(1, "session")]


async def coroutine_function(message: object) -> str:
    await asyncio.sleep(0)
    return "done"


@types.coroutine
def old_coroutine(message: object):
    yield
    return "done"


class Future:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "done"


class WithDecoratedHandle:
    @decorated
    async def handle(self, command: Ping) -> str:
        return await coroutine_function(command)


class WithMockedHandle:
    handle = AsyncMock(return_value="done")


@dataclass(frozen=True)
class Ping(Command[str]):
    pass


HIDDEN = [
    pytest.param(lambda: decorated(coroutine_function), id="decorated"),
    pytest.param(lambda: functools.partial(decorated(coroutine_function)), id="partial"),
    pytest.param(lambda: lambda message: coroutine_function(message), id="lambda"),  # noqa: PLW0108
    pytest.param(lambda: lambda message: Future(), id="future"),
    pytest.param(lambda: WithDecoratedHandle, id="class"),
    pytest.param(WithDecoratedHandle, id="object"),
    pytest.param(WithMockedHandle, id="mocked method"),
    pytest.param(lambda: WithMockedHandle, id="class with a mocked method"),
]
KNOWN = [
    pytest.param(lambda: coroutine_function, id="function"),
    pytest.param(lambda: AsyncMock(return_value="done"), id="AsyncMock"),
]


class TestAwaiting:
    @pytest.mark.parametrize("make", [*HIDDEN, *KNOWN])
    def test_a_command_bus_awaits_what_can_be_awaited(self, make) -> None:
        commands = CommandBus()
        commands.register(make(), Ping)

        assert asyncio.run(commands.send_async(Ping())) == "done"

    @pytest.mark.parametrize("make", [*HIDDEN, *KNOWN])
    def test_a_synchronous_send_refuses_it(self, make) -> None:
        commands = CommandBus()
        commands.register(make(), Ping)

        with pytest.raises(ConfigurationError, match=r"await bus.send_async\(...\)`"):
            commands.send(Ping())

    @pytest.mark.parametrize("make", [*HIDDEN[:4], *KNOWN])
    def test_an_asynchronous_middleware_awaits_it(self, make) -> None:
        async def shout(command, call):
            return (await call(command)).upper()

        for middleware in (shout, decorated(shout)):
            commands = CommandBus(middleware=[middleware])
            commands.register(make(), Ping)

            assert asyncio.run(commands.send_async(Ping())) == "DONE"

    @pytest.mark.parametrize("make", HIDDEN[:6])
    def test_a_plain_middleware_never_takes_it_for_the_result(self, make, seen) -> None:
        def note(command, call):
            seen.append(call(command))

        commands = CommandBus(middleware=[note])
        commands.register(make(), Ping)

        with pytest.raises(
            ConfigurationError, match=r"note .*is a plain function, so write it with `async def`"
        ):
            asyncio.run(commands.send_async(Ping()))
        assert seen == []

    @pytest.mark.parametrize("make", [*HIDDEN[:4], *KNOWN])
    def test_a_domain_bus_does_both(self, bus, make) -> None:
        bus.on(Ping)(make())

        asyncio.run(bus.publish_async(Ping()))
        with pytest.raises(ConfigurationError, match=r"await bus.publish_async\(event\)"):
            bus.publish(Ping())

    @pytest.mark.parametrize("make", [*HIDDEN[:4], *KNOWN])
    def test_what_waits_for_a_commit_cannot_be_awaited(self, bus, make) -> None:
        def subscribe_and_publish():
            bus.on(Ping)(bus.after_commit(make()))
            bus.publish(Ping())

        with pytest.raises(ConfigurationError, match="make it a plain function, which may start a task"):
            subscribe_and_publish()

    @pytest.mark.parametrize("result", [None, 1, "text", [], object(), iter([]), (x for x in ())])
    def test_other_results_are_left_alone(self, result) -> None:
        refuse_awaitable(take, result, "advice")

        assert not is_awaitable(result)

    def test_a_coroutine_of_the_old_kind_can_be_awaited(self) -> None:
        assert is_awaitable(old_coroutine(None))

    @pytest.mark.parametrize(
        "handler", [coroutine_function, AsyncMock(), functools.partial(coroutine_function)]
    )
    def test_what_is_asynchronous_for_sure_is_known_before_it_is_called(self, handler) -> None:
        assert is_asynchronous(handler)
        assert place(handler)


@pytest.fixture
def bus() -> DomainEventBus:
    return DomainEventBus()


@pytest.fixture
def seen() -> list[object]:
    return []
