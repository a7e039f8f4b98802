"""The Query protocol of SNS and STS, and of older clients of SQS: form fields in, XML out."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from botocore.model import ListShape, MapShape, Shape, StructureShape

from melange.server.errors import ServiceError, no_such_queue
from melange.server.protocols import input_shape, operation_model

CONTENT_TYPE = "text/xml"

VERSIONS = {"2012-11-05": "sqs", "2010-03-31": "sns", "2011-06-15": "sts"}
"""The service that a version of the Query protocol belongs to."""

_NAMESPACES = {
    "sqs": "http://queue.amazonaws.com/doc/2012-11-05/",
    "sns": "http://sns.amazonaws.com/doc/2010-03-31/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}

_SQS_NAMES = {
    "AWSAccountIdList": "AWSAccountId",
    "ActionNameList": "ActionName",
    "AttributeNameList": "AttributeName",
    "BinaryList": "BinaryListValue",
    "ListMessageMoveTasksResultEntryList": "ListMessageMoveTasksResultEntry",
    "MessageAttributeNameList": "MessageAttributeName",
    "MessageBodyAttributeMap": "MessageAttribute",
    "MessageBodySystemAttributeMap": "MessageSystemAttribute",
    "MessageList": "Message",
    "MessageSystemAttributeList": "MessageSystemAttributeName",
    "MessageSystemAttributeMap": "Attribute",
    "QueueAttributeMap": "Attribute",
    "QueueUrlList": "QueueUrl",
    "StringList": "StringListValue",
    "TagKeyList": "TagKey",
    "TagMap": "Tag",
}
"""What SQS calls the items of its lists and maps in the Query protocol. botocore's model speaks JSON and has lost it."""

_MAX_ITEMS = 1_000
"""The most items of one list that are read."""

Fields = dict[str, Any]
"""Form fields as a tree: the field ``a.1.b`` is ``fields["a"]["1"]["b"]``."""


def read(service: str, operation: str, form: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of a call.

    Raises:
        ServiceError: a value has the wrong type.
    """
    shape = input_shape(service, operation)
    return _read_structure(service, shape, _tree(form)) if shape is not None else {}


def write(service: str, operation: str, result: Mapping[str, Any], request_id: str) -> bytes:
    """Return the body of an answer."""
    model = operation_model(service, operation)
    written = ""
    if model is not None and model.output_shape is not None:
        inside = "".join(_write_members(service, model.output_shape, result))
        written = f"<{operation}Result>{inside}</{operation}Result>" if inside else f"<{operation}Result/>"
    return (
        f'<?xml version="1.0"?><{operation}Response xmlns="{_NAMESPACES[service]}">{written}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
    ).encode(errors="replace")


def write_error(service: str, error: ServiceError, request_id: str) -> bytes:
    """Return the body of an error."""
    message = error.message
    if error.code == no_such_queue().code:
        # SQS says so in this protocol only.
        message = message.replace("exist.", "exist for this wsdl version.")
    return (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{_NAMESPACES[service]}"><Error><Type>{error.fault}</Type>'
        f"<Code>{_escape(error.code)}</Code><Message>{_escape(message)}</Message>"
        f"{'<Detail/>' if service == 'sqs' else ''}</Error>"
        f"<RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode(errors="replace")


def _tree(form: Mapping[str, str]) -> Fields:
    tree: Fields = {}
    for name, value in form.items():
        *parents, last = name.split(".", 12)
        branch = tree
        for parent in parents:
            below = branch.setdefault(parent, {})
            if not isinstance(below, dict):  # a field that is both a value and the start of others
                below = branch[parent] = {}
            branch = below
        branch.setdefault(last, value)
    return tree


def _read(service: str, shape: Shape, value: Any, name: str) -> Any:
    if isinstance(shape, StructureShape):
        return _read_structure(service, shape, value if isinstance(value, dict) else {})
    if isinstance(shape, ListShape):
        items = _items(value, _item_names(service, shape))
        return [_read(service, shape.member, item, name) for item in items]
    if isinstance(shape, MapShape):
        key_name, value_name = _key_and_value(service, shape)
        pairs = [
            item
            for item in _items(value, (shape.serialization.get("name", "entry"),))
            if isinstance(item, dict)
        ]
        return {
            str(pair.get(key_name, "")): _read(service, shape.value, pair.get(value_name, ""), name)
            for pair in pairs
        }
    if not isinstance(value, str):
        raise ServiceError("MalformedInput", f"Invalid value for {name}")
    return _read_scalar(shape, value, name)


def _read_structure(service: str, shape: StructureShape, fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        if service == "sqs" and isinstance(member, (ListShape, MapShape)):
            field = fields.get(_sqs_name(member.name, name))
        else:
            field = fields.get(member.serialization.get("name", name), fields.get(name))
        if field is not None and not (field == "" and isinstance(member, (ListShape, MapShape))):
            found[name] = _read(service, member, field, name)
    return found


def _items(value: Any, wrappers: tuple[str, ...]) -> list[Any]:
    """Return the items of a list in the order of their numbers."""
    for wrapper in wrappers:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
            break
    if not isinstance(value, dict):
        return []
    numbered = sorted(
        (int(number), item)
        for number, item in value.items()
        if number.isascii() and number.isdigit() and len(number) < 7
    )
    return [item for _, item in numbered[:_MAX_ITEMS]]


def _item_names(service: str, shape: ListShape) -> tuple[str, ...]:
    if service == "sqs":
        return ()
    return (shape.member.serialization.get("name", "member"), "member")


def _key_and_value(service: str, shape: MapShape) -> tuple[str, str]:
    if service == "sqs":
        return ("Key", "Value") if shape.name == "TagMap" else ("Name", "Value")
    return shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")


def _sqs_name(shape_name: str, member_name: str) -> str:
    """Return the name under which SQS's Query protocol lists the items of a shape."""
    if member_name == "AttributeNames" and shape_name == "MessageSystemAttributeList":
        return "AttributeName"
    return _SQS_NAMES.get(shape_name) or shape_name.removesuffix("List")


def _read_scalar(shape: Shape, value: str, name: str) -> Any:
    try:
        if shape.type_name in {"integer", "long"}:
            return int(value)
        if shape.type_name == "boolean":
            return {"true": True, "false": False}[value.lower()]
        if shape.type_name == "blob":
            return b64decode(value, validate=True)
    except (KeyError, ValueError, binascii.Error):
        raise ServiceError("MalformedInput", f"Invalid value {value!r:.100} for {name}") from None
    return value


def _write(service: str, shape: Shape, name: str, value: Any) -> str:
    if isinstance(shape, StructureShape):
        return f"<{name}>{''.join(_write_members(service, shape, value))}</{name}>"
    if isinstance(shape, ListShape):
        if service == "sqs":
            item_name = _sqs_name(shape.name, name)
            return "".join(_write(service, shape.member, item_name, item) for item in value)
        item_name = shape.member.serialization.get("name", "member")
        return f"<{name}>{''.join(_write(service, shape.member, item_name, item) for item in value)}</{name}>"
    if isinstance(shape, MapShape):
        key_name, value_name = _key_and_value(service, shape)
        pair_name = _sqs_name(shape.name, name) if service == "sqs" else "entry"
        pairs = "".join(
            f"<{pair_name}><{key_name}>{_escape(key)}</{key_name}>{_write(service, shape.value, value_name, item)}</{pair_name}>"
            for key, item in value.items()
        )
        return pairs if service == "sqs" else f"<{name}>{pairs}</{name}>"
    return f"<{name}>{_write_scalar(value)}</{name}>"


def _write_members(service: str, shape: StructureShape, value: Mapping[str, Any]) -> list[str]:
    return [
        _write(service, member, member.serialization.get("name", name), value[name])
        for name, member in shape.members.items()
        if value.get(name) is not None
    ]


def _write_scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return _escape(str(value))


def _escape(text: str) -> str:
    # A parser would turn a carriage return into a line feed.
    return escape(text, {"\r": "&#xD;", '"': "&quot;"})
