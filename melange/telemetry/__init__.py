"""Traces and metrics through OpenTelemetry, as ordinary middleware: the extra ``melange[otel]``.

    DriverManager.instance().use_driver(driver_name="aws", middleware=[Tracing(), Metrics()])

Names follow the semantic conventions for messaging of OpenTelemetry; what those lack has a name that begins with
``melange.``.
"""

try:
    import opentelemetry as _opentelemetry  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError(
        "melange.telemetry needs OpenTelemetry's API: pip install '.[otel]' in a checkout of melange"
    ) from error

from melange.telemetry.metrics import Metrics
from melange.telemetry.tracing import Tracing

__all__ = ["Metrics", "Tracing"]
