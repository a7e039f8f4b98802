"""Annotations as objects, because this module has no ``from __future__ import annotations``.

Up to Python 3.13 they are evaluated with the class, from 3.14 on when somebody asks for them (PEP 649).
"""

import sys
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, ClassVar, Optional

import pytest

from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.serialization.derivation import derived_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

lazy_only = pytest.mark.skipif(sys.version_info < (3, 14), reason="a NameError of the class statement itself")


@dataclass
class Tree(EventMessage):
    name: str
    left: Optional["Tree"] = None


def test_a_subclass_that_forgot_the_decorator_is_reported() -> None:
    class Oak(Tree):
        age: int

    with pytest.raises(ConfigurationError, match=r"Oak is not decorated .* age would not travel"):
        derived_schema(Oak)


def test_a_base_that_forgot_the_decorator_is_reported() -> None:
    class Owned(EventMessage):
        tenant: str

    @dataclass
    class Order(Owned):
        count: int

    with pytest.raises(ConfigurationError, match=r"Owned is not decorated .* tenant would not travel"):
        derived_schema(Order)


def test_what_belongs_to_a_class_needs_no_decorator() -> None:
    class Versioned(EventMessage):
        version: ClassVar[int] = 1

    @dataclass
    class Order(Versioned):
        count: int
        scale: InitVar[int] = 1

    assert derived_schema(Order).load({"count": 1}) == Order(1)


def test_dataclasses_may_contain_themselves() -> None:
    tree = Tree("root", Tree("leaf"))

    assert derived_schema(Tree).load(derived_schema(Tree).dump(tree)) == tree


@lazy_only
def test_a_local_dataclass_may_contain_itself() -> None:
    @dataclass
    class Node(EventMessage):
        next_node: Node | None = None  # noqa: F821  it exists once it is asked for

    node = Node(Node())

    assert derived_schema(Node).load(derived_schema(Node).dump(node)) == node


@lazy_only
def test_names_for_type_checkers_only_are_reported() -> None:
    @dataclass
    class Order(EventMessage):
        count: int
        lines: Iterator[int]

    class Undecorated(Tree):
        lines: Iterator[int]

    with pytest.raises(ConfigurationError, match=r"Order.*'lines'.*'Iterator'"):
        derived_schema(Order)
    with pytest.raises(ConfigurationError, match=r"Undecorated.*Iterator|Undecorated is not decorated"):
        derived_schema(Undecorated)
