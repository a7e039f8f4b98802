"""The sender of a request: that it is not the page of another site, and the account that its signature names and proves."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from melange.server.calls import DEFAULT_ACCOUNT, DEFAULT_REGION, Caller
from melange.server.control import CONSOLE_PREFIX
from melange.server.errors import ServiceError
from melange.server.http import Request

_ALGORITHM = "AWS4-HMAC-SHA256"
_ACCOUNT = re.compile(r"[0-9]{12}")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_CREDENTIAL = re.compile(r"Credential=([^,\s]{0,1000})")
_MAX_SKEW_SECONDS = 900

_MAX_HOST_CHARACTERS = 270
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


# --- pages of other sites ------------------------------------------------------------------------------


def refusal_of(request: Request, allowed_hosts: frozenset[str]) -> str:
    """Return why a web page may have sent this request without its user's knowledge; "" if it has not. See decision 0263.

    A page of another site can send requests to a loopback address. Either its browser says from where, or the page
    has had its own name point here, and then ``Host`` is that name.
    """
    host = request.headers.get("host", "localhost")
    if len(host) > _MAX_HOST_CHARACTERS or not _is_own_host(host, allowed_hosts):
        return f"{host!r} is not a name of this server: start it with --allowed-host to allow that name"
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return "requests from the pages of another origin are refused"
    is_own = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    if not is_own and not _follows_link_to_console(request):
        return "requests from the pages of another site are refused"
    return ""


def _follows_link_to_console(request: Request) -> bool:
    # Looking at the console changes nothing, and the page with the link cannot read what the user sees.
    return (
        request.method == "GET"
        and (request.target == "/" or request.target.startswith(CONSOLE_PREFIX))
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )


@lru_cache(maxsize=1_024)
def _is_own_host(host: str, allowed_hosts: frozenset[str]) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().strip("[]")
    if name in allowed_hosts or "." not in name:
        return True  # without a dot it is a name of a private network, such as a container's
    if name.endswith((".localhost", ".docker.internal", ".local")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- signatures ----------------------------------------------------------------------------------------


class _Signature(NamedTuple):
    credential: str
    signed_headers: str
    signature: str
    timestamp: str


class Key(NamedTuple):
    """An access key that may sign."""

    secret: str
    account: str = DEFAULT_ACCOUNT


def identify(request: Request) -> Caller:
    """Return the caller that the request names. Nothing is verified.

    An access key id of twelve digits is the account itself, so that each developer or test can have one.
    """
    user_agent = request.headers.get("user-agent", "")
    header = request.headers.get("authorization", "")
    if header.startswith(_ALGORITHM):
        if "SignedHeaders=" not in header or "Signature=" not in header:
            raise _incomplete()
        found = _CREDENTIAL.search(header)
        if found is None:
            raise _incomplete()
        return _caller_of(found[1], user_agent)
    signature = _signature_of(request)
    return _caller_of(None if signature is None else signature.credential, user_agent)


@lru_cache(maxsize=1_024)
def _caller_of(credential: str | None, user_agent: str) -> Caller:
    """Return the caller of a credential scope, which is the same for each request of a client on one day."""
    if credential is None:
        return Caller(user_agent=user_agent)
    access_key_id, *scope = credential.split("/")
    region = scope[1] if len(scope) > 2 and _REGION.fullmatch(scope[1]) else DEFAULT_REGION
    account = access_key_id if _ACCOUNT.fullmatch(access_key_id) else DEFAULT_ACCOUNT
    return Caller(access_key_id, account, region, scope[2] if len(scope) > 2 else "", user_agent)


def verify(request: Request, keys: Mapping[str, Key], now: datetime) -> Caller:
    """Return the caller of a request that one of ``keys`` has signed.

    Raises:
        ServiceError: the signature is missing, wrong, too old, or of an unknown key.
    """
    signature = _signature_of(request)
    if signature is None:
        raise ServiceError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    caller = identify(request)
    key = keys.get(caller.access_key_id)
    if key is None:
        raise ServiceError(
            "InvalidClientTokenId", "The security token included in the request is invalid.", 403
        )
    _check_age(signature.timestamp, now)
    expected = sign(request, signature, key.secret)
    if not hmac.compare_digest(expected, signature.signature.encode()):
        raise ServiceError(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method.",
            403,
        )
    return caller._replace(account=key.account)


def sign(request: Request, signature: _Signature, secret: str) -> bytes:
    """Return the signature that the request should have, as Signature Version 4 says.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
    """
    _, date, region, service, *_ = [*signature.credential.split("/"), "", "", "", ""]
    scope = signature.credential.partition("/")[2]
    to_sign = "\n".join(
        [
            _ALGORITHM,
            signature.timestamp,
            scope,
            hashlib.sha256(_canonical(request, signature)).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request", to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex().encode()


def _canonical(request: Request, signature: _Signature) -> bytes:
    url = urlsplit(request.target)
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(url.query, keep_blank_values=True)
        if name != "X-Amz-Signature"
    )
    names = signature.signed_headers.split(";")
    headers = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names]
    return "\n".join(
        [
            request.method,
            quote(url.path or "/", safe="/-_.~"),  # encoded a second time, as services other than S3 want it
            "&".join(f"{name}={value}" for name, value in pairs),
            "".join(headers),
            signature.signed_headers,
            hashlib.sha256(request.body).hexdigest(),
        ]
    ).encode()


def _signature_of(request: Request) -> _Signature | None:
    header = request.headers.get("authorization", "")
    if header.startswith(_ALGORITHM):
        parts = dict(part.strip().partition("=")[::2] for part in header.removeprefix(_ALGORITHM).split(","))
        if not {"Credential", "SignedHeaders", "Signature"} <= parts.keys():
            raise _incomplete()
        timestamp = request.headers.get("x-amz-date", "")
        return _Signature(parts["Credential"], parts["SignedHeaders"], parts["Signature"], timestamp)
    if "X-Amz-Credential=" in request.target:
        query = dict(parse_qsl(urlsplit(request.target).query))
        names = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Date")
        credential, signed_headers, digest, timestamp = (query.get(name, "") for name in names)
        return _Signature(credential, signed_headers, digest, timestamp)
    return None


def _incomplete() -> ServiceError:
    return ServiceError(
        "IncompleteSignature",
        "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.",
    )


def _check_age(timestamp: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ServiceError("IncompleteSignature", "The request has no valid X-Amz-Date.") from None
    if abs((now - signed_at).total_seconds()) > _MAX_SKEW_SECONDS:
        raise ServiceError("SignatureDoesNotMatch", f"Signature expired: {timestamp}", 403)
