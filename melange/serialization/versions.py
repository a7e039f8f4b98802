"""Versions of types of events, and the functions that turn old bodies into new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from melange.errors import ConfigurationError, DecodeError, DuplicateHandlerError, shortened
from melange.events import EVENT_TYPE_KEY, EVENT_VERSION_KEY, EventMessage

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the body of one version and returns that of the next; it may change and return what it was given."""


class Upcasters:
    """The functions from each version of a type to the next. ``types`` are those that have any."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, int], Upcaster] = {}
        self.types: set[str] = set()

    def add(self, event: str | type[EventMessage], version: int, upcaster: Upcaster) -> None:
        """Add the function for bodies of ``version``.

        Raises:
            ConfigurationError: neither a name nor an event class, or not a version.
            DuplicateHandlerError: there is another function for it.
        """
        name = event if isinstance(event, str) else getattr(event, "event_type_name", None)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"upcast() takes the name of a type or an event class, not {event!r}")
        if type(version) is not int or version < 1:
            raise ConfigurationError(
                f"upcast() takes the version of the old body, from 1 on, not {version!r}"
            )
        if self._functions.setdefault((name, version), upcaster) is not upcaster:
            raise DuplicateHandlerError(f"version {version} of {name!r} has an upcaster already")
        self.types.add(name)

    def apply(self, event_type_name: str, data: Any) -> Any:
        """Return ``data`` in the newest version that can be reached.

        Raises:
            DecodeError: a function failed.
        """
        if not isinstance(data, dict):
            return data
        version = version_of(data)
        while (upcaster := self._functions.get((event_type_name, version))) is not None:
            problem = f"the upcaster for version {version} of {shortened(event_type_name)}"
            try:
                data = upcaster(data)
            except Exception as error:
                raise DecodeError(f"{problem} fails with {type(error).__name__}") from error
            if not isinstance(data, dict):
                raise DecodeError(f"{problem} returns no dict")
            version += 1
            data = {**data, EVENT_VERSION_KEY: version, EVENT_TYPE_KEY: event_type_name}
        return data


def version_of(data: Any) -> int:
    """Return the version of a body: 1 unless it says another; what is not an integer is a field of others."""
    version = data.get(EVENT_VERSION_KEY, 1) if isinstance(data, dict) else 1
    return version if type(version) is int else 1


def check_version(event_class: type[EventMessage], data: Any) -> None:
    """Raise ``DecodeError`` for a body that is of another version than the class."""
    version = version_of(data)
    if version == event_class.event_version:
        return
    problem = (
        f"the event of type {shortened(event_class.event_type_name)} is refused: its version is {version}"
    )
    if version > event_class.event_version:
        raise DecodeError(
            f"{problem}, and this program knows {event_class.event_version}: deploy its consumers first"
        )
    raise DecodeError(
        f"{problem}, and no upcaster leads from there to {event_class.event_version}: "
        f"write one with @upcast({event_class.event_type_name!r}, {version})"
    )
