"""Error answers of SNS and SQS as melange's errors.

The broker's own text is passed on only if it cannot quote a receipt handle or a token: never about signatures, and about
settling only the sentence that names the denied role and action.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from melange.drivers.aws.operations import Entry
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverConnectionError,
    DriverError,
    InvalidMessageError,
    LeaseLostError,
    MelangeError,
    QueueNotFoundError,
    TopicNotFoundError,
)

Refusal = Callable[[str], MelangeError]
"""Creates the error for a refused parameter from the broker's text."""


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


THROTTLING_CODES = _codes(
    "throttling throttled requestthrottled requestlimitexceeded toomanyrequests limitexceeded "
    "bandwidthlimitexceeded slowdown kmsthrottled kmsthrottling concurrentaccess"
)
BUSY_CODES = THROTTLING_CODES | _codes(
    "internalerror internalfailure servererror serviceunavailable requesttimeout priorrequestnotcomplete "
    "overlimit purgequeueinprogress queuedeletedrecently"
)
NOT_FOUND_CODES = _codes("nonexistentqueue queuedoesnotexist notfound resourcenotfound")
CLOCK_CODES = _codes("requestexpired requesttimetooskewed")
SIGNATURE_CODES = _codes("incompletesignature invalidsignature signaturedoesnotmatch")
CREDENTIAL_CODES = SIGNATURE_CODES | _codes(
    "authfailure expiredtoken invalidaccesskeyid invalidclienttokenid invalidtoken missingauthenticationtoken "
    "unrecognizedclient"
)
DENIED_CODES = _codes(
    "accessdenied authorizationerror invalidsecurity kmsaccessdenied kmsoptinrequired notauthorized optinrequired "
    "unauthorizedoperation"
)
REFUSED_CODES = _codes(
    "batchrequesttoolong filterpolicylimitexceeded invalidaddress invalidattributename invalidattributevalue "
    "invalidmessagecontents invalidparameter invalidparametercombination invalidparametervalue malformedinput "
    "missingparameter missingrequiredparameter parametervalueinvalid queuealreadyexists queuenameexists "
    "serialization unsupportedoperation validation validationerror"
)
LEASE_LOST_CODES = _codes("receipthandleisinvalid messagenotinflight invalidparametervalue invalidparameter")


_SETTLING = frozenset({"sqs:DeleteMessage", "sqs:ChangeMessageVisibility"})
"""Calls with receipt handles as parameters, which AWS quotes."""

_UNAVAILABLE = frozenset({408, 429, 500, 502, 503, 504})
_SKEW_SECONDS = 240
_EXPIRED_SIGNATURE = re.compile(r"signature (?:expired|not yet current)", re.IGNORECASE)


_TOKEN = re.compile("AQEB|IQoJ|FwoG")
"""How receipt handles and session tokens begin."""

_LONGEST_WORD = 64
_LONGEST_TEXT = 600


def error_for_answer(
    response: Mapping[str, Any],
    action: str,
    resource: str,
    refusal: Refusal = ConfigurationError,
    parameters: Mapping[str, Any] | None = None,
) -> MelangeError:
    """Return the error for an error answer."""
    known = known_codes(response)
    details = response.get("Error", {})
    text = str(details.get("Message") or "")
    code = str(details.get("Code") or _status(response))
    if _clock_is_wrong(known, text, response):
        return DriverConnectionError(
            f"{action} on {resource!r} was refused ({code}), because this machine's clock differs from AWS's by "
            "minutes: set it (NTP); the credentials may well be right"
        )
    if action in _SETTLING:
        text = denial_in(text)
    return _error_for_codes(known, code, without_secrets(text, parameters), action, resource, refusal=refusal)


def error_for_entry(entry: Entry, action: str, resource: str) -> MelangeError:
    """Return the error for a message or delivery under ``Failed`` of a batch."""
    code, text = str(entry.get("Code", "")), str(entry.get("Message") or "")
    refusal: Refusal = InvalidMessageError
    if action in _SETTLING:
        if normalized(code) in LEASE_LOST_CODES:
            return lease_lost(resource)
        text = denial_in(text)
        refusal = ConfigurationError
    return _error_for_codes(
        {normalized(code)}, code, without_secrets(text), action, resource, refusal=refusal
    )


def is_transient(entry: Entry) -> bool:
    """Return True if a batch entry under ``Failed`` may succeed when it is sent again."""
    return not entry.get("SenderFault") or normalized(str(entry.get("Code", ""))) in THROTTLING_CODES


def lease_lost(queue_name: str) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of a delivery of queue {queue_name!r} is lost: its visibility timeout expired or its receipt "
        "handle is stale, and another receiver may have the message by now"
    )


def known_codes(response: Mapping[str, Any]) -> set[str]:
    """Return all codes of an error answer, normalized."""
    details = response.get("Error", {})
    # SQS answers with the code of its old protocol and, beside it, the name that its model uses.
    codes = {normalized(str(details.get(name) or "")) for name in ("Code", "QueryErrorCode")}
    status = _status(response)
    if (
        status in _UNAVAILABLE or 300 <= status < 400
    ):  # AWS does not redirect: that is a proxy or a captive portal
        codes.add("serviceunavailable")  # with any code
    return codes


def normalized(code: str) -> str:
    """Return an error code without the spelling differences between protocols and services."""
    code = code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")
    return code.lower().removesuffix("exception").replace(".", "")


def _error_for_codes(
    known: set[str], code: str, text: str, action: str, resource: str, *, refusal: Refusal
) -> MelangeError:
    where = f"{action} on {resource!r}"
    if known & NOT_FOUND_CODES:
        return _not_found(action, resource)
    if known & CREDENTIAL_CODES:
        return bad_credentials(code)
    if known & DENIED_CODES:
        return AccessDeniedError(
            f"the credentials in use may not {action} on {resource!r} ({code}){said(text)}: allow it in their IAM "
            "policy, in the policy of the resource and, where it is encrypted, in its key's policy"
        )
    if known & BUSY_CODES:
        return DriverConnectionError(f"{where} was turned away for now ({code}){said(text)}")
    if known & REFUSED_CODES:
        return refusal(f"{where} was refused ({code}){said(text)}")
    return DriverError(f"{where} failed ({code}){said(text)}")


def said(text: str) -> str:
    """Return the text as the end of a sentence."""
    return f": {text}" if text else ""


NOT_THERE = "; a consumer declares it, or create it first, in this account and region"
"""What to do about a topic or queue that does not exist."""


def _not_found(action: str, resource: str) -> MelangeError:
    if action.startswith("kms:"):
        return DriverError(f"there is no key {resource} in this account and region")
    if action.startswith("sns:"):
        return TopicNotFoundError(resource, NOT_THERE)
    return QueueNotFoundError(resource, NOT_THERE)


def bad_credentials(reason: str) -> AccessDeniedError:
    """Return the error for credentials that cannot be used."""
    return AccessDeniedError(
        f"AWS credentials are missing, expired or wrong ({reason}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run where a role gives credentials"
    )


def denial_in(text: str) -> str:
    """Return the sentence that names the denied role, the action and the policy; "" where there is none."""
    start = text.find("User: arn:")
    return text[start:] if start >= 0 and "is not authorized to perform" in text else ""


def without_secrets(text: str, parameters: Mapping[str, Any] | None = None) -> str:
    """Return the text on one line, shortened, without what may be a receipt handle or a token."""
    if quotes_handles(text, parameters or {}):
        return ""
    words = ["..." if _is_secret(word) else word for word in text[: 10 * _LONGEST_TEXT].split()]
    line = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return line[:_LONGEST_TEXT]


def quotes_handles(text: str, parameters: Mapping[str, Any]) -> bool:
    """Return True if the text quotes a receipt handle of the call's parameters."""
    handles = [entry.get("ReceiptHandle") for entry in parameters.get("Entries", ())]
    return any(handle in text for handle in handles if handle)


def holds_token(text: str) -> bool:
    """Return True if a word of the text may be a receipt handle or a token."""
    return any(map(_is_secret, text.split()))


def _is_secret(word: str) -> bool:
    is_long = len(word) > _LONGEST_WORD and not word.lstrip("\"'([").startswith("arn:")
    return is_long or _TOKEN.search(word) is not None


def _clock_is_wrong(known: set[str], text: str, response: Mapping[str, Any]) -> bool:
    """Return True if the request was refused for its time: by a code, by the text, or by AWS's own time."""
    if known & CLOCK_CODES:
        return True
    if not known & SIGNATURE_CODES:
        return False
    return bool(_EXPIRED_SIGNATURE.search(text)) or _skew_seconds(response) > _SKEW_SECONDS


def _skew_seconds(response: Mapping[str, Any]) -> float:
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return abs(time.time() - email.utils.parsedate_to_datetime(date).timestamp()) if date else 0.0
    except ValueError:
        return 0.0


def _status(response: Mapping[str, Any]) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
