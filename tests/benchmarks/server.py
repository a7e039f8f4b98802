"""``melange server`` beside MiniStack and LocalStack: ``python -m benchmarks.server``, from the directory ``tests``.

All servers run in turn in one run of this program, so that only ratios matter. Clients are boto3, in processes of their
own. ``--localstack`` takes LocalStack too, which is large to install.
"""

from __future__ import annotations

import argparse
import importlib
import json
import operator
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks.child import cpu_seconds, resident_bytes, spawned

REPETITIONS = 3
CLIENTS = 2
CALLS = 150
"""Batches of ten that each client sends, receives and deletes."""
POLLS = 20
BODY = '{"order": 12345, "lines": [{"sku": "umbrella", "count": 2}], "note": "' + "x" * 400 + '"}'
WAITING = 1_000
SHALLOW = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--localstack", action="store_true")
    parser.add_argument("--deep", type=int, default=1_000_000, help="messages in the deep queue")
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    names = ["melange_server"]
    if not arguments.only_ours:
        names += ["ministack", *(["localstack"] if arguments.localstack else [])]
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    totals: dict[str, list[float]] = {name: [] for name in names}
    wakes: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPETITIONS):
        for name in names:
            with importlib.import_module(f"services.{name}").run() as url:
                work = work_of_clients(url)
                rates[name].append(1 / work.wall_seconds)
                costs[name].append(work.server_seconds)
                totals[name].append(work.server_seconds + work.client_seconds)
                wakes[name] += wake_milliseconds(url)
    print(
        "| server | messages a second, ours as a multiple | its CPU time a message, as a multiple of ours | "
        "that of server and clients together | a long poll wakes after, median |"
    )
    print("|---|---|---|---|---|")
    for name in names:
        rate, cost, total = (over(kind[name], kind["melange_server"]) for kind in (rates, costs, totals))
        print(
            f"| {name} | {1 / rate:.1f} | {cost:.1f} | {total:.1f} | {statistics.median(wakes[name]):.1f} ms |"
        )
    ours = statistics.median(costs["melange_server"])
    print(f"\nours: {1_000_000 * ours:.0f} µs of CPU time a message")
    print(f"start: {start_seconds():.2f} s")
    with importlib.import_module("services.melange_server").run(None, "--max-memory", "8g") as url:
        print(f"{WAITING:,} waiting long polls: {memory_of_waiting(url):.0f} MB in all")
        print(
            f"a message among {arguments.deep:,} costs {cost_of_depth(url, arguments.deep):.2f} of one among {SHALLOW}"
        )


def client(url: str) -> Any:
    config = Config(retries={"max_attempts": 0}, read_timeout=60, max_pool_connections=50)
    return boto3.client(
        "sqs",
        endpoint_url=url,
        config=config,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


class Work(NamedTuple):
    """What one message takes that is sent, received and deleted."""

    wall_seconds: float
    server_seconds: float
    client_seconds: float


def work_of_clients(url: str) -> Work:
    """Return what a message takes while all clients send, receive and delete; the start of the clients is left out."""
    with ExitStack() as stack:
        clients = [stack.enter_context(spawned(work_as_client, url, number)) for number in range(CLIENTS)]
        for one in clients:
            one.recv()  # it is ready
        server = _process_of(urlsplit(url).port or 0)
        before = cpu_seconds(server)
        began_at = time.perf_counter()
        for one in clients:
            one.send("go")
        of_clients = sum(one.recv() for one in clients)
        took = time.perf_counter() - began_at
    messages = CLIENTS * CALLS * 10
    return Work(took / messages, (cpu_seconds(server) - before) / messages, of_clients / messages)


def work_as_client(connection: Connection, url: str, number: int) -> None:
    """Send, receive and delete in a queue of its own once it is told; answer with the CPU time."""
    sqs = client(url)
    queue = sqs.create_queue(QueueName=f"client-{number}")["QueueUrl"]
    connection.send("ready")
    connection.recv()
    before = time.process_time()
    for _ in range(CALLS):
        _send_ten(sqs, queue, BODY)
        left = 10
        while left:
            left -= _receive_and_delete(sqs, queue)
    connection.send(time.process_time() - before)


def over(theirs: list[float], ours: list[float]) -> float:
    """Return the ratio of two contestants, the median of neighbouring turns."""
    ratios: list[float] = list(map(operator.truediv, theirs, ours))
    return statistics.median(ratios)


def _process_of(port: int) -> int:
    """Return the id of the process that listens on a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = "0A"
    inodes = {
        line.split()[9]
        for line in lines
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == listening
    }
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    return int(process.name)
    raise SystemExit(f"no process listens on port {port}")


def wake_milliseconds(url: str) -> list[float]:
    """Return how long after a send a waiting receive has its message."""
    sqs = client(url)
    queue = sqs.create_queue(QueueName=f"wakes-{time.time_ns()}")["QueueUrl"]
    found = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(POLLS):
            receiving = pool.submit(
                lambda: (sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10), time.perf_counter())
            )
            threading.Event().wait(0.1)
            sent_at = time.perf_counter()
            sqs.send_message(QueueUrl=queue, MessageBody="wake")
            answer, received_at = receiving.result()
            found.append(1_000 * (received_at - sent_at))
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=answer["Messages"][0]["ReceiptHandle"])
    return found


def start_seconds() -> float:
    """Return the median time from the start of the process until it prints its address."""

    def start() -> float:
        began_at = time.perf_counter()
        command = [sys.executable, "-m", "melange.cli", "server", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            took = time.perf_counter() - began_at
            process.terminate()
        return took

    return statistics.median(start() for _ in range(5))


def memory_of_waiting(url: str) -> float:
    """Return the server's memory in MB while a thousand receives wait."""
    queue = client(url).create_queue(QueueName="waiting")["QueueUrl"]
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": 20}).encode()
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: {len(body)}\r\n\r\n"
    address = urlsplit(url)
    connections = []
    for _ in range(WAITING):
        connection = socket.create_connection((address.hostname or "", address.port or 0))
        connection.sendall(head.encode() + body)
        connections.append(connection)
    threading.Event().wait(3)
    megabytes = resident_bytes(_process_of(address.port or 0)) / 1_000_000
    for connection in connections:
        connection.close()
    return megabytes


def cost_of_depth(url: str, deep: int) -> float:
    """Return the time to receive and delete in a queue with very many messages, over that in a short one."""
    sqs = client(url)
    shallow_queue, deep_queue = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("shallow", "deep"))
    _fill(url, deep_queue, deep)

    def cost(queue: str) -> float:
        took = []
        for _ in range(100):
            _send_ten(sqs, queue, "deep")
            began_at = time.perf_counter()
            _receive_and_delete(sqs, queue)
            took.append(time.perf_counter() - began_at)
        return statistics.median(took)

    return cost(deep_queue) / cost(shallow_queue)


def _fill(url: str, queue: str, messages: int) -> None:
    """Send many messages over one connection: boto3 would need longer for them than the server."""
    entries = [{"Id": f"{n}", "MessageBody": "deep"} for n in range(10)]
    body = json.dumps({"QueueUrl": queue, "Entries": entries}).encode()
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.SendMessageBatch\r\nContent-Length: {len(body)}\r\n\r\n"
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        answers = connection.makefile("rb")
        for _ in range(messages // 10):
            connection.sendall(head.encode() + body)
            length = 0
            while (line := answers.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answers.read(length)


def _send_ten(sqs: Any, queue: str, body: str) -> None:
    sqs.send_message_batch(QueueUrl=queue, Entries=[{"Id": f"{n}", "MessageBody": body} for n in range(10)])


def _receive_and_delete(sqs: Any, queue: str) -> int:
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
    entries = [{"Id": f"{n}", "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
    sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
    return len(messages)


if __name__ == "__main__":
    main()
