"""The examples for FastAPI, Django and Flask, on real servers: what is committed is told, and nothing else."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import boto3
import pytest

from waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
DJANGO_PROJECT = EXAMPLES / "django_shop"
SERVE = Path(__file__).with_name("serve.py")


class Site:
    """A running application, its database and the mails that it sent."""

    def __init__(self, directory: Path, port: int) -> None:
        self.database = directory / "shop.db"
        self.mailbox = directory / "mails"
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str) -> int:
        request = urllib.request.Request(f"{self.url}{path}", method="POST", data=b"")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def orders(self) -> set[str]:
        return self._select("SELECT order_id FROM orders")

    def outbox(self) -> set[str]:
        return self._select("SELECT key FROM melange_outbox")

    def mails(self) -> set[str]:
        return set(self.mailbox.read_text().split()) if self.mailbox.exists() else set()

    def packed(self) -> set[str]:
        return self._select("SELECT order_id FROM orders WHERE is_packed")

    def has_queue(self, endpoint_url: str, name: str) -> bool:
        sqs = boto3.client("sqs", endpoint_url=endpoint_url)
        return bool(sqs.list_queues(QueueNamePrefix=name).get("QueueUrls"))

    def _select(self, statement: str) -> set[str]:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return {value for (value,) in connection.execute(statement)}


@contextmanager
def served(kind: str, application: str, directory: Path) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site = Site(directory, listening.getsockname()[1])
        environment = {
            **os.environ,
            "DATABASE": str(site.database),
            "MAILS": str(site.mailbox),
            "PYTHONPATH": os.pathsep.join(map(str, (EXAMPLES, DJANGO_PROJECT))),
        }
        if application.startswith("project."):
            migrate = [sys.executable, DJANGO_PROJECT / "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(migrate, env=environment, check=True)
        command = [sys.executable, SERVE, kind, application, str(listening.fileno())]
        server = subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()])
    try:
        yield site
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[[str, str], Site]]:
    with ExitStack() as stack:
        yield lambda kind, application: stack.enter_context(served(kind, application, tmp_path))


FASTAPI = ("asgi", "web.fastapi_app:app")
FLASK = ("wsgi", "web.flask_app:app")
WITH_OUTBOX = [
    pytest.param(*FASTAPI, "/orders", id="fastapi-def"),
    pytest.param(*FASTAPI, "/async-orders", id="fastapi-async"),
    pytest.param(*FASTAPI, "/plain-orders", id="fastapi-def-dependency"),
    pytest.param(*FLASK, "/orders", id="flask"),
]


@pytest.mark.parametrize(("kind", "application", "path"), WITH_OUTBOX)
def test_what_a_request_commits_is_in_the_outbox_and_mailed(serve, kind, application, path) -> None:
    site = serve(kind, application)
    orders = {f"order-{number}" for number in range(20)}

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda order: site.post(f"{path}/{order}"), orders))

    assert answers == {200}
    assert site.orders() == site.outbox() == site.mails() == orders


@pytest.mark.parametrize(
    ("kind", "application", "path"), [*WITH_OUTBOX[:2], pytest.param(*FLASK, "/orders", id="flask")]
)
def test_a_request_that_fails_leaves_nothing(serve, kind, application, path) -> None:
    site = serve(kind, application)

    answer = site.post(f"{path}/refused-1")
    site.post(f"{path}/order-1")

    assert answer == 409
    assert site.orders() == site.outbox() == site.mails() == {"order-1"}


@pytest.mark.parametrize(("kind", "application", "path"), WITH_OUTBOX[:2])
def test_a_commit_that_fails_is_answered_with_an_error_and_nothing_is_mailed(
    serve, kind, application, path
) -> None:
    site = serve(kind, application)
    site.post(f"{path}/order-1")
    site.mailbox.unlink()

    answer = site.post(f"{path}/order-1")

    assert answer == 500
    assert site.mails() == set()
    assert len(site.outbox()) == 1


@pytest.mark.parametrize(("kind", "application"), [FASTAPI, FLASK], ids=["fastapi", "flask"])
def test_an_event_without_an_outbox_is_an_error(serve, kind, application) -> None:
    site = serve(kind, application)

    answer = site.post("/forgotten-orders/order-1")

    assert answer == 500
    assert site.outbox() == set()


def test_a_background_task_has_an_outbox_of_its_own(serve) -> None:
    site = serve(*FASTAPI)

    answer = site.post("/later-orders/order-1")

    assert answer == 200
    eventually(lambda: site.mails() == {"order-1"})
    assert site.orders() == site.outbox() == {"order-1"}


WITH_WORKER = ["web.fastapi_worker_app:app", "web.starlette_app:app", "web.litestar_app:app"]


@pytest.mark.parametrize("application", WITH_WORKER)
def test_a_worker_in_the_process_of_the_application_handles_what_it_publishes(serve, application) -> None:
    site = serve("asgi", application)

    answer = site.post("/orders/order-1")

    assert answer == 200
    eventually(lambda: site.mails() == {"order-1"})


DJANGO_WSGI, DJANGO_ASGI = ("wsgi", "project.servers:wsgi"), ("asgi", "project.servers:asgi")
DJANGO = [
    pytest.param(*DJANGO_WSGI, "/orders", id="wsgi-def"),
    pytest.param(*DJANGO_WSGI, "/async-orders", id="wsgi-async"),
    pytest.param(*DJANGO_ASGI, "/orders", id="asgi-def"),
    pytest.param(*DJANGO_ASGI, "/async-orders", id="asgi-async"),
]


@pytest.mark.parametrize(("kind", "application", "path"), DJANGO)
def test_django_mails_and_writes_to_its_outbox_what_was_committed(serve, kind, application, path) -> None:
    site = serve(kind, application)

    answers = [site.post(f"{path}/{order}") for order in ("order-1", "refused-1", "order-2")]

    assert answers == [200, 500, 200]
    assert site.orders() == site.outbox() == site.mails() == {"order-1", "order-2"}


def test_in_django_an_event_outside_of_a_transaction_is_an_error(serve) -> None:
    site = serve(*DJANGO_WSGI)

    answer = site.post("/forgotten-orders/order-1")

    assert answer == 500
    assert site.outbox() == set()


def test_the_commands_of_django_relay_its_outbox_and_run_its_listeners(serve, sns_sqs_server) -> None:
    site = serve(*DJANGO_WSGI)

    with command(site, sns_sqs_server, "melange_worker", "--grace-seconds", "6") as worker:
        # The topic has its queue before anything is published to it.
        eventually(lambda: site.has_queue(sns_sqs_server, "packing"))
        site.post("/orders/order-1")
        with command(site, sns_sqs_server, "melange_outbox") as relay:
            eventually(lambda: site.packed() == {"order-1"})
            relay.terminate()
            relay_code = relay.wait(30)
        worker.terminate()
        worker_code = worker.wait(30)

    assert (relay_code, worker_code) == (0, 0)


@contextmanager
def command(site: Site, endpoint_url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": endpoint_url,
        "DATABASE": str(site.database),
        "DRIVER": "aws",
        "MAILS": str(site.mailbox),
    }
    process = subprocess.Popen([sys.executable, DJANGO_PROJECT / "manage.py", *arguments], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
