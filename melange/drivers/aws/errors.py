"""Maps exceptions of botocore, and error answers of SNS and SQS, to melange's errors. Only this module does that.

An exception is classified by its source: the network, an answer, or the search for credentials. An exception from none
of these is a mistake in code, ours or the caller's, and is never reported as an outage.

The broker's own text is passed on only if it cannot quote a receipt handle or a token: never about signatures, and about
settling only the sentence that names the denied role and action.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from melange.drivers.aws.operations import Entry, UnreadableAnswer
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

INVALID_HEADER = "Invalid header value"
"""How the errors of ``http.client`` begin about a header; they go on with its value."""


def _classes(names: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names that the installed botocore has."""
    return tuple(getattr(boto, name) for name in names.split() if hasattr(boto, name))


CONNECTION_ERRORS = _classes(
    "ConnectionError HTTPClientError IncompleteReadError ChecksumError FlexibleChecksumError "
    "AwsChunkedWrapperError UnseekableStreamError MetadataRetrievalError CapacityNotAvailableError"
)
SETUP_ERRORS = _classes(
    "BaseEndpointResolverError EndpointProviderError InvalidRegionError ServiceNotInRegionError UnknownRegionError "
    "ProfileNotFound ConfigNotFound ConfigParseError InvalidConfigError InvalidRetryConfigurationError "
    "InvalidProxiesConfigError InvalidDefaultsMode InvalidEndpointConfigurationError "
    "InvalidEndpointDiscoveryConfigurationError InvalidIMDSEndpointError InvalidIMDSEndpointModeError "
    "InvalidSTSRegionalEndpointsConfigError InvalidChecksumConfigError MissingDependencyException "
    "UnknownSignatureVersionError UnsupportedSignatureVersionError UnsupportedServiceProtocolsError "
    "DataNotFoundError ApiVersionNotFoundError"
)
CREDENTIAL_ERRORS = _classes(
    "NoCredentialsError PartialCredentialsError CredentialRetrievalError UnknownCredentialError NoAuthTokenError "
    "TokenRetrievalError UnknownTokenProviderError RefreshWithMFAUnsupportedError SSOError LoginError"
)


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


_THROTTLING_CODES = _codes(
    "throttling throttled requestthrottled requestlimitexceeded toomanyrequests limitexceeded "
    "bandwidthlimitexceeded slowdown kmsthrottled kmsthrottling concurrentaccess"
)
_BUSY_CODES = _THROTTLING_CODES | _codes(
    "internalerror internalfailure servererror serviceunavailable requesttimeout priorrequestnotcomplete "
    "overlimit purgequeueinprogress queuedeletedrecently"
)
_NOT_FOUND_CODES = _codes("nonexistentqueue queuedoesnotexist notfound resourcenotfound")
_CLOCK_CODES = _codes("requestexpired requesttimetooskewed")
_SIGNATURE_CODES = _codes("incompletesignature invalidsignature signaturedoesnotmatch")
_CREDENTIAL_CODES = _SIGNATURE_CODES | _codes(
    "authfailure expiredtoken invalidaccesskeyid invalidclienttokenid invalidtoken missingauthenticationtoken "
    "unrecognizedclient"
)
_DENIED_CODES = _codes(
    "accessdenied authorizationerror invalidsecurity kmsaccessdenied kmsoptinrequired notauthorized optinrequired "
    "unauthorizedoperation"
)
_REFUSED_CODES = _codes(
    "batchrequesttoolong filterpolicylimitexceeded invalidaddress invalidattributename invalidattributevalue "
    "invalidmessagecontents invalidparameter invalidparametercombination invalidparametervalue malformedinput "
    "missingparameter missingrequiredparameter parametervalueinvalid queuealreadyexists queuenameexists "
    "serialization unsupportedoperation validation validationerror"
)
_LEASE_LOST_CODES = _codes("receipthandleisinvalid messagenotinflight invalidparametervalue invalidparameter")

_FINDING_CREDENTIALS = frozenset({"botocore.credentials", "botocore.tokens", "botocore.signers"})
_READING_ANSWERS = frozenset({"botocore.parsers"})
"""Modules: an exception raised below one of them has this cause."""

_SETTLING = frozenset({"sqs:DeleteMessage", "sqs:ChangeMessageVisibility"})
"""Calls with receipt handles as parameters, which AWS quotes."""

_UNAVAILABLE = frozenset({408, 429, 500, 502, 503, 504})
_SKEW_SECONDS = 240
_EXPIRED_SIGNATURE = re.compile(r"signature (?:expired|not yet current)", re.IGNORECASE)


_TOKEN = re.compile("AQEB|IQoJ|FwoG")
"""How receipt handles and session tokens begin."""

_LONGEST_WORD = 64
_LONGEST_TEXT = 600


def error_for(
    error: Exception,
    action: str,
    resource: str,
    refusal: Refusal = ConfigurationError,
    parameters: Mapping[str, Any] | None = None,
) -> MelangeError | None:
    """Return ``error`` as a ``MelangeError``, or None if it is a mistake in code.

    ``action`` is the permission that the call needs (``sqs:ReceiveMessage``), ``resource`` the name of the queue or
    topic, ``refusal`` creates the error for a refused parameter, and ``parameters`` are those of the call, to keep
    secrets out.
    """
    if isinstance(error, MelangeError):
        return error
    if isinstance(error, CREDENTIAL_ERRORS) or _was_raised_in(error, _FINDING_CREDENTIALS):
        return _credentials_not_found(error, action, resource)
    if _quotes_header(error):
        return _bad_credentials(
            "a header cannot hold a line break: look at the end of the key and of the token"
        )
    if isinstance(error, boto.ClientError):
        return _error_for_answer(error.response, action, resource, refusal, parameters)
    if isinstance(error, UnreadableAnswer) or _was_raised_in(error, _READING_ANSWERS):
        # botocore quotes the answer, which may contain messages.
        why = str(error) if isinstance(error, UnreadableAnswer) else type(error).__name__
        return DriverConnectionError(f"the answer to {action} on {resource!r} could not be read: {why}")
    return _error_for_botocore(error, action, resource) if isinstance(error, boto.BotoCoreError) else None


def keeps_its_cause(error: Exception, parameters: Mapping[str, Any]) -> bool:
    """Return False if the text of ``error`` quotes secrets: signed headers, handles, messages."""
    if isinstance(error, boto.ClientError):
        text = str(error.response.get("Error", {}).get("Message") or "")
        is_clean = not _holds_token(text) and not _quotes_handles(text, parameters)
        return is_clean and not _known_codes(error.response) & _SIGNATURE_CODES
    return not isinstance(error, ResponseParserError) and not _quotes_header(error)


def _quotes_header(error: Exception) -> bool:
    return isinstance(error, boto.HTTPClientError) and INVALID_HEADER in str(error)


def _error_for_botocore(error: boto.BotoCoreError, action: str, resource: str) -> MelangeError:
    if isinstance(error, CONNECTION_ERRORS):
        return DriverConnectionError(f"{action} on {resource!r} got no answer from the broker: {error}")
    if isinstance(error, SETUP_ERRORS):
        return ConfigurationError(
            f"boto3 cannot be used as it is set up ({type(error).__name__}): {error}. Check the region "
            "(region_name= or AWS_REGION), the profile and config="
        )
    return DriverError(f"{action} on {resource!r} failed in botocore ({type(error).__name__})")


def _credentials_not_found(error: Exception, action: str, resource: str) -> MelangeError:
    if isinstance(error, CONNECTION_ERRORS):
        return DriverConnectionError(
            f"{action} on {resource!r} was not tried: the provider of the credentials did not answer: {error}"
        )
    if isinstance(error, boto.ClientError):  # for example of a role to be assumed
        found = _error_for_answer(error.response, "obtain credentials", "its provider")
        if isinstance(found, DriverConnectionError):
            return found
        return _bad_credentials(f"{type(error).__name__}{_said(_denial_in(_without_secrets(str(error))))}")
    text = str(error) if isinstance(error, OSError) else ""
    return _bad_credentials(f"{type(error).__name__}{_said(text)}")


def _was_raised_in(error: Exception, modules: frozenset[str]) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") in modules:
            return True
        traceback = traceback.tb_next
    return False


def _error_for_answer(
    response: Mapping[str, Any],
    action: str,
    resource: str,
    refusal: Refusal = ConfigurationError,
    parameters: Mapping[str, Any] | None = None,
) -> MelangeError:
    """Return the error for an error answer."""
    known = _known_codes(response)
    details = response.get("Error", {})
    text = str(details.get("Message") or "")
    code = str(details.get("Code") or _status(response))
    if _clock_is_wrong(known, text, response):
        return DriverConnectionError(
            f"{action} on {resource!r} was refused ({code}), because this machine's clock differs from AWS's by "
            "minutes: set it (NTP); the credentials may well be right"
        )
    if action in _SETTLING:
        text = _denial_in(text)
    return _error_for_codes(
        known, code, _without_secrets(text, parameters), action, resource, refusal=refusal
    )


def error_for_entry(entry: Entry, action: str, resource: str) -> MelangeError:
    """Return the error for a message or delivery under ``Failed`` of a batch."""
    code, text = str(entry.get("Code", "")), str(entry.get("Message") or "")
    refusal: Refusal = InvalidMessageError
    if action in _SETTLING:
        if normalized(code) in _LEASE_LOST_CODES:
            return lease_lost(resource)
        text = _denial_in(text)
        refusal = ConfigurationError
    return _error_for_codes(
        {normalized(code)}, code, _without_secrets(text), action, resource, refusal=refusal
    )


def is_transient(entry: Entry) -> bool:
    """Return True if a batch entry under ``Failed`` may succeed when it is sent again."""
    return not entry.get("SenderFault") or normalized(str(entry.get("Code", ""))) in _THROTTLING_CODES


def lease_lost(queue_name: str) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of a delivery of queue {queue_name!r} is lost: its visibility timeout expired or its receipt "
        "handle is stale, and another receiver may have the message by now"
    )


def _known_codes(response: Mapping[str, Any]) -> set[str]:
    """Return all codes of an error answer, normalized."""
    details = response.get("Error", {})
    # SQS answers with the code of its old protocol and, beside it, the name that its model uses.
    codes = {normalized(str(details.get(name) or "")) for name in ("Code", "QueryErrorCode")}
    status = _status(response)
    # AWS does not redirect: that is a proxy or a captive portal.
    if status in _UNAVAILABLE or 300 <= status < 400:
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
    if known & _NOT_FOUND_CODES:
        return _not_found(action, resource)
    if known & _CREDENTIAL_CODES:
        return _bad_credentials(code)
    if known & _DENIED_CODES:
        return AccessDeniedError(
            f"the credentials in use may not {action} on {resource!r} ({code}){_said(text)}: allow it in their IAM "
            "policy, in the policy of the resource and, where it is encrypted, in its key's policy"
        )
    if known & _BUSY_CODES:
        return DriverConnectionError(f"{where} was turned away for now ({code}){_said(text)}")
    if known & _REFUSED_CODES:
        return refusal(f"{where} was refused ({code}){_said(text)}")
    return DriverError(f"{where} failed ({code}){_said(text)}")


def _said(text: str) -> str:
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


def _bad_credentials(reason: str) -> AccessDeniedError:
    """Return the error for credentials that cannot be used."""
    return AccessDeniedError(
        f"AWS credentials are missing, expired or wrong ({reason}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or run where a role gives credentials"
    )


def _denial_in(text: str) -> str:
    """Return the sentence that names the denied role, the action and the policy; "" where there is none."""
    start = text.find("User: arn:")
    return text[start:] if start >= 0 and "is not authorized to perform" in text else ""


def _without_secrets(text: str, parameters: Mapping[str, Any] | None = None) -> str:
    """Return the text on one line, shortened, without what may be a receipt handle or a token."""
    if _quotes_handles(text, parameters or {}):
        return ""
    words = ["..." if _is_secret(word) else word for word in text[: 10 * _LONGEST_TEXT].split()]
    line = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return line[:_LONGEST_TEXT]


def _quotes_handles(text: str, parameters: Mapping[str, Any]) -> bool:
    """Return True if the text quotes a receipt handle of the call's parameters."""
    handles = [entry.get("ReceiptHandle") for entry in parameters.get("Entries", ())]
    return any(handle in text for handle in handles if handle)


def _holds_token(text: str) -> bool:
    """Return True if a word of the text may be a receipt handle or a token."""
    return any(map(_is_secret, text.split()))


def _is_secret(word: str) -> bool:
    is_long = len(word) > _LONGEST_WORD and not word.lstrip("\"'([").startswith("arn:")
    return is_long or _TOKEN.search(word) is not None


def _clock_is_wrong(known: set[str], text: str, response: Mapping[str, Any]) -> bool:
    """Return True if the request was refused for its time: by a code, by the text, or by AWS's own time."""
    if known & _CLOCK_CODES:
        return True
    if not known & _SIGNATURE_CODES:
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
