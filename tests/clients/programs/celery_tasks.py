"""A Celery application on SQS. Needs BROKER in the environment: the server's host and port."""

import os

from celery import Celery

app = Celery("shop", broker="sqs://test:test@" + os.environ["BROKER"])
app.conf.update(
    broker_transport_options={
        "is_secure": False,
        "region": "us-east-1",
        "wait_time_seconds": 2,
        "polling_interval": 0,
    },
    task_default_queue="celery-orders",
    worker_enable_remote_control=False,
    task_acks_late=True,
)
ATTEMPTS = 2


@app.task(bind=True, max_retries=ATTEMPTS)
def ship(self, order, done):
    if order % 10 == 0 and self.request.retries < 1:
        raise self.retry(countdown=0)
    with open(done, "a") as file:
        file.write(f"{order}\n")
