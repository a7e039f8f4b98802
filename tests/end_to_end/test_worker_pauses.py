"""`melange worker` is paused by SIGUSR1 and resumed by SIGUSR2, in one process and in several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.aws import AwsDriver
from services.servers import free_port
from waiting import eventually

APPLICATION = """
import os
from pathlib import Path
from melange import DriverManager, ExchangeMessageConsumer, QueueOptions

DriverManager.instance().use_driver(driver_name="aws")
consumer = ExchangeMessageConsumer(os.environ["QUEUE"], os.environ["QUEUE"], queue=QueueOptions(wait_seconds=1))
consumer.listener("Work", name="work")(lambda event: Path("done").touch())
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_can_be_paused_from_outside(processes, sns_sqs_server, tmp_path) -> None:
    queue, port = f"pauses-{uuid4().hex}", free_port(second_above=processes)
    (tmp_path / "application.py").write_text(APPLICATION)
    arguments = ["application:consumer", "--processes", str(processes), "--health-port", f"127.0.0.1:{port}"]
    environment = {**os.environ, "QUEUE": queue, "AWS_ENDPOINT_URL": sns_sqs_server}

    def flows() -> set[str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                health: dict[str, Any] = json.load(answer)
        except OSError:
            return set()
        workers = health.get("processes", [health])
        return {
            worker["queues"][0]["flow"] if worker and worker["ready"] else "not ready" for worker in workers
        }

    with AwsDriver(endpoint_url=sns_sqs_server) as driver:
        ExchangeMessageConsumer(queue, queue, driver=driver)
        process = subprocess.Popen(
            [sys.executable, "-m", "melange.cli", "worker", *arguments], cwd=tmp_path, env=environment
        )
        try:
            eventually(lambda: flows() == {"open"})
            process.send_signal(signal.SIGUSR1)
            eventually(lambda: flows() == {"paused"})
            # A poll that had begun before may still receive; the next ones do not.
            eventually(lambda: driver.measure_queue(driver.get_queue(queue)).in_flight == 0)
            ExchangeMessagePublisher(queue, driver).publish({}, "Work")
            assert flows() == {"paused"}

            process.send_signal(signal.SIGUSR2)

            eventually((tmp_path / "done").exists)
            eventually(lambda: flows() == {"open"})
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
