"""Mappings from domain events to the events that other services get."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from melange.callables import Handler, annotated_types, is_asynchronous, place
from melange.domain import Subscribers
from melange.domain.subscriptions import call_where_not_subscribed, event_subscription_for
from melange.drivers.declarations import add_to_collection
from melange.errors import ConfigurationError
from melange.outbox.transactional_outbox import Key, TransactionalOutbox, check_topic, open_outbox
from melange.publishing import Event

logger = logging.getLogger(__name__)

MappingT = TypeVar("MappingT", bound=Callable[[Any], Event | None])

_ADVICE = "annotate it with the domain event's class, or name the class: to('orders', OrderPlaced)"


class IntegrationEvents(Subscribers):
    """Maps domain events to integration events, and writes them to the open outbox.

        integration = IntegrationEvents()

        @integration.to("orders", key=lambda event: event.order_id)
        def order_placed(event: OrderPlaced) -> dict[str, object]:
            return {"event_type_name": "OrderPlaced", "order_id": event.order_id}

        with Session(engine) as session, session.begin(), Outbox(session).scope(integration):
            ...

    It is a group like ``Subscribers``: registered once, at import time, and called in the scopes that open it. A domain
    event in a transaction is published to its topic if and only if that transaction commits.

    A mapped domain event without an open outbox would be lost. So it is an error on every bus, as soon as the mapping
    is registered, also if the group is not open there. Tests of the domain model alone publish inside of
    ``DomainEventBus.recording()``, which keeps the events.
    """

    def __init__(self, *, without_outbox: Literal["raise", "warn"] = "raise") -> None:
        """Create an empty group.

        Args:
            without_outbox: the reaction to a mapped event without an open outbox: ``"raise"`` raises
                ``ConfigurationError``, ``"warn"`` logs a warning and publishes nothing.

        Raises:
            ConfigurationError: ``without_outbox`` has another value.
        """
        super().__init__()
        if without_outbox not in ("raise", "warn"):
            raise ConfigurationError(f"without_outbox must be 'raise' or 'warn', not {without_outbox!r}")
        self._raises = without_outbox == "raise"
        self.mappings: list[tuple[str, Callable[[Any], Event | None]]] = []
        """The topics and their mappings, for ``melange topology``."""
        add_to_collection(self)

    def to(
        self, topic: str, *event_types: type, key: Callable[[Any], Key | None] | None = None
    ) -> Callable[[MappingT], MappingT]:
        """Register the decorated function as the mapping of a domain event to an event for ``topic``.

        It returns a dict or an ``EventMessage``, or None to publish nothing. It is called within the transaction:
        its exceptions, and those of the outbox, reach the publisher of the domain event. The annotation of its
        parameter, or ``event_types``, gives its domain events. ``key`` returns the key of ``Outbox.publish`` for a
        domain event.

        Raises:
            InvalidNameError: the topic's name is not valid.
            ConfigurationError: the function is asynchronous, or does not name its domain events.
        """
        check_topic(topic)

        def subscribe(mapping: MappingT) -> MappingT:
            if is_asynchronous(mapping):
                raise ConfigurationError(
                    f"{place(mapping)} is asynchronous, and a mapping runs inside of the transaction: make it a plain function"
                )
            write = _writing(mapping, topic, key, raises=self._raises)
            subscription = event_subscription_for(write, event_types or annotated_types(mapping, _ADVICE))
            self._add(subscription)
            end = call_where_not_subscribed(subscription, _guarding(mapping, topic, raises=self._raises))
            # A deleted group cannot be opened any more, so its events are not mapped any more.
            weakref.finalize(self, end).atexit = False
            self.mappings.append((topic, mapping))
            return mapping

        return subscribe


def _writing(
    mapping: Callable[[Any], Event | None],
    topic: str,
    key: Callable[[Any], Key | None] | None,
    *,
    raises: bool,
) -> Handler:
    """Return the handler that writes the result of a mapping to the open outbox."""

    @functools.wraps(mapping)
    def write(event: Any) -> None:
        outbox = open_outbox()
        if outbox is None:
            _complain(event, mapping, topic, raises=raises)
            return
        outside = mapping(event)
        if outside is not None:
            outbox.publish_domain_event(event, topic, outside, key=key(event) if key else None)

    return write


def _guarding(mapping: Callable[..., object], topic: str, *, raises: bool) -> Handler:
    """Return the handler for events of a mapping in a group that is not open."""
    was_told = False

    @functools.wraps(mapping)
    def guard(event: Any) -> None:
        nonlocal was_told
        outbox: TransactionalOutbox | None = open_outbox()
        if outbox is None:
            _complain(event, mapping, topic, raises=raises)
        elif not was_told:  # it may be intended: a scope chooses its groups
            was_told = True
            logger.warning(
                "%s is not published to topic %s: the group of %s is not open here, see Outbox.scope(); "
                "this is logged once",
                type(event).__qualname__,
                topic,
                place(mapping),
            )

    return guard


def _complain(event: object, mapping: Callable[..., object], topic: str, *, raises: bool) -> None:
    text = (
        f"{type(event).__qualname__} is mapped to topic {topic} by {place(mapping)}, and no outbox is open in this "
        "thread or task to write it into: publish it inside of `with Outbox(session).scope(...):`"
    )
    if raises:
        raise ConfigurationError(f"{text}, or make the group with IntegrationEvents(without_outbox='warn')")
    logger.warning("%s; it is lost", text)
