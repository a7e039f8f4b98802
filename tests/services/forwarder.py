"""A way to a server that has TLS, or loses answers, where the server itself can't be told to."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.servers import free_port

CHUNK_BYTES = 65_536
START_SECONDS = 10


class Forwarder:
    """Forwards connections from ``port`` to another loopback port."""

    def __init__(self, upstream_port: int, tls: ssl.SSLContext | None) -> None:
        self.port = free_port()
        self._upstream_port = upstream_port
        self._tls = tls
        self._losing = threading.Event()

    def lose_next_answer(self) -> None:
        """Close the next connection that is answered, instead of passing the answer on."""
        self._losing.set()

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Forward until told to stop."""
        async with await asyncio.start_server(self._forward, "127.0.0.1", self.port, ssl=self._tls):
            started.set()
            await stop.wait()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._copy(reader, upstream_writer),
                self._copy(upstream_reader, writer, answers=True),
            )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if answers and self._losing.is_set():
                    self._losing.clear()
                    return
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def forwarding(upstream_port: int, tls: ssl.SSLContext | None = None) -> Iterator[Forwarder]:
    """Forward to a server on this machine, with TLS towards the client when there is a context for it."""
    forwarder = Forwarder(upstream_port, tls)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(forwarder.serve(started, stop)), daemon=True
    )
    thread.start()
    try:
        if not started.wait(START_SECONDS):
            raise RuntimeError("the forwarder did not start")
        yield forwarder
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_SECONDS)
        _close(loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    # Connections that are still open end with their loop.
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
