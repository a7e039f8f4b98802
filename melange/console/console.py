"""The console over HTTP: its addresses, forms, and the headers that keep pages safe, and a server for it alone."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

from melange.console.backend import Backend, NotFoundError, RefusedError
from melange.console.charts import QueueHistory
from melange.console.pages import (
    Handler,
    Page,
    Redirect,
    Visit,
    dead_letters,
    faults,
    log,
    overview,
    queues,
    sending,
    topics,
)
from melange.console.rendering import render
from melange.server.authentication import refusal_of
from melange.server.control import CONSOLE_PREFIX
from melange.server.http import Request, Response
from melange.server.socket_listener import SocketListener

logger = logging.getLogger(__name__)

_MAX_FIELDS = 2_000
_MAX_NOTICES = 100

_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "", overview.show),
    ("GET", "topics/{}", topics.show),
    ("GET", "topics/{}/publish", sending.show_publish),
    ("POST", "topics/{}/publish", sending.publish),
    ("GET", "topics/{}/delete", topics.ask_delete),
    ("POST", "topics/{}/delete", topics.delete),
    ("GET", "queues/{}", queues.show),
    ("GET", "queues/{}/send", sending.show_send),
    ("POST", "queues/{}/send", sending.send),
    ("GET", "queues/{}/purge", queues.ask_purge),
    ("POST", "queues/{}/purge", queues.purge),
    ("GET", "queues/{}/delete", queues.ask_delete),
    ("POST", "queues/{}/delete", queues.delete),
    ("POST", "queues/{}/look", queues.look),
    ("POST", "queues/{}/retry", dead_letters.retry),
    ("POST", "queues/{}/selected", queues.change_selected),
    ("GET", "queues/{}/messages/{}", queues.show_message),
    ("POST", "queues/{}/messages/{}/release", queues.release),
    ("GET", "dead-letters", dead_letters.show),
    ("GET", "log", log.search),
    ("GET", "log/{}", log.show),
    ("GET", "faults", faults.show),
    ("POST", "faults", faults.add_fault),
    ("POST", "faults/{}/remove", faults.remove_fault),
    ("POST", "disorder", faults.set_disorder),
    ("POST", "clock", faults.advance),
    ("POST", "snapshots", faults.take_snapshot),
    ("GET", "snapshots/{}/restore", faults.ask_restore),
    ("POST", "snapshots/{}/restore", faults.restore_snapshot),
    ("POST", "snapshots/{}/remove", faults.remove_snapshot),
    ("GET", "reset", faults.ask_reset),
    ("POST", "reset", faults.reset),
]
"""Braces stand for the ARN of a topic or queue, or a message's key."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, browsers send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ASSET_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NAVIGATION = [
    ("", "Overview"),
    ("dead-letters", "Dead letters"),
    ("log", "Event log"),
    ("faults", "Faults and time"),
]
_HTML = "text/html; charset=utf-8"
_FORM = "application/x-www-form-urlencoded"


class Console:
    """Answers a browser's requests with pages that show a broker. Thread-safe.

    The caller has checked ``Host`` and ``Origin``.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._history = QueueHistory(backend)
        self._token = secrets.token_urlsafe(32)
        self._notices: OrderedDict[str, Redirect] = OrderedDict()
        self._routes = [(method, _pattern(path), handler) for method, path, handler in _ROUTES]

    def answer(self, request: Request) -> Response:
        """Return the answer to a request below ``CONSOLE_PREFIX``."""
        url = urlsplit(request.target)
        path = unquote(url.path.removeprefix(CONSOLE_PREFIX))
        if path.startswith("assets/") and request.method in {"GET", "HEAD"}:
            return _asset(path.removeprefix("assets/"))
        try:
            query = _query(url.query)
            answer = self._handle(request, path, query)
            return self._redirect(answer) if isinstance(answer, Redirect) else self._page(answer, path, query)
        except NotFoundError as error:
            problem = _problem("Not found", str(error), 404)
        except RefusedError as error:
            problem = _problem("Refused", str(error), 400)
        except _ForbiddenError as error:
            problem = _problem("This form was not accepted", str(error), 403)
        except Exception:
            logger.exception("the console page %s failed", path)
            problem = _problem("This page failed", "The log of the server says why.", 500)
        return self._page(problem, path, {})

    def close(self) -> None:
        """End the sampling of depths. Idempotent."""
        self._history.close()

    def _handle(self, request: Request, path: str, query: dict[str, str]) -> Page | Redirect:
        handler, arguments = self._find("GET" if request.method == "HEAD" else request.method, path)
        form = self._form(request) if request.method == "POST" else {}
        return handler(Visit(self._backend, self._history, arguments, query, form))

    def _find(self, method: str, path: str) -> tuple[Handler, Sequence[str]]:
        for one, pattern, handler in self._routes:
            found = pattern.fullmatch(path) if one == method else None
            if found is not None:
                return handler, found.groups()
        raise NotFoundError("This page does not exist.")

    def _form(self, request: Request) -> dict[str, list[str]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise _ForbiddenError("This is not a form of the console.")
        try:
            text = request.body.decode("ascii")
            form = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
        except ValueError:
            raise _ForbiddenError("The form cannot be read.") from None
        # Another site can send a form here, and cannot read the token.
        if not hmac.compare_digest("".join(form.pop("token", [])).encode(), self._token.encode()):
            raise _ForbiddenError(
                "The form is from before the server was restarted, or from another site. Go back, reload the page, and "
                "send it again."
            )
        return form

    def _redirect(self, answer: Redirect) -> Response:
        location = CONSOLE_PREFIX + quote(answer.path, safe="/:?=&")
        if answer.notice:
            key = secrets.token_urlsafe(8)
            self._notices[key] = answer
            while len(self._notices) > _MAX_NOTICES:
                self._notices.popitem(last=False)
            location += f"{'&' if '?' in location else '?'}notice={key}"
        return Response(303, "text/plain", b"", _HEADERS | {"Location": location})

    def _has(self, path: str) -> bool:
        missing = {"faults": self._backend.controls is None, "log": self._backend.log is None}
        return not missing.get(path)

    def _page(self, page: Page, path: str, query: dict[str, str]) -> Response:
        values = {
            "backend": self._backend,
            "token": self._token,
            "path": path,
            "nav": [one for one in _NAVIGATION if self._has(one[0])],
            "notice": self._notices.get(query.get("notice", "")),
            "now": self._backend.now(),
        }
        html = render(page.template, {**values, **page.values})
        return Response(page.status, _HTML, html.encode("utf-8", "backslashreplace"), _HEADERS)


class ConsoleServer:
    """Answers a browser from construction until ``close()``; use it as a context manager. Thread-safe.

    Args:
        backend: the broker that it shows.
        host: the address to listen on. Others than those of loopback let the network in: there is no login.
        port: the port to listen on; 0 takes a free one.
        allowed_hosts: names besides those of this machine, under which browsers may reach it.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """

    def __init__(
        self, backend: Backend, *, host: str = "127.0.0.1", port: int = 0, allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._console = Console(backend)
        self._allowed_hosts = frozenset(map(str.lower, allowed_hosts))
        self._listener = SocketListener(host, port, self._answer)
        self._listener.start()

    @property
    def url(self) -> str:
        """The address for the browser."""
        return self._listener.url

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._listener.close()
        self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request, is_client_there: Callable[[], bool]) -> Response:
        refusal = refusal_of(request, self._allowed_hosts)
        if refusal:
            return Response(403, "text/plain", f"{refusal}\n".encode())
        if request.target.startswith(CONSOLE_PREFIX):
            return self._console.answer(request)
        if request.target == "/" and request.method in {"GET", "HEAD"}:
            return Response(303, "text/plain", b"", {"Location": CONSOLE_PREFIX})
        return Response(404, "text/plain", b"this page does not exist\n")


class _ForbiddenError(Exception):
    """A form that is not ours."""


def _query(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise RefusedError(f"The address cannot be read: {error}.") from None


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", "([^/]+)"))


def _problem(title: str, text: str, status: int) -> Page:
    return Page("problem.html", {"title": title, "text": text}, status)


def _asset(name: str) -> Response:
    kind = _ASSET_TYPES.get(name.rpartition(".")[2])
    asset = files("melange.console").joinpath("assets", name)
    if kind is None or "/" in name or "\\" in name or not asset.is_file():
        return Response(404, "text/plain", b"no such asset\n", _HEADERS)
    return Response(200, kind, asset.read_bytes(), _HEADERS | {"Cache-Control": "max-age=60"})
