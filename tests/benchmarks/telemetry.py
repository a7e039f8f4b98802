"""What traces and metrics cost: off, and on beyond the calls of OpenTelemetry's SDK."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanKind

from benchmarks import events
from benchmarks.in_memory import MESSAGES, in_memory_driver
from benchmarks.measuring import Contender, Cost, Count, Progress, Row, cost_per_item, cpu_of, interleaved
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.messages import handled_message
from melange.telemetry import Metrics, Tracing

BATCH = 10

_MESSAGE = {"messaging.message.id": "0" * 36, "melange.event.type": "OrderPlaced"}
_MEASURED = {
    f"messaging.{name}": "some value"
    for name in ("operation.name", "operation.type", "system", "destination.name")
}
PUBLISHED: dict[str, str | int] = {**_MEASURED, **_MESSAGE}
PROCESSED: dict[str, str | int] = {**PUBLISHED, "melange.receive_count": 1}
LISTENED: dict[str, str | int] = {"melange.listener.name": "nothing", "melange.attempt": 1}
BATCHED: dict[str, str | int] = {**_MEASURED, "messaging.batch.message_count": BATCH}
DONE = {"melange.outcome": "done"}


def rows(repetitions: int, progress: Progress) -> tuple[list[Row], list[Count]]:
    """Compare publishing and consuming in memory without and with telemetry; CPU time."""
    costs = interleaved(
        "telemetry",
        {
            "off": in_memory_driver(events.ORDER),
            "on": in_memory_driver(events.ORDER, (Tracing(TracerProvider()), Metrics(_meter_provider()))),
            "by hand": by_hand(),
            "tests for hooks": tests_for_hooks(),
        },
        repetitions,
        progress,
    )
    off, on, hand, tests = map(cpu_of, costs.values())
    beyond = [one - other for one, other in zip(on, hand, strict=True)]
    work = "publish + consume in memory"
    found = [
        Row(f"{work}, traces and metrics", on, "the same calls of the SDK by hand", hand),
        Row(
            f"{work}: the tests for hooks",
            tests,
            "all of it, without telemetry",
            off,
            "at most 0.02",
        ),
    ]
    return found, [
        Count(
            "µs for each message beyond the calls of the SDK", statistics.median(beyond) * 1e6, "at most 15"
        )
    ]


def tests_for_hooks() -> Contender:
    """Make the tests that a publish and a settling make when there are no hooks."""
    driver = InMemoryDriver()

    def run() -> Cost:
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                if driver.middleware or driver.middleware:
                    raise AssertionError
                handled_message.get()
        return cost

    return run


def by_hand() -> Contender:
    """The same work, and the same spans, contexts and measurements made in the application, around it."""
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "orders",
        "shop",
        driver=driver,
        deduplication=MemoryDeduplicationStore(),
        queue=QueueOptions(wait_seconds=0),
    )
    processing = _processing()
    consumer.listener("OrderPlaced", name="nothing")(lambda event, headers: processing(headers))
    publish = _sending(ExchangeMessagePublisher("shop", driver))
    batch = _one_batch()

    def run() -> Cost:
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                publish()
            settled = 0
            while settled < MESSAGES:
                batch()
                settled += consumer.consume_event()
        return cost

    return run


_meters = MeterProvider([InMemoryMetricReader()])
_tracer = TracerProvider().get_tracer("by hand")
_meter = _meters.get_meter("by hand")


def _meter_provider() -> MeterProvider:
    return MeterProvider([InMemoryMetricReader()])


def _sending(publisher: ExchangeMessagePublisher) -> Callable[[], None]:
    counter, duration = _meter.create_counter("sent"), _meter.create_histogram("sending")

    def publish() -> None:
        span = _tracer.start_span("send", kind=SpanKind.PRODUCER, attributes=PUBLISHED)
        context = otel_context.set_value("suppress_instrumentation", True, trace.set_span_in_context(span))
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context)
        token = otel_context.attach(context)
        publisher.publish(events.ORDER, headers=carrier)
        counter.add(1, _MEASURED)
        duration.record(0.001, _MEASURED)
        otel_context.detach(token)
        span.end()

    return publish


def _processing() -> Callable[[Mapping[str, str]], None]:
    ages, processing, listening, attempts = (
        _meter.create_histogram(name) for name in ("ages", "processing", "listening", "attempts")
    )
    processed, listened = {**_MEASURED, **DONE}, {"a queue": "stock", "a listener": "nothing", **DONE}

    def process_it(headers: Mapping[str, str]) -> None:
        creator = trace.get_current_span(propagate.extract(headers)).get_span_context()
        ages.record(0.001, _MEASURED)
        process = _tracer.start_span(
            "process", kind=SpanKind.CONSUMER, attributes=PROCESSED, links=[Link(creator)]
        )
        token = otel_context.attach(trace.set_span_in_context(process))
        listener = _tracer.start_span("listener", attributes=LISTENED)
        inner = otel_context.attach(trace.set_span_in_context(listener))
        listening.record(0.001, listened)
        attempts.record(1, listened)
        listener.set_attribute("melange.outcome", "done")
        otel_context.detach(inner)
        listener.end()
        processing.record(0.001, processed)
        process.set_attribute("melange.outcome", "done")
        otel_context.detach(token)
        process.end()

    return process_it


def _one_batch() -> Callable[[], None]:
    counter, duration, lag = (
        _meter.create_counter("consumed"),
        _meter.create_histogram("duration"),
        _meter.create_gauge("lag"),
    )
    linked = _tracer.start_span("created").get_span_context()

    def run() -> None:
        links = [Link(linked) for _ in range(BATCH)]
        counter.add(BATCH, _MEASURED)
        duration.record(0.001, _MEASURED)
        lag.set(0.001, _MEASURED)
        _tracer.start_span("receive", kind=SpanKind.CLIENT, attributes=BATCHED, links=links).end()
        settle = _tracer.start_span("settle", kind=SpanKind.CLIENT, attributes=BATCHED)
        token = otel_context.attach(trace.set_span_in_context(settle))
        duration.record(0.001, _MEASURED)
        otel_context.detach(token)
        settle.end()

    return run
