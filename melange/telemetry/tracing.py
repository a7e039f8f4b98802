"""Spans around publishing and consuming, by the semantic conventions for messaging, and their propagation in headers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider

from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Outcome
from melange.errors import Failure, MessageTooLargeError, shortened
from melange.messages import CORRELATION_HEADER, Delivery, Message, Queue, Topic
from melange.middleware import Middleware, Publish
from melange.telemetry.conventions import (
    ATTEMPT,
    CONVERSATION_ID,
    DESTINATION_NAME,
    ERROR_TYPE,
    EVENT_TYPE,
    INSTRUMENTATION_NAME,
    LISTENER_NAME,
    MESSAGE_COUNT,
    MESSAGE_ID,
    OPERATION_NAME,
    OPERATION_TYPE,
    OUTBOX_SYSTEM,
    OUTCOME,
    RECEIVE_COUNT,
    SYSTEM,
    Attributes,
    Operation,
    address_attributes_of,
    error_of,
    error_type,
    operation_attributes_of,
    outcome_name,
)


class Tracing(Middleware):
    """Makes a span for each operation, and sends its context with the messages.

    ``send`` and ``create`` for what is published, ``receive``, ``process``, one for each run of a listener, and
    ``settle``. The context travels in headers of the message, through an outbox, redeliveries and dead-letter queues.

    By default the span of a message that is processed starts a new trace, with a link to the span that created the message.
    ``continue_traces=True`` makes it a child of that span, so that one trace shows all: choose it where a message
    causes few others.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        continue_traces: bool = False,
        create_spans: bool = True,
    ) -> None:
        """Trace with this provider, or with the process's own.

        Args:
            tracer_provider: makes the spans; by default what ``opentelemetry.trace.set_tracer_provider`` was given.
            continue_traces: process a message in the trace in which it was published.
            create_spans: make a span for each message of a batch; without them the messages of a batch have the context of
                the one ``send`` span.
        """
        self._tracer = trace.get_tracer(INSTRUMENTATION_NAME, version("melange"), tracer_provider)
        self._continue_traces = continue_traces
        self._create_spans = create_spans
        self._known: dict[tuple[Operation, str], tuple[str, Attributes]] = {}

    # --- publishing --------------------------------------------------------------------------------

    def around_publish(
        self, destination: Topic | Queue, messages: Sequence[Message], publish: Publish
    ) -> list[Failure[Message]]:
        """Make a ``send`` span, and a ``create`` span for each message of a batch that has no context yet."""
        if len(messages) == 1:
            return self._send_one(destination, messages[0], publish)
        return self._send_batch(destination, messages, publish)

    def _send_one(
        self, destination: Topic | Queue, message: Message, publish: Publish
    ) -> list[Failure[Message]]:
        name, known = self._named("send", destination)
        creator = _span_context_of(message) if message.headers else None
        attributes = _of_message(known, message)
        if creator is None:
            span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        else:
            span = self._tracer.start_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, links=[Link(creator)]
            )
        context = _quiet(trace.set_span_in_context(span))
        traced = _with_context(message, context) if creator is None else message
        return _within(span, context, _published, span, (message,), (traced,), publish)

    def _send_batch(
        self, destination: Topic | Queue, messages: Sequence[Message], publish: Publish
    ) -> list[Failure[Message]]:
        name, known = self._named("send", destination)
        traced, creators = messages, [_span_context_of(message) for message in messages]
        if self._create_spans and None in creators:
            traced = [
                message if creator else self._created(destination, message)
                for message, creator in zip(messages, creators, strict=True)
            ]
            creators = [_span_context_of(message) for message in traced]
        span = self._tracer.start_span(
            name,
            kind=SpanKind.PRODUCER if None in creators else SpanKind.CLIENT,
            attributes={**known, MESSAGE_COUNT: len(messages)},
            links=[Link(creator) for creator in creators if creator is not None],
        )
        context = _quiet(trace.set_span_in_context(span))
        traced = [
            message if creator else _with_context(message, context)
            for message, creator in zip(traced, creators, strict=True)
        ]
        return _within(span, context, _published, span, messages, traced, publish)

    def prepare(self, destination_name: str, message: Message) -> Message:
        """Give a message that an outbox writes the context of a ``create`` span in the current trace."""
        if _span_context_of(message) is not None:
            return message
        known: Attributes = {
            OPERATION_NAME: "create",
            OPERATION_TYPE: "create",
            SYSTEM: OUTBOX_SYSTEM,
            DESTINATION_NAME: destination_name,
        }
        return self._with_create_span(f"create {destination_name}", known, message)

    def _created(self, destination: Topic | Queue, message: Message) -> Message:
        name, known = self._named("create", destination)
        return self._with_create_span(name, known, message)

    def _with_create_span(self, name: str, known: Attributes, message: Message) -> Message:
        attributes = _of_message(known, message)
        span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        span.end()
        return _with_context(message, trace.set_span_in_context(span))

    # --- consuming ---------------------------------------------------------------------------------

    def around_poll(self, queue: Queue, poll: Callable[[], Sequence[Delivery]]) -> Sequence[Delivery]:
        """Make a ``receive`` span for a poll that received something or failed: most polls of a quiet queue do neither."""
        started = time.time_ns()
        token = otel_context.attach(_quiet(otel_context.get_current()))
        try:
            deliveries = poll()
        except Exception as error:
            span = self._receive_span(queue, (), started)
            _fail(span, error)
            span.end()
            raise
        finally:
            otel_context.detach(token)
        if deliveries:
            self._receive_span(queue, deliveries, started).end()
        return deliveries

    def _receive_span(self, queue: Queue, deliveries: Sequence[Delivery], started: int) -> Span:
        name, known = self._named("receive", queue)
        return self._tracer.start_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={**known, MESSAGE_COUNT: len(deliveries)},
            links=_links(deliveries),
            start_time=started,
        )

    def around_delivery(self, delivery: Delivery, process: Callable[[], Outcome]) -> Outcome:
        """Make a ``process`` span."""
        message = delivery.message
        name, known = self._named("process", delivery.queue)
        attributes = _of_message(known, message)
        attributes[RECEIVE_COUNT] = delivery.receive_count
        creator = _span_context_of(message)
        links = [] if creator is None else [Link(creator)]
        parent: Context | None = None
        if self._continue_traces and links:
            parent = _context_of(message)
            around = trace.get_current_span().get_span_context()
            if around.is_valid:
                links.append(Link(around))
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        )
        return _within(span, trace.set_span_in_context(span, parent), _with_outcome, span, process)

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        """Make a span for one run of a listener, inside of ``process``. It has the exception."""
        name = call.listener_name
        span = self._tracer.start_span(name, attributes={LISTENER_NAME: name, ATTEMPT: call.attempt})
        noted = partial(_with_outcome, span, run, call, with_exception=True)
        return _within(span, trace.set_span_in_context(span), noted)

    def around_settle(
        self, queue: Queue, outcomes: Sequence[tuple[Delivery, Outcome]], settle: Callable[[], object]
    ) -> None:
        """Make a ``settle`` span. It has links to the messages that are retried or dead-lettered."""
        name, known = self._named("settle", queue)
        attributes: Attributes = {**known, MESSAGE_COUNT: len(outcomes)}
        others = [(delivery, one) for delivery, one in outcomes if not isinstance(one, Acknowledge)]
        links = _links([delivery for delivery, _ in others])
        for _, outcome in others:
            count = f"{OUTCOME}.{outcome_name(outcome)}"
            attributes[count] = int(attributes.get(count, 0)) + 1
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, links=links)
        _within(span, _quiet(trace.set_span_in_context(span)), settle)

    def _named(self, operation: Operation, destination: Topic | Queue) -> tuple[str, Attributes]:
        """Return the name of a span, and the attributes that all spans of this operation here have: not to be changed."""
        key = (operation, destination.address)
        known = self._known.get(key)
        if known is None:
            attributes = operation_attributes_of(operation, destination) | address_attributes_of(destination)
            known = self._known[key] = (f"{operation} {destination.name}", attributes)
        return known


def _published(
    span: Span, messages: Sequence[Message], traced: Sequence[Message], publish: Publish
) -> list[Failure[Message]]:
    try:
        failures = publish(traced)
    except MessageTooLargeError:
        # The context may be what does not fit: an application must not fail because it is traced.
        failures = publish(messages)
    if failures:
        what = None if len(messages) == 1 else f"{len(failures)} of {len(messages)} messages failed"
        _fail(span, failures[0].error, what)
    return failures


def _of_message(known: Attributes, message: Message) -> Attributes:
    """Return the attributes of a span of one message, with those that are known."""
    attributes = {**known, MESSAGE_ID: message.message_id}
    if message.event_type_name is not None:
        attributes[EVENT_TYPE] = message.event_type_name
    if message.headers and CORRELATION_HEADER in message.headers:
        attributes[CONVERSATION_ID] = message.headers[CORRELATION_HEADER]
    return attributes


def _links(deliveries: Sequence[Delivery]) -> list[Link]:
    contexts = [_span_context_of(delivery.message) for delivery in deliveries]
    return [Link(one) for one in contexts if one is not None]


# --- what becomes of a span --------------------------------------------------------------------

_LONGEST_DESCRIPTION = 1_000

_SUPPRESS_INSTRUMENTATION: Final = "suppress_instrumentation"
"""Instrumentations of client libraries, botocore's for one, look for this key. Their spans would repeat melange's, and
botocore's would also write its own context over that of the message."""

Result = TypeVar("Result")


def _quiet(context: Context) -> Context:
    """Return the context in which instrumentations of client libraries make no spans of their own."""
    return otel_context.set_value(_SUPPRESS_INSTRUMENTATION, True, context)


def _within(span: Span, context: Context, call: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of the call, made in the context of the span, and end the span. Its exceptions are recorded."""
    token = otel_context.attach(context)
    try:
        return call(*arguments)
    except Exception as error:
        _record(span, error)
        _fail(span, error)
        raise
    finally:
        otel_context.detach(token)
        span.end()


def _with_outcome(
    span: Span, run: Callable[..., Outcome], *arguments: Any, with_exception: bool = False
) -> Outcome:
    """Run it and write its outcome on the span, which failed if an exception led to it; return the outcome."""
    outcome = run(*arguments)
    if isinstance(outcome, Acknowledge):
        span.set_attribute(OUTCOME, outcome.reason)
        return outcome
    span.set_attribute(OUTCOME, outcome_name(outcome))
    if isinstance(outcome, Defer) and outcome.attempt:
        span.set_attribute(ATTEMPT, outcome.attempt)
    elif isinstance(outcome, DeadLetter) and outcome.attempts:
        span.set_attribute(ATTEMPT, outcome.attempts)
    error = error_of(outcome)
    if error is not None:
        _fail(span, error)
        if with_exception:
            _record(span, error)
    elif isinstance(outcome, DeadLetter):
        span.set_status(Status(StatusCode.ERROR, outcome.reason))
    return outcome


def _fail(span: Span, error: BaseException, description: str | None = None) -> None:
    """Mark the span as failed by this error."""
    text = shortened(error, _LONGEST_DESCRIPTION) if description is None else description
    span.set_attribute(ERROR_TYPE, error_type(error))
    span.set_status(Status(StatusCode.ERROR, text))


def _record(span: Span, error: BaseException) -> None:
    with suppress(Exception):  # its __str__ may fail, and how a listener ended must not be hidden by that
        span.record_exception(error)


# --- propagation: by default the W3C's headers traceparent and tracestate -----------------------

_NO_CONTEXT = Context()
_HEADERS = Message._fields.index("headers")


def _with_context(message: Message, context: Context) -> Message:
    """Return the message with the trace context, as the process's propagators write it."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    if not carrier:
        return message
    headers = MappingProxyType({**message.headers, **carrier} if message.headers else carrier)
    # In a third of the time of _replace, which builds a dict of all fields first.
    return Message._make((*message[:_HEADERS], headers, *message[_HEADERS + 1 :]))


def _context_of(message: Message) -> Context:
    """Return the whole context in a message's headers, for what continues its trace."""
    return propagate.extract(message.headers, _NO_CONTEXT)


def _span_context_of(message: Message) -> SpanContext | None:
    """Return the creation context of a message; None if it has none, or one that cannot be read."""
    headers = message.headers
    if not headers:
        return None
    return _span_context(tuple(map(headers.get, _fields())))


@lru_cache(maxsize=1)
def _fields() -> tuple[str, ...]:
    # Asked once: the propagators are set when a program starts, and collecting their fields costs as much as a span's start.
    return tuple(sorted(propagate.get_global_textmap().fields))


@lru_cache(maxsize=4_096)
def _span_context(values: tuple[str | None, ...]) -> SpanContext | None:
    # A message is asked when it is received, processed and settled; reading it costs half of a span.
    headers = {name: value for name, value in zip(_fields(), values, strict=True) if value is not None}
    span_context = trace.get_current_span(propagate.extract(headers, _NO_CONTEXT)).get_span_context()
    return span_context if span_context.is_valid else None
