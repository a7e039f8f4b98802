"""Handlers and their events, as data and as a flowchart."""

from __future__ import annotations

from collections.abc import Sequence

from melange.callables import qualified_name
from melange.domain.subscriber import Subscription

EVERY_EVENT = "*"


def describe(subscriptions: Sequence[Subscription]) -> dict[str, list[str]]:
    """Return the names of handlers, in order, by the name of the event's class."""
    described: dict[str, list[str]] = {}
    for subscription in subscriptions:
        names = [qualified_name(event_type) for event_type in subscription.event_types] or [EVERY_EVENT]
        for name in names:
            handlers = described.setdefault(name, [])
            if subscription.name not in handlers:
                handlers.append(subscription.name)
    return described


def graph(subscriptions: Sequence[Subscription]) -> str:
    """Return a Mermaid flowchart from events to handlers."""
    described = describe(subscriptions)
    events = {event: f"event{number}" for number, event in enumerate(described)}
    listening = dict.fromkeys(handler for handlers in described.values() for handler in handlers)
    handlers = {handler: f"handler{number}" for number, handler in enumerate(listening)}
    lines = [
        *(f'{node}(["{_label(event)}"])' for event, node in events.items()),
        *(f'{node}["{_label(handler)}"]' for handler, node in handlers.items()),
        *(f"{events[event]} --> {handlers[name]}" for event, names in described.items() for name in names),
    ]
    return "\n    ".join(["flowchart LR", *lines]) + "\n"


def _label(name: str) -> str:
    if name == EVERY_EVENT:
        return "every event"
    # Angle brackets, as in <locals> and <lambda>, would be HTML.
    return name.replace("<", "&lt;").replace(">", "&gt;")
