"""A message that kills the process that works on it, among healthy ones, on a local SNS+SQS server."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

from melange import ExchangeMessagePublisher

DEADLINE_SECONDS = 60
MOST_LIVES = 40

APPLICATION = """
import os, threading, time
from pathlib import Path
from melange import DriverManager, ExchangeMessageConsumer, QueueOptions, Worker

DriverManager.instance().use_driver(driver_name="aws")
consumer = ExchangeMessageConsumer(
    os.environ["QUEUE"], os.environ["QUEUE"], queue=QueueOptions(wait_seconds=1, visibility_timeout_seconds=2)
)
if os.environ["QUEUE_IS_NEW"]:
    raise SystemExit

@consumer.listener(name="listener")
def work(event):
    if event["is_poison"]:
        time.sleep(0.1)
        os._exit(9)
    time.sleep(0.2)
    Path("done", str(event["number"])).touch()
    if len(os.listdir("done")) == 9:
        # Acknowledged first, and then the process ends.
        threading.Timer(0.5, worker.stop).start()

worker = Worker(consumer, grace_seconds=6)
raise SystemExit(worker.run())
"""


def test_a_poison_message_takes_no_healthy_one_along(driver, sns_sqs_server, tmp_path):
    queue_name = f"poison-{uuid4().hex}"
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "done").mkdir()

    def live(queue_is_new: str = "") -> int:
        environment = {"AWS_ENDPOINT_URL": sns_sqs_server, "QUEUE": queue_name, "QUEUE_IS_NEW": queue_is_new}
        return subprocess.run(
            [sys.executable, "application.py"],
            cwd=tmp_path,
            env={**os.environ, **environment},
            timeout=DEADLINE_SECONDS,
            check=False,
        ).returncode

    assert live(queue_is_new="yes") == 0
    ExchangeMessagePublisher(queue_name, driver).publish_batch(
        [{"event_type_name": "Work", "number": number, "is_poison": number == 3} for number in range(10)]
    )
    deaths = 0
    while len(list((tmp_path / "done").iterdir())) < 9 and deaths < MOST_LIVES:
        deaths += live() == 9

    assert sorted(int(path.name) for path in (tmp_path / "done").iterdir()) == [0, 1, 2, *range(4, 10)]
    assert deaths
    queue = driver.get_queue(queue_name)
    assert queue.dead_letter_queue is not None
    assert driver.receive(queue.dead_letter_queue, 10, 0) == []
    # The healthy ones are acknowledged: only the poison comes back.
    (left,) = driver.receive(queue, 10, 10)
    assert '"number": 3' in left.message.body.replace('":3', '": 3')
    assert driver.receive(queue, 10, 3) == []
