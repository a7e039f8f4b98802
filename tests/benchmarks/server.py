"""``melange server`` beside MiniStack and LocalStack: ``python -m benchmarks.server``, from the directory ``tests``.

All servers run in turn in one run of this program, so that only ratios matter. Clients are boto3, in processes of their
own. ``--localstack`` takes LocalStack too, which is large to install.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

REPETITIONS = 3
CLIENTS = 2
CALLS = 150
"""Batches of ten that each client sends, receives and deletes."""
POLLS = 20
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
    wakes: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPETITIONS):
        for name in names:
            with importlib.import_module(f"services.{name}").run() as url:
                before = cpu_seconds(url)
                rates[name].append(messages_per_second(url))
                costs[name].append((cpu_seconds(url) - before) / (CLIENTS * CALLS * 10))
                wakes[name] += wake_milliseconds(url)
    ours, our_cost = statistics.median(rates["melange_server"]), statistics.median(costs["melange_server"])
    print(
        "| server | messages a second, ours as a multiple | its CPU time a message, as a multiple of ours | a long poll wakes after, median |"
    )
    print("|---|---|---|---|")
    for name in names:
        rate, wake = statistics.median(rates[name]), statistics.median(wakes[name])
        cost = statistics.median(costs[name]) / our_cost
        print(f"| {name} | {ours / rate:.1f} | {cost:.1f} | {wake:.1f} ms |")
    print(f"\nstart: {start_seconds():.2f} s")
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


def messages_per_second(url: str) -> float:
    """Return the messages that all clients together send, receive and delete in a second."""
    command = [sys.executable, "-m", "benchmarks.server_client", url]
    clients = [
        subprocess.Popen(
            [*command, str(number), str(CALLS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for number in range(CLIENTS)
    ]
    for one in clients:
        assert one.stdout is not None
        one.stdout.readline()  # it is ready
    began_at = time.perf_counter()
    for one in clients:
        one.communicate(b"go\n")
        assert one.returncode == 0
    return CLIENTS * CALLS * 10 / (time.perf_counter() - began_at)


def cpu_seconds(url: str) -> float:
    """Return the CPU time that the server has used so far."""
    ticks = (_process_of(urlsplit(url).port or 0) / "stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _process_of(port: int) -> Path:
    """Return the directory in /proc of the process that listens on a port."""
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
                    return process
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
    megabytes = _resident_megabytes(address.port or 0)
    for connection in connections:
        connection.close()
    return megabytes


def _resident_megabytes(port: int) -> float:
    pages = int((_process_of(port) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_000_000


def cost_of_depth(url: str, deep: int) -> float:
    """Return the time to receive and delete in a queue with very many messages, over that in a short one."""
    sqs = client(url)
    shallow_queue, deep_queue = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("shallow", "deep"))
    with ThreadPoolExecutor(4) as pool:
        batches = range(deep // 10)
        for _ in pool.map(lambda _: _send_ten(sqs, deep_queue), batches):
            pass

    def cost(queue: str) -> float:
        took = []
        for _ in range(100):
            _send_ten(sqs, queue)
            began_at = time.perf_counter()
            messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
            entries = [
                {"Id": f"{n}", "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)
            ]
            sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
            took.append(time.perf_counter() - began_at)
        return statistics.median(took)

    return cost(deep_queue) / cost(shallow_queue)


def _send_ten(sqs: Any, queue: str) -> None:
    sqs.send_message_batch(QueueUrl=queue, Entries=[{"Id": f"{n}", "MessageBody": "deep"} for n in range(10)])


if __name__ == "__main__":
    main()
