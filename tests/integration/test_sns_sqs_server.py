"""The local SNS+SQS server that the driver is tested against, whichever of them was chosen."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest


def test_server_answers_boto3(sns_sqs_server: str) -> None:
    queue_url = boto3.client("sqs", endpoint_url=sns_sqs_server).create_queue(QueueName="services")[
        "QueueUrl"
    ]

    found = boto3.client("sqs", endpoint_url=sns_sqs_server).get_queue_url(QueueName="services")["QueueUrl"]

    assert found == queue_url


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists its sockets there")
def test_server_listens_on_loopback_only(sns_sqs_server: str) -> None:
    port = urlsplit(sns_sqs_server).port

    addresses = listening_addresses(port)

    assert addresses == {"127.0.0.1"}


def listening_addresses(port: int | None) -> set[str]:
    listening = "0A"
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, local_port = local.split(":")
            if state == listening and int(local_port, 16) == port:
                family = socket.AF_INET if len(address) == 8 else socket.AF_INET6
                raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                addresses.add(socket.inet_ntop(family, raw))
    return addresses
