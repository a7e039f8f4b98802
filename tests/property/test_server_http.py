"""The server's parser of HTTP: whatever bytes come, in whatever pieces, it reads a request or refuses it."""

from __future__ import annotations

import socket

from hypothesis import example, given
from hypothesis import strategies as st

from melange.server.http import BadRequestError, Request, RequestReader, parse_head

WHOLE = b"POST /a?b=c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"
PIECES = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"/ ",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b": ",
        b":",
        b" ",
        b"\t",
        b"\0",
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"chunked",
        b"5",
        b"-1",
        b"1e3",
        b"0",
        b"\xff",
        b"x" * 300,
    ]
)


def read_all(data: bytes, pieces: list[int]) -> list[Request]:
    """Return the requests that the reader finds before it refuses one or the connection ends."""
    server, client = socket.socketpair()
    with server, client:
        start = 0
        for length in pieces:
            client.sendall(data[start : start + length])
            start += length
        client.sendall(data[start:])
        client.shutdown(socket.SHUT_WR)
        reader, found = RequestReader(server), []
        while (request := reader.read()) is not None:
            found.append(request)
        return found


@given(st.lists(st.integers(0, 40), max_size=10))
def test_a_request_is_read_whole_however_it_is_cut(pieces):
    [one, two] = read_all(WHOLE + CHUNKED, pieces)

    assert (one.method, one.target, one.body) == ("POST", "/a?b=c", b"hello")
    assert two.body == b"abcde"


@given(st.lists(PIECES, max_size=30).map(b"".join) | st.binary(max_size=300))
@example(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na")
def test_anything_is_read_or_refused(data):
    try:
        found = read_all(data, [])
    except BadRequestError:
        return
    for request in found:
        assert not {"content-length", "transfer-encoding"} <= request.headers.keys()


@given(st.binary(max_size=200))
def test_a_head_never_has_a_line_end_inside_a_value(data):
    try:
        request = parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + data)
    except BadRequestError:
        return
    assert not any(set("\r\n\0") & set(value) for value in request.headers.values())
