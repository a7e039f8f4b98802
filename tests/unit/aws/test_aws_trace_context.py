"""The context of a trace as attributes that other programs read: never folded, and for X-Ray too."""

import json

import pytest

from melange.drivers.aws.wire import delivery_from, publish_entry, send_entry, trace_header_of, traceparent_of
from melange.messages import Message, Queue

QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")
TRACEPARENT = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"
TRACE_HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


def received(attributes, system):
    raw = {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": "{}",
        "Attributes": system,
        "MessageAttributes": attributes,
    }
    return delivery_from(raw, QUEUE, 5.0, 0).message


def test_the_context_is_an_attribute_of_its_own_however_many_headers_there_are():
    headers = {f"h{number}": "x" for number in range(20)}
    context = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "tenant=7"}

    attributes = publish_entry(Message("id-1", "{}", headers={**headers, **context}))["MessageAttributes"]

    assert {name: attributes[name]["StringValue"] for name in context} == context
    assert len(attributes) == 10
    folded = json.loads(attributes["melange-headers"]["StringValue"])
    assert set(folded) < set(headers)


def test_what_is_sent_to_a_queue_has_the_header_of_x_ray_too():
    entry = send_entry(Message("id-1", "{}", headers={"traceparent": TRACEPARENT}))

    assert entry["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"] == TRACE_HEADER
    assert entry["MessageAttributes"]["traceparent"]["StringValue"] == TRACEPARENT


@pytest.mark.parametrize("headers", [{}, {"own": "1"}, {"traceparent": "nonsense"}])
def test_without_a_context_there_is_no_such_header(headers):
    assert "MessageSystemAttributes" not in send_entry(Message("id-1", "{}", headers=headers))


def test_what_the_propagator_of_x_ray_wrote_is_sent_as_it_is():
    headers = {"X-Amzn-Trace-Id": TRACE_HEADER.replace("Sampled=1", "Sampled=0"), "traceparent": TRACEPARENT}

    assert trace_header_of(Message("id-1", "{}", headers=headers)) == headers["X-Amzn-Trace-Id"]


def test_a_message_of_aws_itself_brings_its_trace():
    assert received({}, {"AWSTraceHeader": TRACE_HEADER}).headers == {"traceparent": TRACEPARENT}


def test_the_context_of_the_sender_wins():
    own = TRACEPARENT.replace("53995c3f42cd8ad8", "aaaaaaaaaaaaaaaa")
    attributes = {"traceparent": {"DataType": "String", "StringValue": own}}

    assert received(attributes, {"AWSTraceHeader": TRACE_HEADER}).headers == {"traceparent": own}


@pytest.mark.parametrize(
    ("trace_header", "traceparent"),
    [
        (TRACE_HEADER, TRACEPARENT),
        (TRACE_HEADER.replace("Sampled=1", "Sampled=0"), TRACEPARENT[:-2] + "00"),
        (f"Self=1-2;{TRACE_HEADER}; Lineage=7:abc:0", TRACEPARENT),
        ("Root=1-5759e988-bd862e3fe1be46a994272793", None),
        ("Root=1-5759e988-bd862e3fe1be46a9942727", None),
        ("Parent=53995c3f42cd8ad8;Sampled=1", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_header_of_x_ray_is_read(trace_header, traceparent):
    assert traceparent_of(trace_header) == traceparent
