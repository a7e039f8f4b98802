"""Options of a consumer, written flat where a test varies one of them, and the keys of its claims."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from melange import Deduplication, EventSerializer, QueueOptions, RetryPolicy
from melange.deduplication.base import DeduplicationKey
from melange.messages import Message, Queue, content_of


def grouped(**options: Any) -> dict[str, Any]:
    """Return keywords of ``ExchangeMessageConsumer``: those of its groups may be given as if they were its own."""
    retry = _taken(options, RetryPolicy)
    queue = _taken(options, QueueOptions)
    keywords: dict[str, Any] = {"retry": RetryPolicy(**retry), "queue": QueueOptions(**queue), **options}
    if "on_unavailable" in options:
        on_unavailable = keywords.pop("on_unavailable")
        keywords["deduplication"] = Deduplication(options.get("deduplication"), on_unavailable=on_unavailable)
    return keywords


def _taken(options: dict[str, Any], group: type) -> dict[str, Any]:
    return {field.name: options.pop(field.name) for field in fields(group) if field.name in options}


def key_of(queue: Queue, listener_name: str, message_id: str, event: dict[str, Any]) -> DeduplicationKey:
    """Return the key under which a listener's work on a published event is claimed."""
    event_type_name, body = EventSerializer.instance().encode(event)
    message = Message(message_id, body, event_type_name)
    return DeduplicationKey(queue.address, listener_name, message_id, content_of(message))
