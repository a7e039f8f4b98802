"""The base class of typed events, and the time of creation that it shares with domain events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, SupportsIndex

from melange.errors import ConfigurationError

OCCURRED_ON_KEY = "occurred_on"
"""The name of the attribute, and of the field in a typed event's body."""


class Occurrence:
    """Gives each object the time of its creation as ``occurred_on``: aware, in UTC.

    It takes no part in comparisons. It is not a dataclass, because frozen ones and others cannot inherit from
    each other, and subclasses need not call ``super().__init__()``. A subclass may declare a field of this
    name and then sets it itself. ``dataclasses.replace`` makes a new object with a new time; copies and
    pickles keep theirs.
    """

    # Only an annotation: a class attribute would become the default of a subclass's field of that name.
    occurred_on: datetime

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if is_pydantic_model(cls) and not any(base.__module__ == "melange.pydantic" for base in cls.__mro__):
            raise ConfigurationError(
                f"{cls.__qualname__} is a pydantic model: inherit from melange.pydantic.EventModel instead of "
                "BaseModel and EventMessage, or make it a dataclass"
            )
        if isinstance(vars(cls).get(OCCURRED_ON_KEY), property):
            raise ConfigurationError(
                f"{cls.__qualname__}.occurred_on is a property, but each event has the time of its creation there: "
                "rename the property, or declare a field occurred_on: datetime"
            )

    # Positional only, because a field may be called cls.
    def __new__(cls, /, *args: object, **kwargs: object) -> Self:
        occurrence = super().__new__(cls)
        # Not in __init__, which subclasses replace; not by assignment, which frozen ones refuse.
        object.__setattr__(occurrence, OCCURRED_ON_KEY, datetime.now(UTC))
        return occurrence

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        """Keep ``occurred_on`` in copies: frozen dataclasses with slots copy only their fields."""
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str):  # the name of a global: its copies are itself
            return reduced
        make, arguments, *state = reduced
        return (_remake, (self.occurred_on, make, arguments), *state)


def _remake(occurred_on: datetime, make: Callable[..., Occurrence], arguments: tuple[Any, ...]) -> Occurrence:
    occurrence = make(*arguments)
    object.__setattr__(occurrence, OCCURRED_ON_KEY, occurred_on)
    return occurrence


def in_utc(moment: datetime) -> datetime:
    """Return the moment in UTC; one without an offset is in UTC already."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def is_pydantic_model(class_: type) -> bool:
    """Return True for subclasses of ``pydantic.BaseModel``, without importing it."""
    return any(base.__name__ == "BaseModel" and base.__module__ == "pydantic.main" for base in class_.__mro__)


def full_name(class_: type) -> str:
    """Return the class's name with its module, to distinguish classes with one name."""
    return f"{class_.__module__}.{class_.__qualname__}"


DERIVED_SCHEMA = "__melange_schema__"
"""The attribute of an event class that holds the schema derived from it."""

EVENT_TYPE_KEY = "event_type_name"
"""The field of the type in an event's body."""

EVENT_VERSION_KEY = "event_version"
"""The field of the type's version in an event's body; there is none in the first version."""


class EventMessage(Occurrence):
    """The base of typed events: inherit from it with a dataclass, frozen, slotted or plain.

        @dataclass(frozen=True)
        class ProductAdded(EventMessage):
            product_id: int
            name: str

    It is not a dataclass itself, because frozen ones and others cannot inherit from each other; subclasses
    need not call ``super().__init__()``. Fields that travel are those of the dataclass, with the
    annotations that docs/events.md lists; for any other class register an ``EventSchema``.

    ``event_type_name`` is the name of the type on the wire: the class's own name, unless the class
    itself sets another (``event_type_name = "product-added"``, without an annotation). It is not
    inherited: a subclass is a type of its own. Several classes may have the same name; a serializer
    or a consumer refuses a second class for one name.

    ``event_version`` is the version of the type, 1 unless the class itself sets another. It is not inherited. A
    version is for changes that make older classes unable to read the events; see ``melange.upcast``.

    ``occurred_on`` is the time of creation, aware, in UTC; on a consumer it is the publisher's value.
    It takes no part in comparisons, and ``dataclasses.replace`` makes a new event with a new
    time. A subclass may declare a field of this name and then sets it itself.
    """

    event_type_name: ClassVar[str] = "EventMessage"
    event_version: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = vars(cls).get(EVENT_TYPE_KEY, cls.__name__)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"{cls.__qualname__}.event_type_name must be text and not empty: it belongs to the class, "
                f"so write it without an annotation: event_type_name = {cls.__name__!r}"
            )
        version = vars(cls).get(EVENT_VERSION_KEY, 1)
        if type(version) is not int or version < 1:
            raise ConfigurationError(
                f"{cls.__qualname__}.event_version must be an integer from 1 on: it belongs to the class, "
                "so write it without an annotation: event_version = 2"
            )
        cls.event_type_name = name
        cls.event_version = version
