"""The base classes of commands and queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

if TYPE_CHECKING:
    # Type checkers have this module built in; at run time the defaults do nothing.
    from typing import Any

    from typing_extensions import TypeVar

    CommandResult_co = TypeVar("CommandResult_co", default=None, covariant=True)
    QueryResult_co = TypeVar("QueryResult_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    CommandResult_co = TypeVar("CommandResult_co", covariant=True)
    QueryResult_co = TypeVar("QueryResult_co", covariant=True)


class Command(Generic[CommandResult_co]):
    """Asks for a change. ``Command[int]`` has a handler that returns an int, ``Command`` one that returns None.

    @dataclass(frozen=True)
    class AddProduct(Command[int]):
        name: str
    """

    __slots__ = ()


class Query(Generic[QueryResult_co]):
    """Asks for information, without a change. ``Query[list[str]]`` has a handler that returns a list of texts."""

    __slots__ = ()
