"""A real Celery worker that runs tasks from SQS. Arguments: the server's URL."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
os.environ["BROKER"] = sys.argv[1].removeprefix("http://")
os.chdir(HERE)
sys.path.insert(0, str(HERE))
from celery_tasks import ship  # noqa: E402

with tempfile.TemporaryDirectory() as directory:
    done = os.path.join(directory, "done")
    for order in range(50):
        ship.delay(order, done)
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "celery_tasks",
            "worker",
            "--concurrency=2",
            "--loglevel=warning",
        ]
    )
    try:
        give_up_at = time.monotonic() + 60
        orders = []
        while sorted(set(orders)) != list(range(50)):
            assert time.monotonic() < give_up_at, f"only {sorted(set(orders))} were shipped"
            time.sleep(0.2)
            orders = (
                [int(line) for line in Path(done).read_text().splitlines()] if os.path.exists(done) else []
            )
    finally:
        worker.terminate()
        worker.wait(timeout=30)
    assert len(orders) == 50, "an order was shipped twice"
