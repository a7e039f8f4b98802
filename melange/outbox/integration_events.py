"""Which domain events leave the process, to which topic, and in which form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from melange.callables import annotated_types, is_asynchronous, place
from melange.domain import Subscribers
from melange.errors import ConfigurationError
from melange.outbox.destinations import Key, check_topic
from melange.outbox.outbox import Outbox, open_outbox
from melange.publishing import Event

MappingT = TypeVar("MappingT", bound=Callable[[Any], Event | None])

_ADVICE = "annotate it with the domain event's class, or name the class: to('orders', OrderPlaced)"


class IntegrationEvents(Subscribers):
    """Makes integration events of domain events, and writes them into the outbox that is open at that moment.

        integration = IntegrationEvents()

        @integration.to("orders", key=lambda event: event.order_id)
        def order_placed(event: OrderPlaced) -> dict[str, object]:
            return {"event_type_name": "OrderPlaced", "order_id": event.order_id}

        with Session(engine) as session, session.begin(), Outbox(session), bus.scope(integration):
            ...

    A group like ``Subscribers``: registered once, at import time; heard in the scopes that open it. So a domain
    event that is published in a transaction reaches the outside if and only if that commits.
    """

    def to(
        self, topic: str, *event_types: type, key: Callable[[Any], Key | None] | None = None
    ) -> Callable[[MappingT], MappingT]:
        """Have the function below say what is published to ``topic`` when it is given a domain event.

        It returns a dict or an ``EventMessage``, or None to publish nothing, and is called within the
        transaction: what it or the outbox raises reaches the publisher of the domain event. Which events it is
        called with its parameter's annotation says, or ``event_types``. ``key`` gives the key of ``Outbox.publish``
        for a domain event.

        Raises:
            InvalidNameError: no topic can have this name.
            ConfigurationError: the function is asynchronous, or does not say what it takes.
        """
        check_topic(topic)

        def subscribe(mapping: MappingT) -> MappingT:
            if is_asynchronous(mapping):
                raise ConfigurationError(
                    f"{place(mapping)} is asynchronous: what an event is outside has to be said at once"
                )

            @functools.wraps(mapping)
            def write(event: Any) -> None:
                outbox = _outbox_for(event, mapping)
                outside = mapping(event)
                if outside is not None:
                    outbox.publish_domain_event(event, topic, outside, key=key(event) if key else None)

            self.on(*(event_types or annotated_types(mapping, _ADVICE)))(write)
            return mapping

        return subscribe


def _outbox_for(event: object, mapping: Callable[..., object]) -> Outbox:
    outbox = open_outbox()
    if outbox is None:
        raise ConfigurationError(
            f"{place(mapping)} has no outbox to write {type(event).__qualname__} into: publish inside of "
            "`with Outbox(session):`"
        )
    return outbox
