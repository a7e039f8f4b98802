"""Annotations that are evaluated when somebody asks for them, as from Python 3.14 on (PEP 649).

This module has no ``from __future__ import annotations``, and defines its functions in the tests.
"""

import functools
import sys
from typing import TYPE_CHECKING

import pytest

from melange import ConfigurationError, DomainSubscriber
from melange.cqrs import Command, CommandBus

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated at once")


class Happened:
    pass


class Ping(Command[None]):
    pass


def test_names_that_type_checkers_alone_know_may_stand_beside_the_first_parameter(bus, seen) -> None:
    @bus.on
    def listen(event: Happened, price: Decimal | None = None) -> Decimal | None:
        seen.append(event)

    @bus.on(Happened)
    def by_name(event: Decimal) -> None:
        seen.append(event)

    bus.subscribe(functools.partial(listen, price=None))
    bus.publish(event := Happened())

    assert seen == [event] * 3


def test_a_first_parameter_that_cannot_be_resolved_is_told_how_to_name_its_class(bus) -> None:
    def listen(event: Decimal) -> None: ...

    with pytest.raises(ConfigurationError, match=r"listen .* cannot be resolved: .*on\(ProductAdded\)"):
        bus.subscribe(listen)
    with pytest.raises(ConfigurationError, match=r"cannot be resolved: .*register\(handler, CommandType\)"):
        CommandBus().register(listen)


def test_a_union_with_such_a_name_is_refused(bus) -> None:
    def listen(event: Happened | Decimal) -> None: ...

    with pytest.raises(ConfigurationError, match="cannot be resolved"):
        bus.subscribe(listen)


def test_classes_may_be_defined_after_the_functions_that_take_them(bus, seen) -> None:
    def listen(event: Later) -> None:  # noqa: F821  it is below
        seen.append(event)

    class Later:
        pass

    bus.subscribe(listen)
    bus.publish(event := Later())

    assert seen == [event]


def test_subscribers_and_handlers_of_classes(bus, seen) -> None:
    class Listener(DomainSubscriber):
        def process(self, event: Decimal) -> None:
            seen.append(event)

        def listens_to(self) -> list[type]:
            return [Happened]

    class Handler:
        def handle(self, command: Ping, price: Decimal | None = None) -> None:
            seen.append(command)

    commands = CommandBus()
    commands.register(Handler)
    bus.subscribe(Listener())
    bus.publish(event := Happened())
    commands.send(command := Ping())

    assert seen == [event, command]


def test_decorators_and_after_commit_keep_annotations_lazy(bus, seen) -> None:
    @bus.on
    @bus.after_commit
    def listen(event: Happened, price: Decimal | None = None) -> None:
        seen.append(event)

    bus.publish(event := Happened())

    assert seen == [event]
