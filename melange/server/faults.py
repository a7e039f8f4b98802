"""Faults that a test or a developer asks for: what a real service does on its bad days, chosen by a seed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, get_args

from melange.errors import ConfigurationError, nearest
from melange.server.calls import Call, Operation, Parameters
from melange.server.errors import ServiceError
from melange.server.http import Response

FaultKind = Literal[
    "throttle", "error", "delay", "hang", "drop-request", "drop-answer", "cut-answer", "repeat", "partial"
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

_LONGEST_SECONDS = 3_600.0
_STATUSES = (500, 502, 503, 504)

_NOTHING = Response(200, "text/plain", b"", sent="nothing")
"""No answer at all: the connection is closed."""

_LOOK_FOR_CLIENT_SECONDS = 0.1

_ENTRIES = ("Entries", "PublishBatchRequestEntries")


@dataclass
class Fault:
    """What happens to some calls.

    - ``throttle``: the service's answer to too many calls. ``error``: its answer to a failure of its own, with ``status``.
    - ``delay``: the call is executed ``seconds`` later. ``hang``: it is not executed, and has no answer for ``seconds``;
      then the connection is closed.
    - ``drop-request``: the connection is closed before the call is executed; ``drop-answer``: after it, without an answer;
      ``cut-answer``: after half of the answer.
    - ``repeat``: the call is executed twice, as if the network had delivered it twice.
    - ``partial``: about half of the entries of a batch fail, at least one. Other calls are left alone.

    ``service`` is ``sqs`` or ``sns``, ``operation`` such as ``SendMessage``, ``name`` that of a queue or topic; ""
    means any. ``rate`` is the share of those calls, from 0 to 1. ``times`` is how often it strikes at most; None means
    no limit.
    """

    kind: FaultKind
    service: str = ""
    operation: str = ""
    name: str = ""
    rate: float = 1.0
    times: int | None = None
    seconds: float = 1.0
    status: int = 500
    seed: int | None = None
    id: int = 0
    struck: int = 0
    _random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ConfigurationError(
                f"there is no kind {self.kind!r}{nearest(str(self.kind), KINDS)}: {', '.join(KINDS)}"
            )
        _check_number("rate", self.rate, 0, 1)
        _check_number("seconds", self.seconds, 0, _LONGEST_SECONDS)
        if self.times is not None and not (_is_whole(self.times) and self.times >= 1):
            raise ConfigurationError(f"times must be a whole number from 1, not {self.times!r}")
        for name in ("service", "operation", "name"):
            if not isinstance(getattr(self, name), str):
                raise ConfigurationError(f"{name} must be text, not {getattr(self, name)!r}")
        if self.seed is not None and not _is_whole(self.seed):
            raise ConfigurationError(f"seed must be a whole number, not {self.seed!r}")
        if self.kind == "error" and not (_is_whole(self.status) and self.status in _STATUSES):
            raise ConfigurationError(f"status must be 500, 502, 503 or 504, not {self.status!r}")
        self._random = Random(self.seed)  # noqa: S311 - nothing to guess here

    def strikes(self, service: str, operation: str, name: str, parameters: Parameters) -> bool:
        """Return True if it strikes this call, and count it."""
        if self.times is not None and self.struck >= self.times:
            return False
        if not (
            self.service in {"", service} and self.operation in {"", operation} and self.name in {"", name}
        ):
            return False
        if self.kind == "partial" and _entries_of(parameters) is None:
            return False
        if self._random.random() >= self.rate:
            return False
        self.struck += 1
        return True

    def disturb(
        self, service: str, operation: Operation, call: Call, write: Callable[[Parameters], Response]
    ) -> Response:
        """Return the answer to a call that it strikes; ``write`` makes answers of results. Blocks as long as a delay.

        Raises:
            ServiceError: the answer is an error, of the fault or of the operation.
        """
        if self.kind in {"throttle", "error"}:
            raise self._error(service)
        if self.kind == "drop-request":
            return _NOTHING
        if self.kind in {"delay", "hang"}:
            _wait_for(self.seconds, call.is_client_there)
            if self.kind == "hang":
                return _NOTHING
        if self.kind == "partial":
            return write(self._execute_in_part(operation, call))
        if self.kind == "repeat":
            operation(call)
        answer = write(operation(call))
        if self.kind == "drop-answer":
            return _NOTHING
        return answer._replace(sent="half") if self.kind == "cut-answer" else answer

    def described(self) -> dict[str, Any]:
        """Return its options, and how often it has struck."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _execute_in_part(self, operation: Operation, call: Call) -> Parameters:
        """Execute a batch without some of its entries, and return its result with those as failed ones."""
        entries = _entries_of(call.parameters) or []
        chosen = [entry for entry in entries if self._random.random() < 0.5]
        failing = chosen or [self._random.choice(entries)]
        left = [entry for entry in entries if entry not in failing]
        result: Parameters = {}
        if left:
            given = {key: left if key in _ENTRIES else value for key, value in call.parameters.items()}
            result = operation(call._replace(parameters=given))
        failed = [
            {
                "Id": entry.get("Id", ""),
                "SenderFault": False,
                "Code": "InternalError",
                "Message": "A fault that was asked for.",
            }
            for entry in failing
        ]
        return {"Successful": [], **result, "Failed": [*result.get("Failed", []), *failed]}

    def _error(self, service: str) -> ServiceError:
        """Return what the service answers to a throttled or a failed call."""
        if self.kind == "throttle" and service == "sns":
            return ServiceError("Throttling", "Rate exceeded")
        if self.kind == "throttle":
            return ServiceError("RequestThrottled", "The request was denied due to request throttling.", 403)
        code = "InternalFailure" if self.status == 500 else "ServiceUnavailable"
        return ServiceError(code, "A fault that was asked for.", self.status)


class Faults:
    """The faults of a server. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[int, Fault] = {}
        self._last_id = 0

    def add(self, /, kind: FaultKind, **options: Any) -> Fault:
        """Add a fault with the options of ``Fault``, and return it. It strikes from now on.

        Raises:
            ConfigurationError: there is no such kind or option, or a number is out of bounds.
        """
        known = Fault.__dataclass_fields__.keys() - {"kind", "id", "struck", "_random"}
        for name in options:
            if name not in known:
                raise ConfigurationError(
                    f"a fault has no option {name!r}{nearest(name, known)}: {', '.join(sorted(known))}"
                )
        fault = Fault(kind, **options)
        with self._lock:
            self._last_id += 1
            fault.id = self._last_id
            self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: int) -> bool:
        """Remove a fault; return False if there is none with this id."""
        with self._lock:
            return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def all(self) -> list[Fault]:
        """Return the faults in the order in which they were added."""
        with self._lock:
            return list(self._faults.values())

    def choose(self, service: str, operation: str, parameters: Parameters) -> Fault | None:
        """Return the first fault that strikes this call, or None."""
        if not self._faults:  # as it nearly always is
            return None
        name = _name_in(parameters)
        with self._lock:
            return next(
                (
                    fault
                    for fault in self._faults.values()
                    if fault.strikes(service, operation, name, parameters)
                ),
                None,
            )


def _entries_of(parameters: Parameters) -> list[Parameters] | None:
    """Return the entries of a batch; None if the call is none, or its batch is empty."""
    for key in _ENTRIES:
        if parameters.get(key):
            found: list[Parameters] = parameters[key]
            return found
    return None


def _wait_for(seconds: float, is_client_there: Callable[[], bool]) -> None:
    """Wait in real time, as long as the client does."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and is_client_there():
        time.sleep(min(left, _LOOK_FOR_CLIENT_SECONDS))


def _name_in(parameters: Mapping[str, Any]) -> str:
    for key, separator in (
        ("QueueUrl", "/"),
        ("TopicArn", ":"),
        ("TargetArn", ":"),
        ("QueueName", "/"),
        ("Name", ":"),
    ):
        if parameters.get(key):
            return str(parameters[key]).rstrip("/").rpartition(separator)[2]
    return ""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_number(name: str, value: object, lowest: float, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ConfigurationError(f"{name} must be a number from {lowest:g} to {highest:g}, not {value!r}")
