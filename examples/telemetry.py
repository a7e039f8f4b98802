"""A shop with traces and metrics: Prometheus reads the metrics from http://127.0.0.1:9464/metrics.

    python examples/telemetry.py

Needs ``pip install '.[otel]' opentelemetry-sdk opentelemetry-exporter-prometheus``, in a checkout of melange.
"""

from __future__ import annotations

import os

from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import start_http_server

from melange import DriverManager, ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.telemetry import Metrics, Tracing

PORT = int(os.environ.get("METRICS_PORT", "9464"))


def set_up_telemetry() -> None:
    """Give the SDK to OpenTelemetry's API, once, when the program starts."""
    resource = Resource.create({SERVICE_NAME: "stock"})
    trace.set_tracer_provider(TracerProvider(resource=resource))  # add a span processor with your exporter
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()], resource=resource))
    start_http_server(PORT, addr="127.0.0.1")


def main() -> int:
    """Publish some events and work until the program is stopped."""
    set_up_telemetry()
    DriverManager.instance().use_driver(driver_name="memory", middleware=[Tracing(), Metrics()])
    consumer = ExchangeMessageConsumer("stock", "products")

    @consumer.listener("ProductAdded")
    def shelve(event: dict[str, object]) -> None:
        print(event["name"], "added", flush=True)

    publisher = ExchangeMessagePublisher("products")
    for name in ("Coolers", "Umbrellas"):
        publisher.publish({"event_type_name": "ProductAdded", "name": name})
    return consumer.run()


if __name__ == "__main__":
    raise SystemExit(main())
