"""The errors that the server answers with, under the codes of AWS."""

from __future__ import annotations

_QUERY_PREFIX = "AWS.SimpleQueueService."

_JSON_NAMES = {
    f"{_QUERY_PREFIX}NonExistentQueue": "QueueDoesNotExist",
    "QueueAlreadyExists": "QueueNameExists",
    "InvalidParameterValue": "InvalidParameterValueException",
    "MissingParameter": "MissingRequiredParameterException",
    "AccessDenied": "AccessDeniedException",
    "InvalidAction": "InvalidActionException",
}
"""The names that SQS's JSON protocol has for codes, where dropping the prefix does not make them."""


class ServiceError(Exception):
    """An error as the client gets it.

    Args:
        code: the code of the Query protocol, which botocore shows for SQS's JSON protocol as well.
        message: what is wrong.
        status: the HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def fault(self) -> str:
        """The side at fault, in the words of the protocols."""
        return "Sender" if self.status < 500 else "Receiver"

    @property
    def json_name(self) -> str:
        """The name of the error in SQS's JSON protocol."""
        return _JSON_NAMES.get(self.code) or self.code.removeprefix(_QUERY_PREFIX)


def invalid_value(value: object, name: str, reason: str) -> ServiceError:
    """Return SQS's error for a parameter's value."""
    return ServiceError(
        "InvalidParameterValue", f"Value {value} for parameter {name} is invalid. Reason: {reason}"
    )


def missing_parameter(name: str) -> ServiceError:
    """Return SQS's error for a parameter that is not there."""
    return ServiceError("MissingParameter", f"The request must contain the parameter {name}.")


def invalid_parameter(text: str) -> ServiceError:
    """Return SNS's error for a parameter."""
    return ServiceError("InvalidParameter", f"Invalid parameter: {text}")


def no_such_queue() -> ServiceError:
    """Return SQS's error for a queue that does not exist."""
    return ServiceError(f"{_QUERY_PREFIX}NonExistentQueue", "The specified queue does not exist.")


def sqs_error(name: str, message: str, status: int = 400) -> ServiceError:
    """Return an error that has SQS's prefix in the Query protocol."""
    return ServiceError(_QUERY_PREFIX + name, message, status)


def not_authorized(code: str, account: str, action: str, arn: str) -> ServiceError:
    """Return the error for what an account may not do with a resource."""
    return ServiceError(
        code,
        f"User: arn:aws:iam::{account}:root is not authorized to perform: {action} on resource: {arn}",
        403,
    )
