"""The check that no web page of another site sends a request through its visitor's browser; see decision 0263."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from melange.server.control import CONSOLE_PREFIX
from melange.server.http import Request

_MAX_HOST_CHARACTERS = 270
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


def refusal_of(request: Request, allowed_hosts: frozenset[str]) -> str:
    """Return why a web page may have sent this request without its user's knowledge; "" if it has not.

    A page of another site can send requests to a loopback address. Either its browser says from where, or the page
    has had its own name point here, and then ``Host`` is that name.
    """
    host = request.headers.get("host", "localhost")
    if len(host) > _MAX_HOST_CHARACTERS or not _is_own_host(host, allowed_hosts):
        return f"{host!r} is not a name of this server: start it with --allowed-host to allow that name"
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return "requests from the pages of another origin are refused"
    is_own = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    if not is_own and not _follows_link_to_console(request):
        return "requests from the pages of another site are refused"
    return ""


def _follows_link_to_console(request: Request) -> bool:
    # Looking at the console changes nothing, and the page with the link cannot read what the user sees.
    return (
        request.method == "GET"
        and (request.target == "/" or request.target.startswith(CONSOLE_PREFIX))
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )


@lru_cache(maxsize=1_024)
def _is_own_host(host: str, allowed_hosts: frozenset[str]) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().strip("[]")
    if name in allowed_hosts or "." not in name:
        return True  # without a dot it is a name of a private network, such as a container's
    if name.endswith((".localhost", ".docker.internal", ".local")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
