"""The trace context of X-Ray in the system attribute ``AWSTraceHeader`` of SQS, from and to the W3C's ``traceparent``.

X-Ray joins the traces of queues, functions and services by this attribute. It does not count towards the size of a message.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
"""

from __future__ import annotations

import re

from melange.messages import Message

TRACE_ATTRIBUTE = "AWSTraceHeader"
TRACEPARENT_HEADER = "traceparent"
_XRAY_HEADER = "X-Amzn-Trace-Id"
"""What OpenTelemetry's propagator for X-Ray writes: the same text as the system attribute."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{8})([0-9a-f]{24})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_ROOT = re.compile(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?=;|\s|$)")
_PARENT = re.compile(r"(?:^|;)\s*Parent=([0-9a-f]{16})(?=;|\s|$)")
_SAMPLED = re.compile(r"(?:^|;)\s*Sampled=1(?=;|\s|$)")


def trace_header_of(message: Message) -> str | None:
    """Return the value of ``AWSTraceHeader`` for a message with a trace context; None if it has none."""
    headers = message.headers
    if not headers:
        return None
    known = headers.get(_XRAY_HEADER)
    if known:
        return known
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT_HEADER, ""))
    if found is None:
        return None
    time, rest, parent, flags = found.groups()
    return f"Root=1-{time}-{rest};Parent={parent};Sampled={int(flags, 16) & 1}"


def traceparent_of(trace_header: str) -> str | None:
    """Return the ``traceparent`` with the same meaning; None if the attribute names no span."""
    root, parent = _ROOT.search(trace_header), _PARENT.search(trace_header)
    if root is None or parent is None:
        return None
    return f"00-{root[1]}{root[2]}-{parent[1]}-{'01' if _SAMPLED.search(trace_header) else '00'}"
