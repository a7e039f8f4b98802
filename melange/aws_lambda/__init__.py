"""AWS Lambda: the listeners of a consumer on the records that an event source passes to a function."""

from melange.aws_lambda.handling import InvocationFailed, LambdaHandler, handler

__all__ = ["InvocationFailed", "LambdaHandler", "diagnose", "handler"]


def __getattr__(name: str) -> object:
    if name != "diagnose":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A function does not diagnose itself: it would pay for the import at each cold start.
    from melange.aws_lambda.diagnosis import diagnose  # noqa: PLC0415 - see above

    return diagnose
