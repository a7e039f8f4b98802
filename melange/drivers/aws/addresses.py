"""ARNs and queue URLs, read and written without AWS calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from melange.drivers.sqs_rules import check_queue_name
from melange.errors import ConfigurationError

_ACCOUNT = re.compile(r"\d{12}")

_AWS_HOST = re.compile(
    r"(?:.+\.)?(?:(?P<global>amazonaws\.com|api\.aws)|(?P<china>amazonaws\.com\.cn|api\.amazonwebservices\.com\.cn))"
)
_REGION_IN_HOST = re.compile(
    r"(?:.+\.)?(?:sqs(?:-fips)?\.(?P<after>[a-z]{2}(?:-[a-z]+)+-\d+)|(?P<before>[a-z]{2}(?:-[a-z]+)+-\d+)\.queue)\..+"
)


@dataclass(frozen=True, slots=True)
class Arn:
    """``arn:partition:service:region:account:name`` of a topic or a queue."""

    partition: str
    service: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.name}"


class QueuePlace(NamedTuple):
    """The name and account of a queue; ``account`` is None for the caller's own."""

    name: str
    account: str | None


def is_arn(name: object) -> bool:
    """Return True if ``name`` looks like an ARN: plain names have no colon."""
    return isinstance(name, str) and name.startswith("arn:")


def parse_arn(text: str, service: str) -> Arn:
    """Return the parts of the ARN of a topic (``service="sns"``) or a queue (``"sqs"``).

    Raises:
        ConfigurationError: it is not an ARN of this service.
    """
    parts = text.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != service or not all(parts):
        raise ConfigurationError(
            f"{text!r} is not the ARN of a {'topic' if service == 'sns' else 'queue'}; one looks like "
            f"arn:aws:{service}:eu-west-1:123456789012:name"
        )
    return Arn(*parts[1:])


def arn_in_region(text: str, service: str, region: str) -> Arn:
    """Return the parts of an ARN that a driver for ``region`` can use.

    Raises:
        ConfigurationError: it is not an ARN of the service, or of another region.
    """
    arn = parse_arn(text, service)
    _check_region(text, arn.region, region)
    return arn


def queue_place(name: str, region: str) -> QueuePlace:
    """Return the location of a queue from its name, ARN or URL.

    Raises:
        ConfigurationError: it is none of these, or of another region.
    """
    if is_arn(name):
        arn = arn_in_region(name, "sqs", region)
        return QueuePlace(arn.name, arn.account)
    if not is_queue_url(name):
        check_queue_name(name)
        return QueuePlace(name, None)
    url = urlsplit(name)
    in_host = _REGION_IN_HOST.fullmatch(url.hostname or "")
    if in_host:
        _check_region(name, in_host["after"] or in_host["before"], region)
    segments = [segment for segment in url.path.split("/") if segment]
    if len(segments) < 2:
        raise ConfigurationError(
            f"{name!r} is not the URL of a queue; one looks like "
            "https://sqs.eu-west-1.amazonaws.com/123456789012/name"
        )
    account, plain_name = segments[-2:]
    check_queue_name(plain_name)
    return QueuePlace(plain_name, account if _ACCOUNT.fullmatch(account) else None)


def is_queue_url(name: object) -> bool:
    """Return True if ``name`` looks like the URL of a queue."""
    return isinstance(name, str) and name.startswith(("https://", "http://"))


def queue_address(url: str, region: str) -> str:
    """Return the one URL that melange uses for a queue, for any endpoint that returned ``url``.

    SQS returns the host that received the request: a legacy host, a FIPS or dual-stack one, a VPC endpoint. Marks
    of finished work are stored under the address, so it must not depend on the endpoint. SQS reads only the path of
    a URL, so each of its hosts works. Local servers keep theirs, port included.
    """
    parts = urlsplit(url)
    aws = _AWS_HOST.fullmatch(parts.hostname or "")
    if not aws:
        return url
    suffix = "amazonaws.com" if aws["global"] else "amazonaws.com.cn"
    return f"https://sqs.{region}.{suffix}{parts.path}"


def _check_region(name: str, found: str, region: str) -> None:
    if found != region:
        raise ConfigurationError(
            f"{name} is in region {found}, and this driver works in {region}: pass region_name={found!r}"
        )
