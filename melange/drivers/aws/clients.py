"""One way to call SNS and SQS: errors mapped, what botocore does not retry retried, nothing after close."""

# MERGED DOCS: The boto3 clients, and what makes them quicker and safer than boto3's defaults.

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, IncompleteReadError

from melange.clock import Clock
from melange.drivers.aws.errors import Refusal, is_missed_by_botocore, mapped_errors
from melange.drivers.sqs_rules import MAX_WAIT_SECONDS
from melange.errors import ConfigurationError, DriverClosedError, DriverConnectionError

_BUILDING = threading.Lock()
"""Clients may be shared between threads, the sessions that build them may not."""


@dataclass(frozen=True, slots=True)
class Clients:
    """What one driver talks through; thread-safe."""

    sns: Any
    sqs: Any
    sts: Any
    region_name: str
    partition: str

    def close(self) -> None:
        """Let go of the idle connections; calls under way keep theirs until they end."""
        for client in (self.sns, self.sqs, self.sts):
            client.close()


def build_clients(
    session: boto3.Session | None, region_name: str | None, endpoint_url: str | None, config: Config | None
) -> Clients:
    """Return clients for SNS and SQS, with ``config`` merged over melange's own.

    Raises:
        ConfigurationError: no region, no such profile, an unusable endpoint or configuration.
    """
    merged: Any = default_config().merge(config) if config else default_config()
    if merged.read_timeout is not None and merged.read_timeout <= MAX_WAIT_SECONDS:
        raise ConfigurationError(
            f"config's read_timeout must be above {MAX_WAIT_SECONDS} s, the longest that a receive waits"
        )
    with _BUILDING, mapped_errors("building the boto3 clients", "SNS and SQS"):
        session = session or boto3.Session(region_name=region_name)
        sns, sqs, sts = (
            _build(session, service, region_name, endpoint_url, merged) for service in ("sns", "sqs", "sts")
        )
        region = sqs.meta.region_name
        clients = Clients(sns, sqs, sts, region, session.get_partition_for_region(region))
    sns.meta.events.register("before-call.sns.PublishBatch", encode_body_once)
    sns.meta.events.register("before-parse.sns", check_answer_is_whole)
    sqs.meta.events.register("before-parse.sqs", check_answer_is_whole)
    sqs.meta.events.register("before-parse.sqs", read_received)
    return clients


def default_config() -> Config:
    """Return the client configuration that melange starts from."""
    return Config(
        connect_timeout=5,
        read_timeout=MAX_WAIT_SECONDS + 10,
        max_pool_connections=50,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": 4},
        # What is sent was checked by melange before, against stricter rules than botocore's.
        parameter_validation=False,
        # Without this botocore builds the same User-Agent anew for each request.
        user_agent=f"melange Boto3/{boto3.__version__} Botocore/{botocore.__version__}",
    )


def encode_body_once(params: dict[str, Any], **_: Any) -> None:
    """Write the form of a ``PublishBatch`` as bytes, before botocore does so twice.

    botocore encodes it once to sign it and once to send it, and quotes each of the many repeated names
    each time: half of the call's CPU time.
    """
    form = params["body"]
    if isinstance(form, dict):
        quoted = {value: quote_plus(value) for value in set(form.values())}
        params["body"] = "&".join([f"{name}={quoted[value]}" for name, value in form.items()]).encode()


def check_answer_is_whole(response_dict: dict[str, Any], **_: Any) -> None:
    """Refuse an answer that was cut short or is no JSON, which botocore would take for an empty one."""
    body = response_dict["body"]
    expected = response_dict["headers"].get("content-length")
    if expected is not None and int(expected) != len(body):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(expected))
    if response_dict["status_code"] == 200 and body and body[:1] not in (b"{", b"<"):
        raise ValueError("the answer is neither JSON nor XML")


def read_received(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Read the answer to a receive as the JSON that it is, before botocore walks through it field by field.

    The walk is an eighth of a receive of messages with attributes, and changes nothing but binary values, which it
    decodes: where there are some, it is left to do so.
    """
    body = response_dict["body"]
    is_plain = response_dict["status_code"] == 200 and b'"Binary' not in body
    if is_plain and operation_model.name == "ReceiveMessage":
        messages = json.loads(body).get("Messages") or []
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("the answer holds something other than messages")
        customized_response_dict["Messages"] = messages
        response_dict["body"] = b"{}"


def _build(
    session: boto3.Session, service: str, region_name: str | None, endpoint_url: str | None, config: Config
) -> Any:
    make: Any = session.client  # typed for service names that are known when the code is written
    try:
        return make(service, region_name=region_name, endpoint_url=endpoint_url, config=config)
    except BotoCoreError:  # some of which are ValueErrors too
        raise
    except ValueError as error:  # botocore's way of refusing an endpoint that is no URL
        raise ConfigurationError(f"endpoint_url={endpoint_url!r} cannot be used: {error}") from error


Answer = dict[str, Any]

MAX_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


class BrokerCalls:
    """Calls methods of botocore clients. Thread-safe."""

    def __init__(self, clock: Clock, jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._closed = False
        self._wake = threading.Condition()

    def __call__(
        self,
        method: Callable[..., Answer],
        action: str,
        resource: str,
        /,
        *,
        refusal: Refusal = ConfigurationError,
        **parameters: Any,
    ) -> Answer:
        """Return the answer of ``method(**parameters)``; see ``mapped_errors`` for the rest."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.check_open()
            try:
                with mapped_errors(action, resource, refusal):
                    return method(**parameters)
            except DriverConnectionError as error:
                if attempt == MAX_ATTEMPTS or not is_missed_by_botocore(error.__cause__):
                    raise
                self.pause(attempt)
        raise AssertionError("unreachable")

    def pause(self, attempt: int) -> None:
        """Wait before the next attempt: capped exponential backoff with full jitter; ends at ``close()``."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        self.wait(longest * self._jitter())

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or until ``close()``."""
        with self._wake:
            if not self._closed:
                self._clock.wait(self._wake, seconds)

    def check_open(self) -> None:
        """Raise ``DriverClosedError`` after ``close()``."""
        if self._closed:
            raise DriverClosedError

    def close(self) -> bool:
        """Refuse calls from now on; return whether this was the first time."""
        with self._wake:
            first, self._closed = not self._closed, True
            self._wake.notify_all()
        return first
