"""A console over a broker without a port, on a clock that stands still, and a browser that reads its pages."""

from __future__ import annotations

import html
import re
from urllib.parse import urlencode

from melange.console.console import Console
from melange.console.local import LocalBackend
from melange.server.control import CONSOLE_PREFIX
from melange.server.faults import Faults
from melange.server.http import Request, Response
from melange.server.snapshots import Snapshots
from unit.server.given import Client

_TOKEN = re.compile(r'name="token" value="([^"]+)"')


class Browser:
    """Looks at the console: ``browser.get("queues/...")`` and ``browser.post("queues/.../purge")``."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client or Client()
        self.faults = Faults()
        snapshots = Snapshots(self.client.broker)
        self.backend = LocalBackend(self.client.broker, self.faults, snapshots, "http://localhost:4566")
        self.console = Console(self.backend)

    def get(self, path: str = "") -> Response:
        return self.console.answer(Request("GET", CONSOLE_PREFIX + path, {"host": "localhost:4566"}))

    def text(self, path: str = "") -> str:
        """Return the text of a page, without elements."""
        return html.unescape(re.sub(r"<[^>]+>", " ", self.get(path).body.decode()))

    def token(self) -> str:
        found = _TOKEN.search(self.get("faults").body.decode())
        assert found is not None
        return found[1]

    def post(self, path: str, fields: dict[str, str | list[str]] | None = None, **headers: str) -> Response:
        form = urlencode({"token": self.token()} | (fields or {}), doseq=True)
        known = {"host": "localhost:4566", "content-type": "application/x-www-form-urlencoded"} | headers
        return self.console.answer(Request("POST", CONSOLE_PREFIX + path, known, form.encode()))

    def follow(self, response: Response) -> str:
        """Return the text of the page to which a form leads."""
        assert response.status == 303
        return self.text(response.headers["Location"].removeprefix(CONSOLE_PREFIX))
