"""The boto3 clients of one driver, with settings that are faster and safer than boto3's defaults."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Hashable
from typing import Any
from urllib.parse import quote_plus

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, IncompleteReadError

from melange.drivers.aws.errors import error_for
from melange.drivers.aws.operations import UnreadableAnswer
from melange.drivers.aws.transport import Transport, TransportName
from melange.drivers.sqs_rules import MAX_WAIT_SECONDS
from melange.errors import ConfigurationError, MelangeError

DEFAULT_CALL_TIMEOUT_SECONDS = 15.0
DEFAULT_ATTEMPTS = 4

_CONNECT_SHARE, _READ_SHARE = 0.2, 0.3
"""The share of a call's time: two attempts that hang fit into it."""

_building = threading.Lock()
"""Clients may be shared between threads, the sessions that build them may not."""


def _renew_lock() -> None:
    global _building  # noqa: PLW0603 - the same lock for all, but for one held by a thread that a fork left behind
    _building = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_renew_lock)


class Clients:
    """The clients of one driver, each built when it is first used. Thread-safe, and valid in one process only.

    Raises:
        ConfigurationError: no region, no such profile, an unusable endpoint or configuration.
    """

    def __init__(
        self,
        session: boto3.Session | None,
        region_name: str | None,
        endpoint_url: str | None,
        config: Config | None,
        call_timeout_seconds: float,
        *,
        transport: TransportName = "auto",
    ) -> None:
        self._given_session = session
        self._transport_name: TransportName = transport
        self._endpoint_url = endpoint_url
        settings: Any = default_config().merge(config) if config else default_config()
        self.attempts = _attempts(settings)
        self._config_for_calls = _config_for_calls(settings, call_timeout_seconds)
        self._config_for_polls = _config_for_polls(settings)
        self._session = session or _new_session(region_name)
        self.region_name = region_name or _region_of(self._session, is_given=session is not None)
        self.built: dict[str, Any] = {}
        self.transports: dict[str, Transport] = {}
        """The transport of each client that was used."""
        self.process_id = os.getpid()
        self.transport("sqs")  # so that wrong settings raise when the driver is created

    @property
    def identity(self) -> Hashable:
        """What tells the account, region and endpoint from those of other clients; makes no calls."""
        # Two sessions may have the credentials of two accounts, which only a call could tell.
        return self.region_name, self._endpoint_url, self._given_session

    @property
    def partition(self) -> str:
        """The part of AWS that the region belongs to; ``aws`` for one that botocore does not know."""
        return str(self.build("sns").meta.partition)

    def build(self, name: str) -> Any:
        """Return the client of this name; build it at first use."""
        with _building:
            if name not in self.built:
                self.built[name] = self._make(name)
            return self.built[name]

    def transport(self, name: str) -> Transport:
        """Return the transport of the client of this name; build both at first use."""
        client = self.build(name)
        with _building:
            if name not in self.transports:
                self.transports[name] = Transport(client, self._transport_name)
            return self.transports[name]

    def forget(self) -> None:
        """Let the clients be built again: a client without credentials never looks for them again."""
        self.built, self.transports = {}, {}

    def start_in_this_process(self) -> None:
        """Drop the clients of another process. Their connections belong to that process, and stay open there."""
        with _building:
            if self.process_id == os.getpid():
                return
            self.built, self.transports = {}, {}
            if self._given_session is None:
                self._session = _new_session(self.region_name)
            self.process_id = os.getpid()

    def close(self) -> None:
        """Close the idle connections; calls that run keep theirs until they end."""
        if self.process_id == os.getpid():
            for transport in list(self.transports.values()):
                transport.close()

    def _make(self, name: str) -> Any:
        service = "sqs" if name == "polling" else name
        make: Any = self._session.client  # typed for service names that are known when the code is written
        try:
            client = make(
                service,
                region_name=self.region_name,
                endpoint_url=self._endpoint_url,
                config=self._config_for_polls if name == "polling" else self._config_for_calls,
            )
        except Exception as error:
            raise _error_for_building(error, self._endpoint_url) from error
        client.meta.events.register("before-call.sns.PublishBatch", encode_body_once)
        client.meta.events.register(f"before-parse.{service}", check_answer)
        return client


def default_config() -> Config:
    """Return the client configuration that melange starts from."""
    return Config(
        connect_timeout=5,
        read_timeout=MAX_WAIT_SECONDS + 10,
        max_pool_connections=50,
        tcp_keepalive=True,
        # melange has checked the parameters already, against stricter rules than botocore's.
        parameter_validation=False,
        # Without this botocore builds the same User-Agent for each request. It adds its own name.
        user_agent=f"melange Boto3/{boto3.__version__}",
    )


def _attempts(settings: Any) -> int:
    retries = settings.retries or {}
    attempts = retries.get("total_max_attempts") or retries.get("max_attempts", DEFAULT_ATTEMPTS - 1) + 1
    return int(attempts)


def _config_for_calls(settings: Any, call_timeout_seconds: float) -> Config:
    connect = call_timeout_seconds * _CONNECT_SHARE
    read = call_timeout_seconds * _READ_SHARE
    return _one_attempt(
        settings, min(settings.connect_timeout or connect, connect), min(settings.read_timeout or read, read)
    )


def _config_for_polls(settings: Any) -> Config:
    read = settings.read_timeout
    if read is not None and read <= MAX_WAIT_SECONDS:
        read = MAX_WAIT_SECONDS + 10
    return _one_attempt(settings, settings.connect_timeout, read)


def _one_attempt(settings: Any, connect_timeout: float | None, read_timeout: float | None) -> Config:
    # Attempts are counted and timed by ``BrokerCalls``: botocore's own retries have no total time limit.
    retries = {**(settings.retries or {"mode": "standard"}), "total_max_attempts": 1}
    retries.pop("max_attempts", None)
    merged: Config = settings.merge(
        Config(connect_timeout=connect_timeout, read_timeout=read_timeout, retries=retries)  # type: ignore[arg-type]
    )
    return merged


def _new_session(region_name: str | None) -> boto3.Session:
    try:
        return boto3.Session(region_name=region_name)
    except Exception as error:
        raise _error_for_building(error, None) from error


def _region_of(session: boto3.Session, *, is_given: bool) -> str:
    # As the AWS command line does, and boto3 does not: AWS_REGION wins over AWS_DEFAULT_REGION and the profile.
    from_environment = None if is_given and session.region_name else os.environ.get("AWS_REGION")
    region = from_environment or session.region_name
    if not region:
        raise ConfigurationError("no AWS region is set: set AWS_REGION, or pass region_name= to the driver")
    return region


def _error_for_building(error: Exception, endpoint_url: str | None) -> MelangeError:
    mapped = error_for(error, "building the boto3 clients", "SNS and SQS")
    if mapped is not None:
        return mapped
    if isinstance(error, ValueError) and not isinstance(error, BotoCoreError):
        # The endpoint is not a URL.
        return ConfigurationError(f"endpoint_url={endpoint_url!r} cannot be used: {error}")
    return ConfigurationError(f"the boto3 clients could not be built ({type(error).__name__}): {error}")


def encode_body_once(params: dict[str, Any], **_: Any) -> None:
    """Write the form of a ``PublishBatch`` as bytes, before botocore does so twice.

    botocore encodes it once to sign it and once to send it, and quotes each of the many repeated names
    each time: half of the call's CPU time.
    """
    form = params["body"]
    if isinstance(form, dict):
        quoted = {value: quote_plus(value) for value in set(form.values())}
        params["body"] = "&".join([f"{name}={quoted[value]}" for name, value in form.items()]).encode()


def check_answer(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Refuse a truncated or garbled answer, which botocore would take for an empty one; read JSON.

    botocore visits JSON field by field, which takes an eighth of a receive of messages with attributes. It only
    changes binary values. With those, and in other protocols, botocore does the work.
    """
    body = response_dict["body"]
    expected = response_dict["headers"].get("content-length") or ""
    if expected.isdecimal() and int(expected) != len(body):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(expected))
    if response_dict["status_code"] != 200 or not body:
        return
    service = operation_model.service_model
    # botocore 1.35 does not have ``resolved_protocol`` yet.
    protocol = getattr(service, "resolved_protocol", service.protocol)
    if protocol == "query" and body[:16].lstrip()[:1] != b"<":
        raise UnreadableAnswer("it is not XML")
    if protocol == "json":
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UnreadableAnswer("it is not JSON") from error
        if not isinstance(answer, dict):
            raise UnreadableAnswer("it is not a JSON object")
        if b'"BinaryValue"' not in body:
            customized_response_dict.update(answer)
            response_dict["body"] = b"{}"
