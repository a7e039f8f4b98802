"""The HTTP interface beside the protocols: state, faults, disorder, the clock. JSON in, JSON out, below ``/_melange/``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from melange.errors import ConfigurationError
from melange.server.broker import LONGEST_ADVANCE_SECONDS, Broker
from melange.server.faults import Faults
from melange.server.http import Request, Response
from melange.server.snapshots import NAME, Snapshots, read_snapshot, write_snapshot
from melange.server.state import BrokerState

PREFIX = "/_melange/"
CONSOLE_PREFIX = f"{PREFIX}console/"

_SNAPSHOT = re.compile(rf"snapshots/({NAME})(/restore)?")


class _NotFoundError(Exception):
    """There is nothing at this path."""


class Control:
    """Answers the requests below ``PREFIX``. Thread-safe."""

    def __init__(self, broker: Broker, faults: Faults, snapshots: Snapshots) -> None:
        self._broker = broker
        self._faults = faults
        self._snapshots = snapshots
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any]], tuple[int, object]]] = {
            ("GET", "state"): self._state,
            ("POST", "reset"): self._reset,
            ("GET", "clock"): self._clock,
            ("POST", "clock/advance"): self._advance,
            ("GET", "faults"): self._list_faults,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "disorder"): self._get_disorder,
            ("PUT", "disorder"): self._set_disorder,
            ("GET", "snapshots"): self._list_snapshots,
        }

    def answer(self, request: Request) -> Response:
        """Return the answer to a request."""
        path = urlsplit(request.target).path.removeprefix(PREFIX).rstrip("/")
        method = "GET" if request.method == "HEAD" else request.method
        try:
            snapshot = _SNAPSHOT.fullmatch(path)
            if snapshot is not None:
                status, content = self._answer_snapshot(method, request, snapshot[1], snapshot[2] or "")
            else:
                status, content = self._route(method, path)(_options(request))
            if method != "GET":
                self._broker.commit(is_topology_changed=True)
        except _NotFoundError as error:
            status, content = 404, {"error": str(error)}
        except ConfigurationError as error:
            status, content = 400, {"error": str(error)}
        text = content if isinstance(content, str) else json.dumps(content)
        return Response(status, "application/json", text.encode() + b"\n", {"Cache-Control": "no-store"})

    def _route(self, method: str, path: str) -> Callable[[dict[str, Any]], tuple[int, object]]:
        found = self._routes.get((method, path))
        if found is not None:
            return found
        collection, _, name = path.partition("/")
        if method == "DELETE" and collection == "faults" and name.isascii() and name.isdigit():
            return lambda _: self._remove_fault(int(name))
        known = ", ".join(f"{one} {PREFIX}{other}" for one, other in self._routes)
        raise _NotFoundError(f"there is no {method} {PREFIX}{path}; there are {known}")

    def _state(self, _: dict[str, Any]) -> tuple[int, object]:
        broker = self._broker
        with broker.lock:
            now = broker.now()
            queues = [
                {
                    "arn": arn,
                    "name": queue.name,
                    **asdict(queue.stored.measure(now)),
                    "attributes": dict(queue.attributes),
                }
                for arn, queue in broker.queues.items()
            ]
            subscriptions = [
                {
                    "arn": one.arn,
                    "topic_arn": one.topic.arn,
                    "protocol": one.protocol,
                    "endpoint": one.endpoint,
                    "is_pending": one.is_pending,
                }
                for one in broker.subscriptions.values()
            ]
            topics = [{"arn": arn} for arn in broker.topics]
        return 200, {"now": now, "topics": topics, "queues": queues, "subscriptions": subscriptions}

    def _reset(self, _: dict[str, Any]) -> tuple[int, object]:
        self._broker.reset()
        self._faults.clear()
        return 200, {}

    def _clock(self, _: dict[str, Any]) -> tuple[int, object]:
        return 200, {"now": self._broker.now()}

    def _advance(self, options: dict[str, Any]) -> tuple[int, object]:
        seconds: Any = options.get("seconds")
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 < seconds <= LONGEST_ADVANCE_SECONDS:
            raise ConfigurationError(
                f'send {{"seconds": N}}, up to {LONGEST_ADVANCE_SECONDS:.0f}: a clock goes forward only'
            )
        self._broker.advance(seconds)
        return 200, {"now": self._broker.now()}

    def _list_faults(self, _: dict[str, Any]) -> tuple[int, object]:
        return 200, [fault.described() for fault in self._faults.all()]

    def _add_fault(self, options: dict[str, Any]) -> tuple[int, object]:
        kind = options.pop("kind", "")
        return 201, self._faults.add(kind, **options).described()

    def _clear_faults(self, _: dict[str, Any]) -> tuple[int, object]:
        self._faults.clear()
        return 200, {}

    def _remove_fault(self, fault_id: int) -> tuple[int, object]:
        if not self._faults.remove(fault_id):
            raise _NotFoundError(f"there is no fault {fault_id}")
        return 200, {}

    def _get_disorder(self, _: dict[str, Any]) -> tuple[int, object]:
        disorder = self._broker.disorder
        return 200, {"duplicates": disorder.duplicates, "shuffle": disorder.shuffle}

    def _set_disorder(self, options: dict[str, Any]) -> tuple[int, object]:
        duplicates, shuffle = options.get("duplicates", 0), options.get("shuffle", False)
        if options.keys() - {"duplicates", "shuffle"} or not isinstance(shuffle, bool):
            raise ConfigurationError('send {"duplicates": 0.05, "shuffle": true}')
        self._broker.set_disorder(duplicates=duplicates, shuffle=shuffle)
        return self._get_disorder({})

    def _list_snapshots(self, _: dict[str, Any]) -> tuple[int, object]:
        return 200, [_described(name, state) for name, state in self._snapshots.all().items()]

    def _answer_snapshot(self, method: str, request: Request, name: str, verb: str) -> tuple[int, object]:
        snapshots = self._snapshots
        if method == "PUT" and not verb:
            if request.body:
                _check_type(request)
            state = (
                snapshots.keep(name, read_snapshot(request.body)) if request.body else snapshots.take(name)
            )
            return 201, _described(name, state)
        found = snapshots.find(name)
        if found is None:
            raise _NotFoundError(f"there is no snapshot {name}")
        if method == "POST" and verb:
            snapshots.restore(name)
            return 200, {}
        if method == "GET" and not verb:
            return 200, write_snapshot(found)
        if method == "DELETE" and not verb:
            snapshots.remove(name)
            return 200, {}
        raise _NotFoundError(
            f"a snapshot has PUT, GET and DELETE {PREFIX}snapshots/{name}, and POST {PREFIX}snapshots/{name}/restore"
        )


def _described(name: str, state: BrokerState) -> dict[str, object]:
    return {"name": name, "taken_at": state.taken_at, "messages": len(state.copies)}


def _options(request: Request) -> dict[str, Any]:
    if not request.body:
        return {}
    _check_type(request)
    try:
        options = json.loads(request.body)
    except (ValueError, RecursionError):
        raise ConfigurationError("the body is not JSON") from None
    if not isinstance(options, dict):
        raise ConfigurationError("the body must be a JSON object")
    return options


def _check_type(request: Request) -> None:
    # A form of another site could be sent without the browser asking; this content type cannot.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ConfigurationError("send JSON, with Content-Type: application/json")
