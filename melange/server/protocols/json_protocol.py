"""SQS's JSON protocol: reading what an operation takes, and writing what it returns."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cache
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from melange.server.errors import ServiceError
from melange.server.protocols import input_shape

Reader = Callable[[Any], Any]

CONTENT_TYPE = "application/x-amz-json-1.0"


def read(operation: str, body: bytes) -> dict[str, Any]:
    """Return the parameters of a call.

    Raises:
        ServiceError: the body is not a JSON object, or a value has the wrong type.
    """
    try:
        values = _decode(body.decode()) if body else {}
    except (ValueError, RecursionError):
        raise ServiceError("SerializationException", "The request body is not JSON.") from None
    parameters: dict[str, Any] = _reader_of(operation)(values)
    return parameters


def write(result: dict[str, Any]) -> bytes:
    """Return the body of an answer."""
    # A client can send half of a surrogate pair as a JSON escape.
    return _encode(result).encode(errors="replace")


def write_error(error: ServiceError) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an error."""
    body = {"__type": f"com.amazonaws.sqs#{error.json_name}", "message": error.message}
    return {"x-amzn-query-error": f"{error.code};{error.fault}"}, write(body)


def _base64(value: object) -> str:
    assert isinstance(value, bytes)
    return b64encode(value).decode()


_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(default=_base64, ensure_ascii=False, separators=(",", ":")).encode


@cache
def _reader_of(operation: str) -> Reader:
    shape = input_shape("sqs", operation)
    return _structure(shape) if shape is not None else lambda _: {}


def _reader(shape: Shape) -> Reader:
    if isinstance(shape, StructureShape):
        return _structure(shape)
    if isinstance(shape, MapShape):
        return _map(_reader(shape.value))
    if isinstance(shape, ListShape):
        return _list(_reader(shape.member))
    return {"integer": _integer, "long": _integer, "boolean": _boolean, "blob": _blob}.get(
        shape.type_name, _text
    )


def _structure(shape: StructureShape) -> Reader:
    readers = {name: _reader(member) for name, member in shape.members.items()}
    texts = frozenset(name for name, read in readers.items() if read is _text)

    def read_structure(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _wrong_type(value, "an object")
        found = {}
        for name, item in value.items():
            if name in texts and type(item) is str:  # as most are
                found[name] = item
            elif item is not None and name in readers:
                found[name] = readers[name](item)
        return found

    return read_structure


def _map(read_value: Reader) -> Reader:
    def read_map(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _wrong_type(value, "an object")
        return {name: read_value(item) for name, item in value.items()}

    return read_map


def _list(read_member: Reader) -> Reader:
    def read_list(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _wrong_type(value, "a list")
        return [read_member(item) for item in value]

    return read_list


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _wrong_type(value, "a string")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, "an integer")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "a boolean")
    return value


def _blob(value: Any) -> bytes:
    try:
        return b64decode(_text(value), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong_type(value, "base64") from None


def _wrong_type(value: object, wanted: str) -> ServiceError:
    kind = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return ServiceError(
        "SerializationException", f"{kind.get(type(value), 'a number')} can not be converted to {wanted}"
    )
