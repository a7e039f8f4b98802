"""A call of a client and its caller, as the operations of the services see them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from melange.server.errors import ServiceError

if TYPE_CHECKING:
    from melange.server.broker import Broker

DEFAULT_ACCOUNT = "000000000000"
DEFAULT_REGION = "us-east-1"

Parameters = dict[str, Any]

_PAGE_TOKEN = re.compile(r"[0-9]{1,9}")
"""Tokens of pages are the number of their first item."""


class Caller(NamedTuple):
    """The sender of a request, as its credential scope names it."""

    access_key_id: str = ""
    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION
    service: str = ""
    user_agent: str = ""

    @property
    def user_id(self) -> str:
        """The id that SQS shows as the sender's."""
        return f"AIDA{self.account}USER"


def _is_there() -> bool:
    return True


class Call(NamedTuple):
    """One call: its caller, the address it used, and its parameters.

    ``is_client_there`` says whether the client still waits for the answer.
    """

    broker: Broker
    caller: Caller
    base_url: str
    parameters: Parameters
    is_client_there: Callable[[], bool] = _is_there

    @property
    def region(self) -> str:
        return self.caller.region

    @property
    def account(self) -> str:
        return self.caller.account


Operation = Callable[[Call], Parameters]


def page(items: list[Any], token: str | None, size: int) -> tuple[list[Any], str | None]:
    """Return the items of a page, and the token of the next one or None.

    Raises:
        ServiceError: the token is not one of ours.
    """
    if token and not _PAGE_TOKEN.fullmatch(token):
        raise ServiceError("InvalidParameterValue", "Invalid or expired next token.")
    start = int(token or 0)
    end = start + size
    return items[start:end], str(end) if end < len(items) else None
