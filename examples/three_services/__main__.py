"""``python -m three_services``: all three services as processes on one ``melange server``, and an order on its way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

DEADLINE_SECONDS = 90
SUBSCRIPTIONS = 4  # of all consumers: an event is lost if its topic has no queue yet


def main() -> None:
    broker, orders = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": broker,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "ORDERS_DATABASE": os.path.join(directory, "orders.db"),
            "PAYMENTS_DIRECTORY": directory,
        }

        def start(*arguments: str) -> None:
            process = subprocess.Popen([sys.executable, "-m", *arguments], env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start("melange.cli", "server", "--port", _port_of(broker))
        _wait_for(lambda: _get(f"{broker}/_melange/state"))
        manage = "three_services.payments.manage"
        subprocess.run(
            [sys.executable, "-m", manage, "migrate", "--verbosity", "0"], env=environment, check=True
        )
        application = "three_services.orders.app:make_app"
        start("uvicorn", "--factory", application, "--port", _port_of(orders), "--log-level", "warning")
        start(manage, "melange_worker", "--grace-seconds", "5")
        start(manage, "melange_outbox", "--no-declare")
        start("three_services.shipping.main")
        _wait_for(lambda: len(_get(f"{broker}/_melange/state")["subscriptions"]) == SUBSCRIPTIONS)
        _wait_for(lambda: _get(f"{orders}/openapi.json"))

        order_id = _get(Request(f"{orders}/orders?total=9.90", method="POST"))
        print("an order is placed", flush=True)
        _wait_for(lambda: _get(f"{orders}/orders/{order_id}") == "shipped")
        print("it is paid and shipped", flush=True)


def _get(request: str | Request) -> Any:
    with urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except URLError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the services take too long: see what they print")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _port_of(url: str) -> str:
    return url.rpartition(":")[2]


if __name__ == "__main__":
    main()
