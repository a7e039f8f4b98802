"""The command ``melange server``: it says where it listens, and ends when it is asked to."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import boto3
import pytest

COMMAND = [sys.executable, "-m", "melange.cli", "server", "--port", "0", "--log-level", "warning"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_prints_its_address_and_ends_on_a_signal(number):
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        sqs = boto3.client("sqs", endpoint_url=url)
        queue_url = sqs.create_queue(QueueName="orders")["QueueUrl"]

        process.send_signal(number)
        _, errors = process.communicate(timeout=30)

    assert queue_url.startswith(url)
    assert process.returncode == 0
    assert errors == ""


def test_an_address_that_is_taken_is_an_error_that_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        done = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, timeout=30, check=False
        )

    assert done.returncode == 1
    assert "choose another with --port" in done.stderr


def test_with_keys_only_their_signatures_are_accepted(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# team shop\nAKIAIOSFODNN7EXAMPLE secret 111111111111\n")
    with subprocess.Popen(
        [*COMMAND, "--verify-signatures", keys], stdout=subprocess.PIPE, text=True
    ) as process:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        options = {"endpoint_url": url, "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"}

        identity = boto3.client("sts", aws_secret_access_key="secret", **options).get_caller_identity()
        wrong = boto3.client("sts", aws_secret_access_key="wrong", **options)
        with pytest.raises(wrong.exceptions.ClientError, match="SignatureDoesNotMatch"):
            wrong.get_caller_identity()
        process.terminate()

    assert identity["Account"] == "111111111111"


def test_a_key_file_with_an_unreadable_line_is_an_error_that_names_it(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("only-an-id\n")

    done = subprocess.run(
        [*COMMAND, "--verify-signatures", keys], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 2
    assert "line 1" in done.stderr


def test_the_command_of_the_container_answers_other_containers():
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    [command] = re.findall(r"^CMD (\[.*\])$", page, re.MULTILINE)
    program, *options = json.loads(command)
    assert program == "melange"

    with subprocess.Popen(
        [sys.executable, "-m", "melange.cli", *options, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        port = re.search(r"http://0\.0\.0\.0:(\d+)", process.stdout.readline())[1]
        connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("GET", "/_melange/state", headers={"Host": "melange:4566"})
        status = connection.getresponse().status
        connection.close()
        process.send_signal(signal.SIGTERM)

    assert status == 200
    assert process.returncode == 0
