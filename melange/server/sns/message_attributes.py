"""Message attributes as SNS checks them, in words and with codes other than SQS's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from melange.server.errors import ServiceError
from melange.server.sqs.messages import Attributes, find_forbidden, is_number

_DATA_TYPE = re.compile(r"(String|Number|Binary)(?:\..+)?", re.DOTALL)
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
_MAX_NAME = 256


def check_attributes(attributes: Mapping[str, Mapping[str, Any]], path: str) -> Attributes:
    """Return message attributes without what is empty, or raise what SNS answers to them."""
    return {name: _check(name, attribute, f"{path}.{name}") for name, attribute in attributes.items()}


def _check(name: str, attribute: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    data_type = attribute.get("DataType")
    if data_type is None:
        raise ServiceError(
            "ValidationError",
            f"1 validation error detected: Value null at '{path}.member.dataType' failed to satisfy constraint: Member "
            "must not be null",
        )
    _check_name(name)
    found = _DATA_TYPE.fullmatch(data_type)
    if found is None:
        raise _invalid(
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type prefixes "
            "is Binary, Number, and String."
        )
    field, kind = ("BinaryValue", "Binary") if found[1] == "Binary" else ("StringValue", "String")
    other = "StringValue" if kind == "Binary" else "BinaryValue"
    value = attribute.get(field)
    if not value:
        if attribute.get(other):
            raise _invalid(f"The message attribute '{name}' with type '{found[1]}' must use field '{kind}'.")
        raise _invalid(
            f"The message attribute '{name}' must contain non-empty message attribute value for message attribute type "
            f"'{found[1]}'."
        )
    if kind == "String" and find_forbidden(value):
        raise _invalid(
            f"Invalid binary character '{find_forbidden(value)}' was found in the message attribute."
        )
    if found[1] == "Number" and not is_number(value):
        raise _invalid(f"Could not cast message attribute '{name}' value to number.")
    return {"DataType": data_type, field: value}


def _check_name(name: str) -> None:
    odd = _ODD.search(name)
    if len(name) > _MAX_NAME:
        raise _invalid("Length of message attribute name must be less than 256 bytes.")
    if odd:
        raise _invalid(
            f"Invalid non-alphanumeric character '#x{ord(odd[0]):X}' was found in the message attribute name. Can only "
            "include alphanumeric characters, hyphens, underscores, or dots."
        )
    if not name or name.startswith("."):
        raise _invalid("Invalid message attribute name starting with character '.' was found.")
    if name.endswith("."):
        raise _invalid("Invalid message attribute name ending with character '.' was found.")
    if ".." in name:
        raise _invalid("Message attribute name can not have successive '.' character.")


def _invalid(message: str) -> ServiceError:
    return ServiceError("ParameterValueInvalid", message)
