"""Commands and queries, and their one handler."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from melange import ConfigurationError, DuplicateHandlerError, HandlerNotFoundError
from melange.cqrs import Command, CommandBus, Query, QueryBus


@dataclass(frozen=True, slots=True)
class AddProduct(Command[int]):
    name: str


class AddBook(AddProduct):
    pass


class Ping(Command):
    pass


@dataclass(frozen=True)
class ProductNames(Query[list[str]]):
    starting_with: str = ""


@pytest.fixture
def commands() -> CommandBus:
    return CommandBus()


@pytest.fixture
def queries() -> QueryBus:
    return QueryBus()


class TestSending:
    def test_the_result_of_a_function_is_returned(self, commands, queries) -> None:
        @commands.handler
        def add_product(command: AddProduct) -> int:
            return len(command.name)

        @queries.handler
        def product_names(query: ProductNames) -> list[str]:
            return [query.starting_with]

        assert commands.send(AddProduct("Cooler")) == 6
        assert queries.ask(ProductNames("C")) == ["C"]

    def test_a_class_is_made_anew_for_each_command(self, commands) -> None:
        made = []

        @commands.handler
        class AddProductHandler:
            def __init__(self) -> None:
                made.append(self)

            def handle(self, command: AddProduct) -> int:
                return len(made)

        assert [commands.send(AddProduct("a")), commands.send(AddProduct("b"))] == [1, 2]
        assert inspect.isclass(AddProductHandler)

    def test_an_object_is_called_again_and_again(self, commands) -> None:
        class Counting:
            count = 0

            def handle(self, command: AddProduct) -> int:
                self.count += 1
                return self.count

        commands.register(Counting())

        assert [commands.send(AddProduct("a")), commands.send(AddProduct("b"))] == [1, 2]

    def test_methods_lambdas_and_partials_are_functions(self, commands) -> None:
        class Shop:
            def add(self, command: AddProduct) -> str:
                return "method"

        def ping(answer: str, command: Ping) -> str:
            return answer

        commands.register(Shop().add)
        commands.register(functools.partial(ping, "partial"))
        commands.register(lambda command: "lambda", AddBook)

        assert commands.send(AddProduct("a")) == "method"
        assert commands.send(Ping()) == "partial"
        assert commands.send(AddBook("a")) == "lambda"

    def test_one_handler_may_be_for_several_types(self, commands) -> None:
        @commands.handler
        def either(command: AddProduct | Ping) -> str:
            return type(command).__name__

        assert (commands.send(AddProduct("a")), commands.send(Ping())) == ("AddProduct", "Ping")

    def test_a_type_may_be_named(self, commands) -> None:
        @commands.handler(AddProduct, Ping)
        def untyped(command):
            return "named"

        assert (commands.send(AddProduct("a")), commands.send(Ping())) == ("named", "named")

    def test_what_a_handler_raises_passes(self, commands) -> None:
        error = KeyError("name")

        @commands.handler
        def fail(command: AddProduct) -> int:
            raise error

        with pytest.raises(KeyError) as raised:
            commands.send(AddProduct("a"))
        assert raised.value is error
        assert raised.value.__context__ is None

    def test_a_handler_may_send_another_command(self, commands) -> None:
        commands.register(lambda command: 7, Ping)
        commands.register(lambda command: commands.send(Ping()), AddProduct)

        assert commands.send(AddProduct("a")) == 7

    def test_all_threads_have_the_same_handlers(self, commands) -> None:
        commands.register(lambda command: threading.get_ident(), AddProduct)

        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(commands.send, AddProduct("a")).result()

        assert elsewhere != commands.send(AddProduct("a")) == threading.get_ident()


class TestAsynchronousHandlers:
    def test_both_kinds_are_awaited(self, commands, queries) -> None:
        @commands.handler
        async def add_product(command: AddProduct) -> int:
            await asyncio.sleep(0)
            return len(command.name)

        commands.register(lambda command: "plain", Ping)

        @queries.handler
        class ProductNamesHandler:
            async def handle(self, query: ProductNames) -> list[str]:
                return [query.starting_with]

        async def main():
            return (
                await commands.send_async(AddProduct("Cooler")),
                await commands.send_async(Ping()),
                await queries.ask_async(ProductNames("C")),
            )

        assert asyncio.run(main()) == (6, "plain", ["C"])

    def test_a_synchronous_send_is_refused_before_it_is_called(self, commands, queries) -> None:
        called = []

        @commands.handler
        async def add_product(command: AddProduct) -> int:
            called.append(command)
            return 1

        @queries.handler
        async def product_names(query: ProductNames) -> list[str]:
            called.append(query)
            return []

        with pytest.raises(
            ConfigurationError, match=r"the handler of AddProduct is asynchronous: `await bus.send_async"
        ):
            commands.send(AddProduct("a"))
        with pytest.raises(ConfigurationError, match=r"`await bus.ask_async\(...\)`. It was not called"):
            queries.ask(ProductNames())
        assert called == []


class TestRefusals:
    def test_two_handlers_for_one_type_are_refused_with_both_places(self, commands) -> None:
        @commands.handler
        def first(command: AddProduct) -> int:
            return 1

        def second(command: Ping | AddProduct) -> int:
            return 2

        with pytest.raises(DuplicateHandlerError) as raised:
            commands.register(second)

        assert "AddProduct has two handlers" in str(raised.value)
        for handler in (first, second):
            assert f"{handler.__qualname__} ({__file__}:{handler.__code__.co_firstlineno})" in str(
                raised.value
            )
        assert commands.send(AddProduct("a")) == 1
        with pytest.raises(HandlerNotFoundError):  # nothing of the second was registered
            commands.send(Ping())

    def test_two_kinds_of_handlers_for_one_type_are_two_handlers(self, commands) -> None:
        commands.register(lambda command: 1, AddProduct)

        async def asynchronous(command: AddProduct) -> int:
            return 2

        with pytest.raises(DuplicateHandlerError):
            commands.register(asynchronous)

    def test_no_handler_is_an_error(self, commands, queries) -> None:
        commands.register(lambda command: 1, AddProduct)

        with pytest.raises(
            HandlerNotFoundError, match=r"AddBook has no handler.*import its module before the first send"
        ):
            commands.send(AddBook("a"))
        with pytest.raises(
            HandlerNotFoundError, match=r"ProductNames has no handler: .*before the first ask"
        ):
            queries.ask(ProductNames())
        with pytest.raises(HandlerNotFoundError):
            asyncio.run(commands.send_async(Ping()))

    def test_a_handler_is_not_for_subclasses(self, commands) -> None:
        commands.register(lambda command: 1, AddProduct)

        with pytest.raises(HandlerNotFoundError):
            commands.send(AddBook("a"))

    @pytest.mark.parametrize("message", [5, "text", ProductNames(), AddProduct], ids=str)
    def test_what_is_no_command_is_refused(self, commands, message) -> None:
        with pytest.raises(ConfigurationError, match="is not a Command"):
            commands.send(message)

    def test_a_command_is_no_query(self, queries) -> None:
        with pytest.raises(ConfigurationError, match=r"Ping .*is not a Query"):
            queries.ask(Ping())

    @pytest.mark.parametrize(
        ("handler", "says"),
        [
            (5, "5 is not a handler: give a function, or a class or object with a method `handle`"),
            (Ping, "is not a handler"),
            (
                lambda command: 1,
                "the first parameter of .*<lambda> .* has no annotation: annotate it with its type",
            ),
            (lambda: 1, "must take one positional argument"),
        ],
        ids=range(4),
    )
    def test_what_cannot_be_a_handler_is_refused(self, commands, handler, says) -> None:
        with pytest.raises(ConfigurationError, match=says):
            commands.register(handler)

    def test_a_handler_of_something_else_is_refused(self, commands) -> None:
        def handle(command: ProductNames) -> None: ...

        with pytest.raises(ConfigurationError, match="ProductNames'>, which does not inherit from Command"):
            commands.register(handle)
        with pytest.raises(ConfigurationError, match="is for 'Ping', which does not inherit"):
            commands.register(handle, "Ping")

    def test_a_generator_is_refused(self, commands) -> None:
        def handle(command: Ping):
            yield

        with pytest.raises(ConfigurationError, match="is a generator"):
            commands.register(handle)

    def test_an_annotation_that_cannot_be_found_asks_for_the_type(self, commands) -> None:
        class Local(Command):
            pass

        def handle(command: Local) -> str:
            return "named"

        with pytest.raises(
            ConfigurationError, match=r"'Local' of .*handle .* cannot be resolved: .* register\(handler,"
        ):
            commands.register(handle)
        commands.register(handle, Local)

        assert commands.send(Local()) == "named"


class TestResolve:
    def test_it_makes_the_objects_of_handler_classes(self) -> None:
        class Repository:
            pass

        class AddProductHandler:
            def __init__(self, repository: Repository) -> None:
                self.repository = repository

            def handle(self, command: AddProduct) -> object:
                return self.repository

        repository = Repository()
        asked = []

        def resolve(handler_class):
            asked.append(handler_class)
            return handler_class(repository)

        commands = CommandBus(resolve=resolve)
        commands.register(AddProductHandler)
        asked_at_registration = list(asked)

        assert commands.send(AddProduct("a")) is repository
        assert (asked_at_registration, asked) == ([], [AddProductHandler])

    def test_functions_and_objects_are_not_resolved(self) -> None:
        def resolve(handler_class):
            raise AssertionError

        commands = CommandBus(resolve=resolve)
        commands.register(lambda command: 1, Ping)

        assert commands.send(Ping()) == 1
