"""The server's operations: whatever a call has, its answer is one of SQS or SNS, never a failure of the server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import given
from hypothesis import strategies as st

from melange.server.broker import Broker
from melange.server.gateway import Gateway
from melange.server.http import Request
from melange.server.operation_table import OPERATIONS
from melange.server.protocols import input_shape
from melange.server.protocols.query_protocol import VERSIONS

SQS_ARN = "arn:aws:sqs:us-east-1:000000000000:"
SNS_ARN = "arn:aws:sns:us-east-1:000000000000:"
TEXTS = [
    "",
    "orders",
    "orders.fifo",
    "x" * 300,
    "\ud800",
    "\0",
    "http://[",
    "/000000000000/orders",
    f"{SQS_ARN}orders",
    f"{SQS_ARN}orders.fifo",
    f"{SNS_ARN}orders",
    f"{SNS_ARN}orders.fifo",
    f"{SNS_ARN}orders:{'0' * 36}",
    "::::::",
    "true",
    "-1",
    "9" * 30,
    "1e400",
    "NaN",
    "٣",
    "All",
    ".*",
    "sqs",
    "http",
    "http://127.0.0.1:99999/",
    "http://[::",
    "String",
    "Number",
    "Binary",
    "String.Array",
    "String.\ud800",
    "json",
    "[" * 3_000 + "]" * 3_000,
    '{"a":' * 3_000 + "1" + "}" * 3_000,
    "[]",
    "null",
    '{"default": "x"}',
    '{"default": 1}',
    '{"default": "\\ud800"}',
    '{"Statement": "x"}',
    '{"Statement": [{"Effect": "Allow", "Principal": [1], "Action": 5, "Resource": null, "Condition": []}]}',
    '{"Statement": [{"Effect": "Allow", "Principal": "*", "Condition": {"StringEquals": {"aws:SourceArn": {"a": 1}}}}]}',
    '{"deadLetterTargetArn": 1, "maxReceiveCount": []}',
    f'{{"deadLetterTargetArn": "{SQS_ARN}orders", "maxReceiveCount": "1"}}',
    '{"redrivePermission": "byQueue", "sourceQueueArns": [1]}',
    '{"redrivePermission": []}',
    f'{{"deadLetterTargetArn": "{SQS_ARN}orders"}}',
    '{"a": ["b"]}',
    '{"a": [{"numeric": [">", "x"]}]}',
    '{"a": {"b": ["c"]}}',
    '{"a": [NaN, 1e999, {"cidr": "1/2"}, {"anything-but": [1, "x"]}, {"numeric": ["=", 1e999]}]}',
    "[1, NaN, null]",
    '{"$or": [{"a": ["b"]}, {"c": 1}]}',
    '{"healthyRetryPolicy": []}',
    '{"http": {"defaultHealthyRetryPolicy": []}}',
    '{"http": "x"}',
    '{"http": {"defaultHealthyRetryPolicy": {"numRetries": "3"}, "defaultRequestPolicy": {"headerContentType": 1}}}',
    f"1-1-{'0' * 32}",
    "eyJ0YXNrSWQiOiAxfQ==",
]
NAMES = [
    "ContentBasedDeduplication",
    "DelaySeconds",
    "DeliveryPolicy",
    "FifoQueue",
    "FifoTopic",
    "FilterPolicy",
    "FilterPolicyScope",
    "KmsMasterKeyId",
    "MaximumMessageSize",
    "Policy",
    "RawMessageDelivery",
    "RedriveAllowPolicy",
    "RedrivePolicy",
    "SignatureVersion",
    "VisibilityTimeout",
]
QUEUES = ["orders", "orders.fifo"]
EXISTING = {
    "QueueUrl": QUEUES,
    "SourceArn": [SQS_ARN + name for name in QUEUES],
    "DestinationArn": [SQS_ARN + name for name in QUEUES],
    "TopicArn": [SNS_ARN + name for name in QUEUES],
    "TargetArn": [SNS_ARN + name for name in QUEUES],
    "ResourceArn": [SNS_ARN + name for name in QUEUES],
    "Endpoint": [SQS_ARN + name for name in QUEUES],
    "Protocol": ["sqs", "http"],
    "AttributeName": NAMES,
    "Message": ["text", '{"default": "x"}'],
    "MessageBody": ["text"],
    "Id": ["1", "2", "3"],
}
"""Values of parameters that name what there is, so that most calls come to their work."""

NONSENSE: st.SearchStrategy[Any] = st.sampled_from([None, 1.5, True, [], {}, "x", [[]], {"a": {}}, 10**30])


@st.composite
def mostly(draw: st.DrawFn, usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
    return draw(other if draw(st.integers(0, 19)) == 7 else usual)


@st.composite
def structures(draw: st.DrawFn, shape: StructureShape) -> dict[str, Any]:
    """Return values for the required members of a structure, and for at most three others."""
    optional = sorted(shape.members.keys() - set(shape.required_members))
    chosen = draw(st.lists(st.sampled_from(optional), max_size=3, unique=True)) if optional else []
    return {name: draw(member_of(shape, name)) for name in [*shape.required_members, *chosen]}


def member_of(shape: StructureShape, name: str) -> st.SearchStrategy[Any]:
    if name in EXISTING:
        return mostly(st.sampled_from(EXISTING[name]), values_of(shape.members[name]))
    return values_of(shape.members[name])


def values_of(shape: Shape) -> st.SearchStrategy[Any]:
    """Return values for a shape, most of them of its type."""
    if isinstance(shape, StructureShape):
        found: st.SearchStrategy[Any] = structures(shape)
    elif isinstance(shape, ListShape):
        found = st.lists(values_of(shape.member), max_size=3)
    elif isinstance(shape, MapShape):
        found = st.dictionaries(st.sampled_from(NAMES + TEXTS), values_of(shape.value), max_size=3)
    elif shape.type_name in {"integer", "long"}:
        found = st.sampled_from([0, 1, 5, 10, 30, -1, 43_200, 10**20])
    elif shape.type_name == "boolean":
        found = st.booleans()
    else:
        found = st.sampled_from(["", "AA==", "!!"] if shape.type_name == "blob" else TEXTS)
    return mostly(found, NONSENSE)


def calls_of(service: str, operation: str) -> st.SearchStrategy[tuple[str, str, Any]]:
    shape = input_shape(service, operation)
    values = values_of(shape) if shape is not None else st.just({})
    return st.tuples(st.just(service), st.just(operation), values)


CALLS = st.one_of(
    [calls_of(service, operation) for service, known in OPERATIONS.items() for operation in known]
)


def json_request(operation: str, parameters: Any) -> Request:
    headers = {"host": "localhost", "x-amz-target": f"AmazonSQS.{operation}"}
    return Request("POST", "/", headers, json.dumps(parameters).encode())


def form_request(service: str, operation: str, parameters: Any) -> Request:
    version = next(version for version, name in VERSIONS.items() if name == service)
    fields = {"Action": operation, "Version": version}
    fields_of("", input_shape(service, operation), parameters, fields)
    body = urlencode(fields, errors="replace").encode()
    return Request("POST", "/", {"host": "localhost"}, body)


def fields_of(prefix: str, shape: Shape | None, value: Any, fields: dict[str, str]) -> None:
    """Write nested parameters as the fields of a form."""
    if isinstance(value, dict) and isinstance(shape, MapShape):
        for number, (key, item) in enumerate(value.items(), 1):
            entry = f"{prefix}.entry.{number}"
            fields[f"{entry}.{shape.key.serialization.get('name', 'key')}"] = key
            fields_of(f"{entry}.{shape.value.serialization.get('name', 'value')}", shape.value, item, fields)
    elif isinstance(value, dict):
        members = shape.members if isinstance(shape, StructureShape) else {}
        for name, item in value.items():
            fields_of(f"{prefix}.{name}" if prefix else name, members.get(name), item, fields)
    elif isinstance(value, list):
        member = shape.member if isinstance(shape, ListShape) else None
        for number, item in enumerate(value, 1):
            fields_of(f"{prefix}.member.{number}", member, item, fields)
    elif prefix:
        fields[prefix] = "" if value is None else str(value)


@given(st.lists(CALLS, min_size=5, max_size=20))
def test_no_call_makes_the_server_fail(calls):
    broker = Broker()
    gateway = Gateway(broker)
    for name in QUEUES:
        is_fifo = name.endswith(".fifo")
        queue = {"QueueName": name, "Attributes": {"FifoQueue": "true"} if is_fifo else {}}
        topic = {"Name": name, "Attributes": {"FifoTopic": "true"} if is_fifo else {}}
        gateway.answer(json_request("CreateQueue", queue), lambda: True)
        gateway.answer(form_request("sns", "CreateTopic", topic), lambda: True)

    for service, operation, parameters in calls:
        if isinstance(parameters, dict):
            parameters.pop("WaitTimeSeconds", None)  # nothing comes
        requests = [form_request(service, operation, parameters)]
        if service == "sqs":
            requests.append(json_request(operation, parameters))
        for request in requests:
            response = gateway.answer(request, lambda: True)

            assert response.status < 500, (operation, parameters, response.body)
    broker.close()
