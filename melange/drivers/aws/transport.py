"""The way a call takes: through its boto3 client, or directly if nothing hooks into botocore.

A hook must see every call, so none may go past botocore. moto and ``Stubber`` register handlers for events, tracing
libraries replace functions. botocore has no public way to ask for either. Where its insides are not as expected, that
counts as a hook.
"""

from __future__ import annotations

import inspect
import logging
import select
from operator import is_
from types import FunctionType
from typing import Any, Literal

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool, AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.handlers import disable_signing
from botocore.httpsession import URLLib3Session
from urllib3.connectionpool import HTTPConnectionPool

from melange.drivers.aws.direct.client import DirectClient
from melange.drivers.aws.direct.requests import DIRECT_REQUESTS
from melange.drivers.aws.operations import Answer, Operation, Parameters
from melange.errors import ConfigurationError

logger = logging.getLogger(__name__)

TransportName = Literal["auto", "botocore", "direct"]


class Transport:
    """Makes the calls of one boto3 client. Thread-safe, in one process only."""

    def __init__(self, client: Any, name: TransportName) -> None:
        self._client = client
        self._service = client.meta.service_model.service_name
        self._direct: DirectClient | None = None
        self._hooks: Hooks | None = None
        self._said: str | None = None
        if name != "botocore" and self._service in {"sns", "sqs"}:
            self._prepare_direct(name)

    def call(self, operation: Operation, parameters: Parameters) -> Answer:
        """Return the answer; raise what botocore raises, or ``UnreadableAnswer``."""
        direct, request = self._direct, DIRECT_REQUESTS.get(operation.method)
        if direct is None or request is None:
            return self._through_botocore(operation, parameters)
        if self._hooks is not None:
            hook = self._hooks.find(request.operation)
            if hook is not None:
                self._say(f"through botocore: {hook}")
                return self._through_botocore(operation, parameters)
        if self._said != "directly":
            self._say("directly")
        return direct.call(operation.method, parameters)

    def close(self) -> None:
        """Close the idle connections; calls that run keep theirs until they end."""
        self._client.close()
        if self._direct is not None:
            self._direct.close()

    def _through_botocore(self, operation: Operation, parameters: Parameters) -> Answer:
        answer: Answer = getattr(self._client, operation.method)(**parameters)
        return answer

    def _prepare_direct(self, name: TransportName) -> None:
        try:
            signature = self._client.meta.config.signature_version
            if signature != "v4":
                raise ConfigurationError(
                    f"signature_version is {signature!r}, direct calls are signed with 'v4'"
                )
            if not hasattr(select, "poll"):
                raise ConfigurationError("this system has no poll()")
            self._direct = DirectClient(self._client, user_agent_of(self._client))
            if name == "auto":
                self._hooks = Hooks(self._client)
                self._hooks.find("ReceiveMessage")
        except (AttributeError, TypeError, BotoCoreError, ConfigurationError) as error:
            # Parts of botocore without a public name are used; another version may not have them.
            if name == "direct":
                raise ConfigurationError(
                    f"transport='direct' cannot be used here: {error}; use transport='auto'"
                ) from error
            self._direct = None
            self._say(f"through botocore: {error}")

    def _say(self, way: str) -> None:
        if way != self._said:
            self._said = way
            logger.debug("messages go to %s %s", self._service.upper(), way)


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
