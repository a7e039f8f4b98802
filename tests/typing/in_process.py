"""What type checkers know about domain events, commands and queries. Not run: mypy and pyright read it, both strict.

A line that must be refused says so to both; where one of them stops refusing it, that one complains.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import assert_type

from melange import DomainEvent, DomainEventBus, DomainSubscriber
from melange.cqrs import Command, CommandBus, Query, QueryBus
from melange.domain import Subscribers

bus = DomainEventBus.instance()
group = Subscribers()
commands = CommandBus()
queries = QueryBus()


@dataclass(frozen=True)
class ProductAdded(DomainEvent):
    product_id: int


@dataclass(frozen=True, slots=True)
class ProductRemoved(DomainEvent):
    product_id: int


@dataclass(frozen=True, slots=True)
class AddProduct(Command[int]):
    name: str


class Ping(Command):
    """Its result is None: a subclass needs no brackets."""


@dataclass(frozen=True)
class ProductNames(Query[list[str]]):
    starting_with: str


# Commands and queries: the result is known.
assert_type(commands.send(AddProduct("Cooler")), int)
assert_type(queries.ask(ProductNames("C")), list[str])
text: str = commands.send(AddProduct("Cooler"))  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
commands.send(ProductNames("C"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
queries.ask(AddProduct("Cooler"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
commands.send("Cooler")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def nothing_comes_back() -> None:
    return commands.send(Ping())


async def results_of_async_handlers_are_known() -> None:
    assert_type(await commands.send_async(AddProduct("Cooler")), int)
    assert_type(await queries.ask_async(ProductNames("C")), list[str])
    await bus.publish_async(ProductAdded(1))
    async with bus.deferred(errors="collect"):
        bus.publish(ProductAdded(1))


@commands.handler
def add_product(command: AddProduct) -> int:
    return len(command.name)


@queries.handler(ProductNames)
class FindProductNames:
    def handle(self, query: ProductNames) -> list[str]:
        return [query.starting_with]


# Decorators leave what they decorate as it is.
assert_type(add_product(AddProduct("Cooler")), int)
assert_type(FindProductNames().handle(ProductNames("C")), list[str])


@bus.on(ProductAdded)
def on_one(event: ProductAdded) -> int:
    return event.product_id


@bus.on(DomainEvent)
def on_base(event: object) -> None: ...


@group.on(ProductAdded, ProductRemoved)
def on_two(event: ProductAdded | ProductRemoved) -> int:
    return event.product_id


@bus.on
def by_annotation(event: ProductAdded) -> int:
    return event.product_id


@bus.on(ProductRemoved)
@bus.after_commit
def late(event: ProductRemoved) -> int:
    return event.product_id


@bus.on(ProductAdded)
async def asynchronous(event: ProductAdded) -> None: ...


@bus.on(ProductAdded)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def on_another(event: ProductRemoved) -> None: ...


assert_type(on_one(ProductAdded(1)), int)
assert_type(on_two(ProductRemoved(1)), int)
assert_type(by_annotation(ProductAdded(1)), int)
assert_type(late(ProductRemoved(1)), int)


class Plain(DomainSubscriber):
    def process(self, event: ProductAdded) -> None: ...

    def listens_to(self) -> list[type[ProductAdded]]:
        return [ProductAdded]


class Asynchronous(DomainSubscriber):
    async def process(self, event: ProductAdded) -> None: ...


bus.subscribe(Plain())
bus.subscribe(Asynchronous())
bus.subscribe(bus.after_commit(Plain()))
bus.subscribe(on_one)
bus.subscribe(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bus.publish(object())
bus.publish(ProductAdded(1), errors="collect")
bus.publish(ProductAdded(1), errors="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

with bus.scope(group), bus.recording() as events:
    assert_type(events, list[object])
with bus.scope(Plain()):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pass


def job(number: int, *, name: str) -> bytes:
    return name.encode() * number


assert_type(bus.carry(job)(1, name="a"), bytes)
bus.carry(job)("1", name="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Scopes and deferred blocks are context managers, and decorators too.
scope: AbstractContextManager[None] = bus.scope(group)
with scope, bus.deferred():
    pass


@bus.after_commit
def later(event: ProductAdded) -> None: ...


assert_type(later(ProductAdded(1)), None)
bus.subscribe(partial(on_two))
bus.unsubscribe(Plain().process)
