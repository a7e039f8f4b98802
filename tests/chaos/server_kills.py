"""A server of melange with ``--data`` is killed again and again: what it has answered must be there afterwards.

``python -m chaos.server_kills --kills 50`` prints the result, and ends with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import boto3

from services.servers import answers_http, free_port
from waiting import eventually

QUEUE_NAME = "orders"

CLIENT = f"""
import sys
import boto3

url, number = sys.argv[1], int(sys.argv[2])
sqs = boto3.client("sqs", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t")
queue_url = sqs.create_queue(QueueName="{QUEUE_NAME}")["QueueUrl"]
while True:
    entries = [{{"Id": str(offset), "MessageBody": str(number + offset)}} for offset in range(5)]
    for entry in sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)["Successful"]:
        print("sent", number + int(entry["Id"]), flush=True)
    number += 5
    for message in sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=3).get("Messages", []):
        print("received", message["Body"], flush=True)  # before the delete, which may have no answer
        sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
"""


@dataclass(frozen=True)
class Result:
    """What became of the messages. ``lost`` were answered, and neither received nor left in the queue."""

    kills: int
    sent: int
    received: int
    left: int
    lost: list[int]


def kill_again_and_again(
    directory: Path, *, kills: int, seed: int, clients: int = 2, keeps_data: bool = True
) -> Result:
    """Let clients send and receive, and kill the server at random moments; count at the end.

    Without ``keeps_data`` the server has its memory alone, so that it must lose messages: the negative control.
    """
    data = directory / "data" if keeps_data else None
    chance = random.Random(seed)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sent: set[int] = set()
    received: set[int] = set()
    for life in range(kills):
        server = _start(port, data)
        outputs = [directory / f"client-{life}-{number}" for number in range(clients)]
        processes = []
        for number, output in enumerate(outputs):
            with output.open("w") as file:
                first = (life * clients + number) * 1_000_000
                command = [sys.executable, "-c", CLIENT, url, str(first)]
                processes.append(subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL))
        eventually(partial(_have_all_begun, outputs), timeout_seconds=60)
        time.sleep(chance.uniform(0, 0.5))
        server.kill()
        server.communicate()
        for process in processes:
            process.kill()
            process.communicate()
        for output in outputs:
            for line in output.read_text().splitlines():
                kind, _, body = line.partition(" ")
                (sent if kind == "sent" else received).add(int(body))
    left = _left_in_queue(port, url, data)
    return Result(kills, len(sent), len(received), len(left), sorted(sent - received - left))


def _have_all_begun(outputs: list[Path]) -> bool:
    return all(output.stat().st_size for output in outputs)


def _start(port: int, data: Path | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "melange.cli", "server", "--port", str(port)]
    command += [] if data is None else ["--data", str(data)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: answers_http(f"http://127.0.0.1:{port}/_melange/clock"), timeout_seconds=60)
    return server


def _left_in_queue(port: int, url: str, data: Path | None) -> set[int]:
    server = _start(port, data)
    try:
        sqs = boto3.client(
            "sqs", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t"
        )
        queue_url = sqs.create_queue(QueueName=QUEUE_NAME)["QueueUrl"]
        left: set[int] = set()
        sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"VisibilityTimeout": "600"})
        _advance(url)  # messages in flight are visible again
        while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
            left.update(int(message["Body"]) for message in messages)
        sqs.close()
        return left
    finally:
        server.kill()
        server.communicate()


def _advance(url: str) -> None:
    request = Request(
        f"{url}/_melange/clock/advance",
        b'{"seconds": 60}',
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urlopen(request, timeout=30):
        pass


def main() -> int:
    """Run, print the result, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = kill_again_and_again(Path(directory), kills=options.kills, seed=options.seed)
    sys.stdout.write(
        f"{result.kills} kills, seed {options.seed}: {result.sent:,} messages sent, {result.received:,} received, "
        f"{result.left:,} left, {len(result.lost)} lost\n"
    )
    return 1 if result.lost else 0


if __name__ == "__main__":
    sys.exit(main())
