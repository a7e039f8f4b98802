"""Spans and metrics in memory, on a driver in memory."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from melange import ExchangeMessageConsumer, QueueOptions
from melange.drivers.memory import InMemoryDriver


class Spans:
    """The spans that have ended, in the order of their ends."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self):
        return self._exporter.get_finished_spans()

    @property
    def names(self):
        return [span.name for span in self.all]

    def named(self, name):
        return [span for span in self.all if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans():
    return Spans()


class Measured:
    """The metrics that were reported, collected when they are asked for."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self, name):
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def values(self, name, attribute):
        """Return the values of a counter or gauge, or the counts of a histogram, by one attribute."""
        return {
            point.attributes.get(attribute): getattr(point, "value", getattr(point, "count", None))
            for point in self.points(name)
        }


@pytest.fixture
def measured():
    measured = Measured()
    yield measured
    measured.provider.shutdown()


@pytest.fixture
def driver(clock):
    with InMemoryDriver(clock=clock) as driver:
        yield driver


@pytest.fixture
def make_consumer(driver):
    def make(queue_name="stock", topic_name="products", **options):
        return ExchangeMessageConsumer(
            queue_name, topic_name, driver=driver, queue=QueueOptions(wait_seconds=0), **options
        )

    return make
