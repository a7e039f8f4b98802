"""AWS Lambda: the listeners of a consumer on the records that an event source passes to a function."""

from importlib import import_module
from typing import TYPE_CHECKING

from melange.aws_lambda.lambda_handler import BatchResponse, InvocationFailed, LambdaHandler, handler

__all__ = ["BatchResponse", "InvocationFailed", "LambdaHandler", "LocalEventSource", "diagnose", "handler"]


if TYPE_CHECKING:
    from melange.aws_lambda.diagnosis import diagnose
    from melange.aws_lambda.local_event_source import LocalEventSource

# In Lambda nothing asks for these: a function would pay for the imports at each cold start.
_ELSEWHERE = {"diagnose": "diagnosis", "LocalEventSource": "local_event_source"}


def __getattr__(name: str) -> object:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
