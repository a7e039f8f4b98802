"""When an event happened: shared by the events of a domain model and by those that travel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self, SupportsIndex

OCCURRED_ON_KEY = "occurred_on"
"""The attribute's name, and where a typed event's body says it."""


class Occurrence:
    """Gives each object the time of its creation as ``occurred_on``: aware, in UTC.

    It takes no part in comparisons. It is no dataclass, because frozen ones and others cannot inherit from
    each other, and subclasses need not call ``super().__init__()``. A subclass may declare a field of this
    name and then sets it itself. ``dataclasses.replace`` makes a new object with a new time; copies and
    pickles keep theirs.
    """

    # Only an annotation: a class attribute would become the default of a subclass's field of that name.
    occurred_on: datetime

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        occurrence = super().__new__(cls)
        # Not in __init__, which subclasses replace; not by assignment, which frozen ones refuse.
        object.__setattr__(occurrence, OCCURRED_ON_KEY, datetime.now(UTC))
        return occurrence

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        """Keep ``occurred_on`` in copies: frozen dataclasses with slots copy nothing but their fields."""
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str):  # the name of a global: its copies are itself
            return reduced
        make, arguments, *state = reduced
        return (_remake, (self.occurred_on, make, arguments), *state)


def _remake(occurred_on: datetime, make: Callable[..., Occurrence], arguments: tuple[Any, ...]) -> Occurrence:
    occurrence = make(*arguments)
    object.__setattr__(occurrence, OCCURRED_ON_KEY, occurred_on)
    return occurrence
