"""A broken way to the broker: some requests or answers get lost, come twice, late, or as an error."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from services.servers import ServerError, free_port

DROP_REQUEST = "request dropped"
DROP_ANSWER = "answer dropped"
DUPLICATE = "duplicated"
THROTTLE = "throttled"
SERVER_ERROR = "500"
STALL = "stalled"

START_SECONDS = 10
LARGEST_HEAD_BYTES = 65_536
LONGEST_STALL_SECONDS = 1.5

_THROTTLED_JSON = (
    b'{"__type":"com.amazonaws.sqs#RequestThrottled","message":"Rate exceeded"}',
    b"application/x-amz-json-1.0\r\nx-amzn-query-error: RequestThrottled;Sender",
)
_THROTTLED_XML = (
    b"<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code></Error></ErrorResponse>",
    b"text/xml",
)


class Proxy:
    """Forwards HTTP requests to a loopback port; ``rates`` says how likely each fault is, by ``seed``.

    ``happened`` counts the requests by what was done to them. Not for chunked bodies.
    """

    def __init__(self, upstream_port: int, rates: Mapping[str, float], seed: int) -> None:
        self.port = free_port()
        self.happened: Counter[str] = Counter()
        self._upstream_port = upstream_port
        self._rates = rates
        self._random = random.Random(seed)

    def disturb(self, rates: Mapping[str, float]) -> None:
        """Disturb requests at these rates from now on."""
        self._rates = rates

    async def serve(self, started: threading.Event) -> None:
        """Forward until ``stop()``; connections that are still open end then."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(
            self._serve_client, "127.0.0.1", self.port, limit=LARGEST_HEAD_BYTES
        )
        started.set()
        await self._stopping.wait()
        server.close()

    def stop(self) -> None:
        """End ``serve()``; from any thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve_client(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            # A connection that ends early, on either side, ends the other one too.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while (answer := await self._answer(await _read_message(client), *upstream)) is not None:
                    answers.write(answer)
                    await answers.drain()
        finally:
            upstream[1].close()
            answers.close()

    async def _answer(
        self, request: bytes, upstream: asyncio.StreamReader, requests: asyncio.StreamWriter
    ) -> bytes | None:
        """Return what the client gets to see; None is a connection that breaks."""
        fault = self._next_fault()
        self.happened[fault or "passed"] += 1
        if fault == DROP_REQUEST:
            return None
        if fault == THROTTLE:
            is_json = b"application/x-amz-json" in request
            return _response(b"400 Bad Request", *(_THROTTLED_JSON if is_json else _THROTTLED_XML))
        if fault == SERVER_ERROR:
            return _response(b"500 Internal Server Error", b"", b"text/plain")
        if fault == STALL:
            await asyncio.sleep(self._random.uniform(0, LONGEST_STALL_SECONDS))
        requests.write(request)
        answer = await _read_message(upstream)
        if fault == DUPLICATE:
            requests.write(request)
            await _read_message(upstream)
        return None if fault == DROP_ANSWER else answer

    def _next_fault(self) -> str | None:
        chance = self._random.random()
        for fault, rate in self._rates.items():
            if chance < rate:
                return fault
            chance -= rate
        return None


@contextmanager
def disturbing(upstream_port: int, rates: Mapping[str, float], seed: int) -> Iterator[Proxy]:
    """Disturb the way to a server on this machine."""
    proxy = Proxy(upstream_port, rates, seed)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)), daemon=True)
    thread.start()
    if not started.wait(START_SECONDS):
        raise ServerError("the proxy did not start")
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP request or answer with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _response(status: bytes, body: bytes, content_type: bytes) -> bytes:
    length = str(len(body)).encode()
    return (
        b"HTTP/1.1 "
        + status
        + b"\r\nContent-Type: "
        + content_type
        + b"\r\nContent-Length: "
        + length
        + b"\r\n\r\n"
        + body
    )
