"""The setting ``MELANGE`` of a Django project."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.domain import Subscribers
from melange.errors import ConfigurationError, nearest
from melange.middleware import Middleware


@dataclass(frozen=True)
class Configuration:
    """The values of ``MELANGE``; its keys are these names in capitals.

    Args:
        driver: the name of the driver, such as ``"aws"``; None leaves the choice to the project.
        driver_options: the options of the driver's constructor.
        middleware: dotted paths of middleware, or of functions that return one, around publishing and consuming.
        consumers: dotted paths of functions that return consumers, for ``melange_worker``.
        groups: dotted paths of the subscribers of domain events that are open in each request and listener.
        database: the alias of the database with the outbox.
    """

    driver: str | None = None
    driver_options: dict[str, Any] = field(default_factory=dict)
    middleware: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    database: str = "default"

    @classmethod
    def of_project(cls) -> Configuration:
        """Return the configuration of the project.

        Raises:
            ConfigurationError: ``MELANGE`` is not a dict, has an unknown key, or options for no driver.
        """
        given = getattr(settings, "MELANGE", {})
        known = [one.name.upper() for one in fields(cls)]
        if not isinstance(given, dict):
            raise ConfigurationError(f"the setting MELANGE must be a dict, not {type(given).__name__}")
        for key in given:
            if key not in known:
                raise ConfigurationError(
                    f"the setting MELANGE has no key {key!r}{nearest(str(key), known)}; its keys: {', '.join(known)}"
                )
        of_driver = [key for key in ("DRIVER_OPTIONS", "MIDDLEWARE") if given.get(key)]
        if of_driver and given.get("DRIVER") is None:
            raise ConfigurationError(
                f"MELANGE has {' and '.join(of_driver)} without DRIVER, where they would have no effect: name the driver, "
                "or give them to use_driver"
            )
        return cls(**{key.lower(): value for key, value in given.items()})

    def made_consumers(self) -> list[ExchangeMessageConsumer]:
        """Return the consumers, created now.

        Raises:
            ConfigurationError: there is none, or a path leads to something else.
        """
        consumers: list[ExchangeMessageConsumer] = []
        for path in self.consumers:
            made = _made(path)
            consumers += made if isinstance(made, (list, tuple)) else [made]
        for consumer in consumers:
            if not isinstance(consumer, ExchangeMessageConsumer):
                raise ConfigurationError(
                    f"MELANGE['CONSUMERS'] leads to {consumer!r}, which is not a consumer"
                )
        if not consumers:
            raise ConfigurationError(
                "MELANGE['CONSUMERS'] is empty: name functions that return consumers, such as "
                "'orders.consumers.make_consumer'"
            )
        return consumers

    def found_groups(self) -> list[Subscribers]:
        """Return the groups of subscribers."""
        return [import_string(path) for path in self.groups]

    def made_middleware(self) -> list[Middleware]:
        """Return the middleware."""
        return [_made(path) for path in self.middleware]


def _made(path: str) -> Any:
    found = import_string(path)
    return found() if callable(found) else found
