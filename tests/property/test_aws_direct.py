"""The direct path beside botocore: the same signatures, the same parameters, the same answers."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote_plus
from xml.sax.saxutils import escape

import pytest
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import IncompleteReadError
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import example, given
from hypothesis import strategies as st

from aws_answers import shared_session
from melange.drivers.aws.direct.http import ClosedBeforeAnswer, HttpAnswer, read_answer
from melange.drivers.aws.direct.requests import DIRECT_REQUESTS, quote_form
from melange.drivers.aws.direct.signing import RequestSigner
from melange.drivers.aws.operations import UnreadableAnswer
from melange.drivers.aws.wire import publish_entry, send_entry
from melange.drivers.sqs_rules import can_travel
from melange.messages import Message

VISIBLE = st.from_regex(r"[!-~]{1,40}", fullmatch=True)
ENDPOINTS = st.sampled_from(
    [
        "https://sqs.eu-west-1.amazonaws.com",
        "http://localhost:4566",
        "https://[::1]:8443",
        "http://Example.ORG:80",
        "https://example.org:443",
    ]
)
PATHS = st.sampled_from(["/", "/base/", "/a b/é/", "/a//b/../c/", "/~x/%20/"])
HEADERS = st.dictionaries(
    st.from_regex(r"x-[a-z]{1,10}", fullmatch=True),
    st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True),
    max_size=4,
)
TEXT = st.text(max_size=60).filter(lambda text: not text or can_travel(text))
JSON_TEXT = st.dictionaries(TEXT, st.integers() | TEXT | st.lists(TEXT), max_size=4).map(json.dumps)
IDS = st.from_regex(r"[!-~]{1,40}", fullmatch=True)
MESSAGES = st.builds(
    Message,
    message_id=IDS,
    body=JSON_TEXT | TEXT,
    event_type_name=st.none() | TEXT.filter(bool),
    headers=st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True), TEXT, max_size=12),
    published_at=st.none() | st.datetimes(),
    content_type=st.sampled_from(["application/json", "text/plain"]),
    message_group_id=st.none() | IDS,
    message_deduplication_id=st.none() | IDS,
)


@given(
    url=st.builds(str.__add__, ENDPOINTS, PATHS),
    headers=HEADERS,
    body=st.binary(max_size=200),
    credentials=st.builds(ReadOnlyCredentials, VISIBLE, VISIBLE, st.none() | VISIBLE),
    moment=st.integers(631_152_000, 4_102_444_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    region=st.sampled_from(["eu-west-1", "us-gov-west-1"]),
)
def test_a_request_is_signed_as_botocore_signs_it(url, headers, body, credentials, moment, region):
    request = AWSRequest("POST", url, headers, body)
    request.context["timestamp"] = moment.strftime(SIGV4_TIMESTAMP)
    botocores = SigV4Auth(credentials, "sqs", region)
    botocores._modify_request_before_signing(request)
    to_sign = botocores.string_to_sign(request, botocores.canonical_request(request))
    botocores._inject_signature_to_request(request, botocores.signature(to_sign, request))

    signer = RequestSigner(url, target="/", service="sqs", region=region, headers=headers, unsigned={})
    head = signer.head(body, credentials, moment.timestamp()).decode()

    assert f"Authorization: {request.headers['Authorization']}\r\n" in head
    assert f"Content-Length: {len(body)}\r\n\r\n" in head


def test_each_second_and_each_credential_has_a_signature_of_its_own():
    signer = RequestSigner(
        "http://localhost/", target="/", service="sqs", region="r", headers={}, unsigned={}
    )
    first, second = ReadOnlyCredentials("a", "b", None), ReadOnlyCredentials("a", "b", "token")

    heads = [
        signer.head(b"", credentials, now)
        for credentials, now in [(first, 0), (first, 1), (second, 1), (first, 0)]
    ]

    assert len(set(heads)) == 3
    assert heads[0] == heads[3]
    assert b"x-amz-security-token: token\r\n" in heads[2]


@given(TEXT)
@example("\t\r\n %41+/\x7f~")
@example('{"a": "100 %", "b": [1, -2]}')
def test_a_form_is_quoted_as_python_quotes_it(text):
    assert quote_form(text) == quote_plus(text).encode()


def _operation(service: str, name: str):
    return shared_session().client(service).meta.service_model.operation_model(name)


@given(st.lists(MESSAGES, min_size=1, max_size=3))
def test_a_publish_has_the_parameters_that_botocore_would_send(messages):
    entries = [{"Id": str(number), **publish_entry(message)} for number, message in enumerate(messages)]
    parameters = {"TopicArn": "arn:aws:sns:eu-west-1:1:t", "PublishBatchRequestEntries": entries}
    serialized = create_serializer("query", include_validation=False).serialize_to_request(
        parameters, _operation("sns", "PublishBatch")
    )

    body = DIRECT_REQUESTS["publish_batch"].write(parameters).decode()

    assert dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True)) == serialized["body"]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("receive_message", {"QueueUrl": "u", "MaxNumberOfMessages": 3, "MessageAttributeNames": ("All",)}),
        ("delete_message_batch", {"QueueUrl": "u", "Entries": [{"Id": "0", "ReceiptHandle": "h"}]}),
        (
            "change_message_visibility_batch",
            {"QueueUrl": "u", "Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 7}]},
        ),
        (
            "send_message_batch",
            {"QueueUrl": "u", "Entries": [{"Id": "0", **send_entry(Message("é", "{}"), 3)}]},
        ),
    ],
)
def test_a_call_of_sqs_is_what_botocore_would_send(method, parameters):
    request = DIRECT_REQUESTS[method]
    serialized = create_serializer("json", include_validation=False).serialize_to_request(
        parameters, _operation("sqs", request.operation)
    )

    assert json.loads(request.write(parameters)) == json.loads(serialized["body"])
    ours = {name.lower(): value for name, value in request.headers.items()}
    theirs = {name.lower(): value for name, value in serialized["headers"].items()}
    assert ours == {"x-amzn-query-mode": "true"} | theirs  # which botocore 1.35 does not send yet


def _read_by_botocore(protocol: str, service: str, operation: str, body: bytes):
    response = {"status_code": 200, "headers": HeadersDict({}), "body": body, "context": {}}
    return create_parser(protocol).parse(response, _operation(service, operation).output_shape)


@given(
    st.lists(st.tuples(IDS, st.none() | TEXT.filter(str.isprintable), st.booleans()), max_size=3),
    st.sampled_from(["", "\n  "]),
    st.sampled_from(["", '<?xml version="1.0"?><!-- note -->']),
    st.sampled_from(
        ["", "<New><Id>1</Id></New>", "<!-- <Id>2</Id> -->", "<SequenceNumber>7</SequenceNumber>"]
    ),
)
def test_an_answer_of_sns_is_read_as_botocore_reads_it(members, space, start, more):
    def member(message_id: str, error: str | None, is_senders: bool) -> str:
        said = f"<MessageId>m</MessageId>{more}"
        if error is not None:
            said = f"<Code>X</Code><Message>{escape(error)}</Message><SenderFault>{str(is_senders).lower()}</SenderFault>"
        return f"{space}<member>{space}{said}<Id>{escape(message_id)}</Id>{space}</member>"

    listed = {
        outcome: "".join(member(*one) for one in members if (one[1] is None) == (outcome == "Successful"))
        for outcome in ("Failed", "Successful")
    }
    body = (
        f'{start}<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">{space}<PublishBatchResult>'
        f"<Failed>{listed['Failed']}</Failed><Successful>{listed['Successful']}</Successful>{space}"
        f"</PublishBatchResult>{space}<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></PublishBatchResponse>\n"
    ).encode()

    answer = DIRECT_REQUESTS["publish_batch"].read(body)

    expected = _read_by_botocore("query", "sns", "PublishBatch", body)
    assert answer.get("Failed", []) == expected["Failed"]
    assert [entry["Id"] for entry in answer["Successful"]] == [
        entry["Id"] for entry in expected["Successful"]
    ]


@given(st.dictionaries(IDS, st.binary(max_size=10), min_size=1, max_size=3))
def test_binary_attributes_are_read_as_botocore_reads_them(values):
    attributes = {
        name: {"DataType": "Binary", "BinaryValue": b64encode(value).decode()}
        for name, value in values.items()
    }
    body = json.dumps({"Messages": [{"Body": "{}", "MessageAttributes": attributes}]}).encode()

    answer = DIRECT_REQUESTS["receive_message"].read(body)

    assert answer["Messages"] == _read_by_botocore("json", "sqs", "ReceiveMessage", body)["Messages"]


def pieces_of(data: bytes, sizes: list[int]):
    """Return a function that gives the data in pieces, then nothing."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    pieces = [piece for piece in [*pieces, data] if piece]
    return lambda: pieces.pop(0) if pieces else b""


SIZES = st.lists(st.integers(1, 40), max_size=12)
BODIES = st.binary(max_size=300)
HEADER_LINES = st.lists(
    st.sampled_from(
        [
            b"X-A: b",
            b"x-folded: one\r\n two\r\n\tthree",
            b"X-Empty:",
            b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
            b"X-A: c",
        ]
    ),
    max_size=4,
)


@given(BODIES, SIZES, HEADER_LINES, st.sampled_from(["length", "chunked", "close"]), st.booleans(), st.data())
def test_an_answer_is_read_in_any_pieces_and_any_framing(body, sizes, lines, framing, has_interim, data):
    framed, end = body, []
    if framing == "length":
        end = [b"Content-Length: %d" % len(body)]
    elif framing == "chunked":
        end = [b"Transfer-Encoding: Chunked"]
        framed, rest = b"", body
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            framed += b"%x;name=value\r\n%b\r\n" % (size, rest[:size])
            rest = rest[size:]
        framed += b"000\r\nX-Trailer: t\r\n\r\n"
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" if has_interim else b""
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, *end])

    answer = read_answer(pieces_of(interim + head + b"\r\n\r\n" + framed, sizes))

    assert (answer.status, answer.body) == (200, body)
    assert answer.keeps_connection == (framing != "close")
    if any(line.startswith(b"x-folded") for line in lines):
        assert answer.headers["x-folded"].startswith("one two three")


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", False),  # beside a length: suspicious
        (b"HTTP/1.1 200", True),
    ],
)
def test_a_connection_is_kept_only_where_the_answer_allows_it(head, keeps):
    body = b"0\r\n\r\n" if b"chunked" in head else b""

    answer = read_answer(pieces_of(head + b"\r\nContent-Length: 0\r\n\r\n" + body, []))

    assert answer.keeps_connection is keeps


def test_bytes_after_an_answer_end_the_connection():
    answer = read_answer(pieces_of(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK", []))

    assert (answer.body, answer.keeps_connection) == (b"{}", False)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 TLS",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: ٣\r\n\r\n".encode(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}}}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7FFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(data):
    with pytest.raises((UnreadableAnswer, IncompleteReadError)):
        read_answer(pieces_of(data, []))


@given(st.data())
def test_half_an_answer_is_never_taken_for_a_whole_one(data):
    whole = data.draw(
        st.sampled_from(
            [
                b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"answer":1}',
                b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nC\r\n{"answer":1}\r\n0\r\n\r\n',
            ]
        )
    )
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises((IncompleteReadError, ClosedBeforeAnswer)):
        read_answer(pieces_of(whole[:cut], data.draw(SIZES)))


@given(st.binary(max_size=200), st.integers(0, 90), st.integers(0, 20), SIZES)
def test_garbled_bytes_are_read_or_refused_and_nothing_else(noise, start, length, sizes):
    sound = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\nC\r\n{"answer":1}\r\n0\r\n\r\n'
    garbled = sound[:start] + noise + sound[start + length :]

    try:
        answer = read_answer(pieces_of(garbled, sizes))
    except (UnreadableAnswer, IncompleteReadError, ClosedBeforeAnswer):
        return

    assert isinstance(answer, HttpAnswer)


@given(
    st.binary(max_size=60) | st.sampled_from([b"[]", b"{", b"[" * 100_000, b"<a/>", b"<a>&b;</a>", b"\xff"])
)
@pytest.mark.parametrize("method", DIRECT_REQUESTS)
def test_a_body_of_any_kind_is_an_answer_or_unreadable(method, body):
    try:
        answer = DIRECT_REQUESTS[method].read(body)
    except UnreadableAnswer:
        return

    assert isinstance(answer, dict)


def test_entities_that_multiply_do_not_fill_the_memory():
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    body = f'<!DOCTYPE x [<!ENTITY e0 "{"x" * 1000}">{levels}]><x>&e11;</x>'.encode()

    with pytest.raises(UnreadableAnswer):
        DIRECT_REQUESTS["publish_batch"].read(body)
