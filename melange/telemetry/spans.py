"""What becomes of a span: its end, its error, and the outcome of what it covers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Outcome
from melange.errors import shortened
from melange.telemetry.conventions import ATTEMPT, ERROR_TYPE, OUTCOME, error_of, error_type, outcome_name

_LONGEST_DESCRIPTION = 1_000

_QUIET: Final = "suppress_instrumentation"
"""Instrumentations of client libraries, botocore's for one, look for this key. Their spans would repeat melange's, and
botocore's would also write its own context over that of the message."""


Result = TypeVar("Result")


def quiet(context: Context) -> Context:
    """Return the context in which instrumentations of client libraries make no spans of their own."""
    return otel_context.set_value(_QUIET, True, context)


def within(span: Span, context: Context, call: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of the call, made in the context of the span, and end the span. Its exceptions are recorded."""
    token = otel_context.attach(context)
    try:
        return call(*arguments)
    except Exception as error:
        _record(span, error)
        fail(span, error)
        raise
    finally:
        otel_context.detach(token)
        span.end()


def with_outcome(
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
        fail(span, error)
        if with_exception:
            _record(span, error)
    elif isinstance(outcome, DeadLetter):
        span.set_status(Status(StatusCode.ERROR, outcome.reason))
    return outcome


def fail(span: Span, error: BaseException, description: str | None = None) -> None:
    """Mark the span as failed by this error."""
    span.set_attribute(ERROR_TYPE, error_type(error))
    span.set_status(
        Status(
            StatusCode.ERROR, shortened(error, _LONGEST_DESCRIPTION) if description is None else description
        )
    )


def _record(span: Span, error: BaseException) -> None:
    with suppress(Exception):  # its __str__ may fail, and how a listener ended must not be hidden by that
        span.record_exception(error)
