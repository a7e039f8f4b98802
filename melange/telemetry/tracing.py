"""Spans around publishing and consuming, by the semantic conventions for messaging."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, TracerProvider

from melange.consuming.outcomes import Acknowledge, Outcome
from melange.consuming.subscriptions import ListenerCall
from melange.errors import Failure, MessageTooLargeError
from melange.messages import CORRELATION_HEADER, Delivery, Message, Queue, Topic
from melange.middleware import Middleware, Publish
from melange.telemetry.conventions import (
    ATTEMPT,
    CONVERSATION_ID,
    DESTINATION_NAME,
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
    attributes_of,
    outcome_name,
)
from melange.telemetry.propagation import context_of, span_context_of, with_context
from melange.telemetry.spans import fail, quiet, with_outcome, within


class Tracing(Middleware):
    """Makes a span for each operation, and sends its context with the messages.

    ``send`` and ``create`` for what is published, ``receive``, ``process``, one for each run of a listener, and ``settle``. The
    context travels in headers of the message, through an outbox, redeliveries and dead-letter queues.

    By default the span of a message that is processed starts a new trace, with a link to the span that created the message.
    ``continue_traces=True`` makes it a child of that span, so that one trace shows all: choose it where a message causes few others.
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
        creator = span_context_of(message) if message.headers else None
        attributes = _of_message(known, message)
        if creator is None:
            span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        else:
            span = self._tracer.start_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, links=[Link(creator)]
            )
        context = quiet(trace.set_span_in_context(span))
        traced = with_context(message, context) if creator is None else message
        return within(span, context, _published, span, (message,), (traced,), publish)

    def _send_batch(
        self, destination: Topic | Queue, messages: Sequence[Message], publish: Publish
    ) -> list[Failure[Message]]:
        name, known = self._named("send", destination)
        traced, creators = messages, [span_context_of(message) for message in messages]
        if self._create_spans and None in creators:
            traced = [
                message if creator else self._created(destination, message)
                for message, creator in zip(messages, creators, strict=True)
            ]
            creators = [span_context_of(message) for message in traced]
        span = self._tracer.start_span(
            name,
            kind=SpanKind.PRODUCER if None in creators else SpanKind.CLIENT,
            attributes={**known, MESSAGE_COUNT: len(messages)},
            links=[Link(creator) for creator in creators if creator is not None],
        )
        context = quiet(trace.set_span_in_context(span))
        traced = [
            message if creator else with_context(message, context)
            for message, creator in zip(traced, creators, strict=True)
        ]
        return within(span, context, _published, span, messages, traced, publish)

    def prepare(self, destination_name: str, message: Message) -> Message:
        """Give a message that an outbox writes the context of a ``create`` span in the current trace."""
        if span_context_of(message) is not None:
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
        return with_context(message, trace.set_span_in_context(span))

    # --- consuming ---------------------------------------------------------------------------------

    def around_poll(self, queue: Queue, poll: Callable[[], Sequence[Delivery]]) -> Sequence[Delivery]:
        """Make a ``receive`` span for a poll that received something or failed: most polls of a quiet queue do neither."""
        started = time.time_ns()
        token = otel_context.attach(quiet(otel_context.get_current()))
        try:
            deliveries = poll()
        except Exception as error:
            span = self._receive_span(queue, (), started)
            fail(span, error)
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
        creator = span_context_of(message)
        links = [] if creator is None else [Link(creator)]
        parent: Context | None = None
        if self._continue_traces and links:
            parent = context_of(message)
            around = trace.get_current_span().get_span_context()
            if around.is_valid:
                links.append(Link(around))
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        )
        return within(span, trace.set_span_in_context(span, parent), with_outcome, span, process)

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        """Make a span for one run of a listener, inside of ``process``. It has the exception."""
        name = call.listener_name
        span = self._tracer.start_span(name, attributes={LISTENER_NAME: name, ATTEMPT: call.attempt})
        noted = partial(with_outcome, span, run, call, with_exception=True)
        return within(span, trace.set_span_in_context(span), noted)

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
        within(span, quiet(trace.set_span_in_context(span)), settle)

    def _named(self, operation: Operation, destination: Topic | Queue) -> tuple[str, Attributes]:
        """Return the name of a span, and the attributes that all spans of this operation here have: not to be changed."""
        key = (operation, destination.address)
        known = self._known.get(key)
        if known is None:
            attributes = attributes_of(operation, destination) | address_attributes_of(destination)
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
        fail(span, failures[0].error, what)
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
    contexts = [span_context_of(delivery.message) for delivery in deliveries]
    return [Link(one) for one in contexts if one is not None]
