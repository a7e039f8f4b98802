"""Headers that say which message or domain event a message followed from."""

from __future__ import annotations

from melange.messages import message_being_handled

CORRELATION_HEADER = "correlation-id"
CAUSATION_HEADER = "causation-id"


def trace_headers(domain_event_id: str | None) -> dict[str, str]:
    """Return the headers for what is published now, by the message and the domain event being handled."""
    cause = message_being_handled()
    trace = {}
    if cause is not None:
        trace[CORRELATION_HEADER] = cause.headers.get(CORRELATION_HEADER, cause.message_id)
        trace[CAUSATION_HEADER] = cause.message_id
    if domain_event_id is not None:
        trace[CAUSATION_HEADER] = domain_event_id
    return trace
