"""From an HTTP request to an operation, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from melange.messages import new_uuid
from melange.server.authentication import Key, identify, refusal_of, verify
from melange.server.broker import Broker
from melange.server.calls import Call, Caller, Operation, Parameters
from melange.server.control import CONSOLE_PREFIX, PREFIX, Control
from melange.server.errors import ServiceError
from melange.server.faults import Faults
from melange.server.http import Request, Response
from melange.server.operation_table import MESSAGE_OPERATIONS, OPERATIONS
from melange.server.protocols import json_protocol, query_protocol
from melange.server.protocols.query_protocol import VERSIONS
from melange.server.snapshots import Snapshots

logger = logging.getLogger(__name__)

_UNKNOWN_OPERATION = "UnknownOperationException"
_TARGET_PREFIX = "AmazonSQS."
_MAX_FIELDS = 10_000


class _Route(NamedTuple):
    service: str
    operation: str
    is_json: bool
    form: Mapping[str, str]


class Gateway:
    """Answers requests for one broker. Thread-safe.

    Args:
        broker: what the operations work on.
        allowed_hosts: names besides those of this machine, under which clients may reach the server.
        keys: the access keys that may sign requests; None accepts any, or none.
        faults: what some calls are disturbed by.
        snapshots: what the broker had at some moments.
        console: answers requests below ``CONSOLE_PREFIX``; None for a server without a console.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        keys: Mapping[str, Key] | None = None,
        faults: Faults | None = None,
        snapshots: Snapshots | None = None,
        console: Callable[[Request], Response] | None = None,
    ) -> None:
        self._broker = broker
        self._allowed_hosts = allowed_hosts
        self._keys = keys
        self._faults = faults or Faults()
        self._control = Control(broker, self._faults, snapshots or Snapshots(broker))
        self._console = console

    def answer(self, request: Request, is_client_there: Callable[[], bool]) -> Response:
        """Return the answer to a request. Blocks while a receive waits."""
        host = request.headers.get("host", "localhost")
        refusal = refusal_of(request, self._allowed_hosts)
        if refusal:
            return Response(403, "text/plain", f"{refusal}\n".encode())
        page = self._page(request)
        if page is not None:
            return page
        request_id = new_uuid()
        route = _Route("sqs", "", is_json="x-amz-target" in request.headers, form={})
        try:
            caller = identify(request)
            route = _route(request, caller)
            if self._keys is not None and not _is_open(route):
                caller = verify(request, self._keys, self._broker.clock.now())
            operation = OPERATIONS[route.service].get(route.operation)
            if operation is None or _is_misplaced(request, route):
                raise _unknown_operation(route)
            call = Call(self._broker, caller, f"http://{host}", _parameters(request, route), is_client_there)
            if self._broker.storage is not None:
                is_topology_changed = route.operation not in MESSAGE_OPERATIONS
                operation = _committed(operation, is_topology_changed=is_topology_changed)
            fault = self._faults.choose(route.service, route.operation, call.parameters)
            if fault is not None:
                return fault.disturb(route.service, operation, call, partial(_success, route, request_id))
            return _success(route, request_id, operation(call))
        except ServiceError as error:
            return _failure(route, error, request_id)
        except Exception:
            logger.exception("%s failed", route.operation)
            return _failure(
                route,
                ServiceError("InternalFailure", "melange server failed; its log says why.", 500),
                request_id,
            )

    def _page(self, request: Request) -> Response | None:
        """Return the answer to a request that is not a call; None if it is one."""
        if self._console is not None and request.target.startswith(CONSOLE_PREFIX):
            return self._console(request)
        if request.target.startswith(PREFIX):
            return self._control.answer(request)
        if request.method not in {"GET", "HEAD", "POST"}:
            return Response(405, "text/plain", b"calls are POST or GET requests\n")
        return None if request.method == "POST" else self._document(request)

    def _document(self, request: Request) -> Response | None:
        if request.target.startswith("/SimpleNotificationService-"):
            return Response(200, "application/x-pem-file", self._broker.signer.certificate)
        is_from_browser = "text/html" in request.headers.get("accept", "")
        if self._console is not None and request.target == "/" and is_from_browser:
            return Response(303, "text/plain", b"", {"Location": CONSOLE_PREFIX})
        return None


def _committed(operation: Operation, *, is_topology_changed: bool) -> Operation:
    """Return the operation with what it changes written at its end."""

    def execute(call: Call) -> Parameters:
        try:
            return operation(call)
        finally:
            call.broker.commit(is_topology_changed=is_topology_changed)

    return execute


def _route(request: Request, caller: Caller) -> _Route:
    target = request.headers.get("x-amz-target", "")
    if target:
        if not target.startswith(_TARGET_PREFIX):
            raise ServiceError(_UNKNOWN_OPERATION, "Only SQS speaks JSON here.", 404)
        return _Route("sqs", target.removeprefix(_TARGET_PREFIX), is_json=True, form={})
    form = _form(request)
    operation = form.get("Action", "")
    service = VERSIONS.get(form.get("Version", "")) or caller.service
    if service not in OPERATIONS:
        service = next((name for name, known in OPERATIONS.items() if operation in known), "sqs")
    if service == "sqs" and "QueueUrl" not in form and len(path := urlsplit(request.target).path) > 1:
        form["QueueUrl"] = path  # older clients post to the queue's address
    return _Route(service, operation, is_json=False, form=form)


def _form(request: Request) -> dict[str, str]:
    try:
        pairs = parse_qsl(urlsplit(request.target).query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        if request.method == "POST":
            pairs += parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise ServiceError("MalformedQueryString", "The request is not a valid form.") from None
    return dict(pairs)


def _parameters(request: Request, route: _Route) -> Parameters:
    if route.is_json:
        return json_protocol.read(route.operation, request.body)
    return query_protocol.read(route.service, route.operation, route.form)


def _success(route: _Route, request_id: str, result: Parameters) -> Response:
    headers = {"x-amzn-RequestId": request_id}
    if route.is_json:
        return Response(200, json_protocol.CONTENT_TYPE, json_protocol.write(result), headers)
    body = query_protocol.write(route.service, route.operation, result, request_id)
    return Response(200, query_protocol.CONTENT_TYPE, body, headers)


def _failure(route: _Route, error: ServiceError, request_id: str) -> Response:
    headers = {"x-amzn-RequestId": request_id}
    if route.is_json:
        more, body = json_protocol.write_error(error)
        return Response(error.status, json_protocol.CONTENT_TYPE, body, headers | more)
    if error.code == _UNKNOWN_OPERATION:  # SQS has a form of its own for a visit without an action
        return Response(error.status, query_protocol.CONTENT_TYPE, b"<UnknownOperationException/>\n", headers)
    body = query_protocol.write_error(route.service, error, request_id)
    return Response(error.status, query_protocol.CONTENT_TYPE, body, headers)


def _unknown_operation(route: _Route) -> ServiceError:
    if route.is_json:
        return ServiceError(_UNKNOWN_OPERATION, f"melange server has no operation {route.operation}.")
    if not route.operation:
        return ServiceError(_UNKNOWN_OPERATION, "The request has no action.", 404)
    return ServiceError("InvalidAction", f"The action {route.operation} is not valid for this endpoint.")


def _is_misplaced(request: Request, route: _Route) -> bool:
    """Return True if an operation on all queues is called at the address of one, in the Query protocol."""
    if route.is_json or route.operation not in {"CreateQueue", "ListQueues"}:
        return False
    return len(urlsplit(request.target).path) > 1


def _is_open(route: _Route) -> bool:
    # Recipients of notifications follow these addresses, and have no key.
    return route.service == "sns" and route.operation in {"ConfirmSubscription", "Unsubscribe"}
