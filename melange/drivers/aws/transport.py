"""The way a call takes: through a boto3 client, or directly."""

from __future__ import annotations

import logging
import select
from typing import Any, Literal

from botocore.exceptions import BotoCoreError

from melange.drivers.aws.direct.client import DirectClient
from melange.drivers.aws.direct.hooks import Hooks
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
        direct = self._direct
        if direct is None or operation.method not in DIRECT_REQUESTS:
            return self._through_botocore(operation, parameters)
        if self._hooks is not None:
            hook = self._hooks.find(DIRECT_REQUESTS[operation.method].operation)
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
            self._direct = DirectClient(self._client)
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
