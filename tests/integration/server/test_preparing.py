"""``melange server`` makes what a topology and a program say before it is ready."""

import json
import subprocess
import sys

import boto3
import pytest

from melange import DriverManager, ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.aws import AwsDriver
from melange.topology import collect, to_document


@pytest.fixture
def start(tmp_path):
    """Start the server with these options; return its address, or its exit code and what it said."""
    processes = []

    def run(*options: str) -> str:
        command = [sys.executable, "-m", "melange.cli", "server", "--port", "0", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            return line.split()[-1]
        _, said = process.communicate(timeout=60)
        return f"{process.returncode}: {said}"

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def client(url: str):
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_a_topology_is_there_when_the_server_is_ready(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(DriverManager, "_instance", None)

    def program() -> None:
        driver = AwsDriver(region_name="us-east-1")
        ExchangeMessageConsumer("stock", "orders", driver=driver).listener("OrderPlaced", name="reserve")(
            print
        )
        ExchangeMessagePublisher("orders", driver)

    document = to_document(collect("shop", program).topology)
    (tmp_path / "shop.json").write_text(json.dumps(document))

    url = start("--topology", "shop.json")

    sqs = client(url)
    names = {queue_url.rpartition("/")[2] for queue_url in sqs.list_queues()["QueueUrls"]}
    sqs.close()
    assert names == {"stock", "stock-dlq"}


def test_a_program_is_run_before_the_server_is_ready(start, tmp_path) -> None:
    (tmp_path / "prepare.py").write_text(
        "import boto3\nboto3.client('sqs').create_queue(QueueName='prepared')\n"
    )

    sqs = client(start("--init", "prepare.py"))

    assert sqs.get_queue_url(QueueName="prepared")
    sqs.close()


def test_a_program_that_fails_ends_the_server(start, tmp_path) -> None:
    (tmp_path / "prepare.py").write_text("raise SystemExit(3)\n")

    assert start("--init", "prepare.py") == "1: Error: prepare.py ended with exit code 3\n"


@pytest.mark.parametrize("text", ["{", "[]", '{"melange_topology": 99}'])
def test_a_file_that_is_not_a_topology_is_refused(start, tmp_path, text) -> None:
    (tmp_path / "shop.json").write_text(text)

    said = start("--topology", "shop.json")

    assert said.startswith("2: Error: ")
