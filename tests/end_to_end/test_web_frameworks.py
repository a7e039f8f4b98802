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

import pytest

from waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
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
            with urllib.request.urlopen(request, timeout=30) as response:
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
            "PYTHONPATH": str(EXAMPLES),
        }
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


DJANGO = [
    pytest.param("wsgi", "web.django_app:wsgi", "/orders", id="wsgi-def"),
    pytest.param("wsgi", "web.django_app:wsgi", "/async-orders", id="wsgi-async"),
    pytest.param("asgi", "web.django_app:asgi", "/orders", id="asgi-def"),
    pytest.param("asgi", "web.django_app:asgi", "/async-orders", id="asgi-async"),
]


@pytest.mark.parametrize(("kind", "application", "path"), DJANGO)
def test_django_mails_what_was_committed(serve, kind, application, path) -> None:
    site = serve(kind, application)

    answers = [site.post(f"{path}/{order}") for order in ("order-1", "refused-1", "order-2")]

    assert answers == [200, 500, 200]
    assert site.orders() == site.mails() == {"order-1", "order-2"}
