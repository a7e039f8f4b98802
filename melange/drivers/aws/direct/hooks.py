"""Finds out if anything hooks into botocore: such a hook must see every call, so none may go past botocore.

moto and ``Stubber`` register handlers for events, tracing libraries replace functions. botocore has no public way to
ask for either. Where its insides are not as expected, that counts as a hook.
"""

from __future__ import annotations

import inspect
from operator import is_
from types import FunctionType
from typing import Any

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool, AWSRequest
from botocore.handlers import disable_signing
from botocore.httpsession import URLLib3Session
from urllib3.connectionpool import HTTPConnectionPool

_EVENTS = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "response-received",
    "before-parse",
    "needs-retry",
    "after-call",
    "after-call-error",
)
_AGENT_MODULES = frozenset({"aws_lambda_powertools.shared.user_agent"})
"""Their handlers of ``request-created`` add a word to the User-Agent and do nothing else."""

_OWN_MODULES = ("botocore.", "boto3.", "urllib3.", "melange.drivers.aws.clients")


class Hooks:
    """Looks for hooks into one boto3 client, again whenever something has changed. Thread-safe."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._emitter = client.meta.events._emitter
        self._seen: tuple[object, ...] = (None,) * 6
        self._found: dict[str, str | None] = {}

    def find(self, operation: str) -> str | None:
        """Return what hooks into calls of ``operation``, or None."""
        # botocore empties this cache, by a new one, with each handler that comes or goes.
        now = (
            self._emitter._lookup_cache,
            type(self._client)._make_api_call,
            URLLib3Session.send,
            HTTPConnectionPool.urlopen,
            AWSHTTPConnectionPool.ConnectionCls,
            AWSHTTPSConnectionPool.ConnectionCls,
        )
        if not all(map(is_, now, self._seen)):
            self._found, self._seen = {}, now
        found = self._found
        if operation not in found:
            found[operation] = self._replaced() or self._handled(operation)
        return found[operation]

    def _replaced(self) -> str | None:
        functions = (
            (type(self._client), "_make_api_call"),
            (URLLib3Session, "send"),
            (HTTPConnectionPool, "urlopen"),
        )
        for owner, name in functions:
            function = inspect.getattr_static(owner, name)
            # Where the code is from, not what it says about itself: wrappers repeat the names of what they wrap.
            if type(function) is not FunctionType or not _is_own(function.__globals__["__name__"]):
                return f"{owner.__name__}.{name} is replaced"
        for pool in (AWSHTTPConnectionPool, AWSHTTPSConnectionPool):
            if pool.ConnectionCls.__module__ != "botocore.awsrequest":
                return f"the connections of {pool.__name__} are replaced"
        return None

    def _handled(self, operation: str) -> str | None:
        service = self._client.meta.service_model.service_id.hyphenize()
        for event in _EVENTS:
            for handler in self._emitter._handlers.prefix_search(f"{event}.{service}.{operation}"):
                module = _module_of(handler)
                if event == "request-created" and module in _AGENT_MODULES:
                    continue
                if not _is_own(module) or handler is disable_signing:
                    return f"a handler of {module} listens to {event}"
        return None


def user_agent_of(client: Any) -> str:
    """Return the User-Agent of a client's requests, with what handlers add that do nothing else."""
    request = AWSRequest(headers={"User-Agent": client.meta.config.user_agent})
    service = client.meta.service_model.service_id.hyphenize()
    for handler in client.meta.events._emitter._handlers.prefix_search(f"request-created.{service}"):
        if _module_of(handler) in _AGENT_MODULES:
            handler(request=request)
    return str(list(request.headers.values())[-1])  # botocore does not replace a header: it adds another


def _is_own(module: str) -> bool:
    return module.startswith(_OWN_MODULES) and module != "botocore.stub"


def _module_of(handler: Any) -> str:
    handler = getattr(handler, "func", handler)  # of a partial
    return str(getattr(handler, "__module__", None) or type(handler).__module__)
