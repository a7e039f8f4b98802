"""What botocore raises, and what SNS and SQS answer, as melange's errors. Nothing else maps them.

The broker's own words are passed on only where they cannot quote a receipt handle or a token: what it
says about settling (``Value AQEB... for parameter ReceiptHandle``) and about signatures is left out.
"""

# MERGED DOCS: The error codes of SNS and SQS and the exceptions of botocore, sorted by what they mean to melange.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

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


def _classes(*names: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names, as far as the installed botocore has them."""
    return tuple(getattr(boto, name) for name in names if hasattr(boto, name))


THROTTLING_CODES = frozenset(
    {
        "throttling",
        "throttled",
        "requestthrottled",
        "requestlimitexceeded",
        "toomanyrequests",
        "limitexceeded",
        "bandwidthlimitexceeded",
        "slowdown",
        "kmsthrottled",
        "kmsthrottling",
        "concurrentaccess",
    }
)
BUSY_CODES = frozenset(
    {
        *THROTTLING_CODES,
        "internalerror",
        "internalfailure",
        "servererror",
        "serviceunavailable",
        "requesttimeout",
        "priorrequestnotcomplete",
        "overlimit",
        "purgequeueinprogress",
        "queuedeletedrecently",
    }
)
UNKNOWN_TO_BOTOCORE = frozenset({"kmsthrottled", "kmsthrottling", "concurrentaccess"})
"""Busy codes that botocore's standard retry mode lets through at once (read in botocore 1.44)."""

NOT_FOUND_CODES = frozenset({"nonexistentqueue", "queuedoesnotexist", "notfound", "resourcenotfound"})
CREDENTIAL_CODES = frozenset(
    {
        "authfailure",
        "expiredtoken",
        "incompletesignature",
        "invalidaccesskeyid",
        "invalidclienttokenid",
        "invalidsignature",
        "invalidtoken",
        "missingauthenticationtoken",
        "requestexpired",
        "signaturedoesnotmatch",
        "unrecognizedclient",
    }
)
DENIED_CODES = frozenset(
    {
        "accessdenied",
        "authorizationerror",
        "invalidsecurity",
        "kmsaccessdenied",
        "kmsoptinrequired",
        "notauthorized",
        "optinrequired",
        "unauthorizedoperation",
    }
)
REFUSED_CODES = frozenset(
    {
        "batchrequesttoolong",
        "filterpolicylimitexceeded",
        "invalidaddress",
        "invalidattributename",
        "invalidattributevalue",
        "invalidmessagecontents",
        "invalidparameter",
        "invalidparametercombination",
        "invalidparametervalue",
        "malformedinput",
        "missingparameter",
        "missingrequiredparameter",
        "parametervalueinvalid",
        "queuealreadyexists",
        "queuenameexists",
        "serialization",
        "unsupportedoperation",
        "validation",
        "validationerror",
    }
)
LEASE_LOST_CODES = frozenset(
    {"receipthandleisinvalid", "messagenotinflight", "invalidparametervalue", "invalidparameter"}
)

CONNECTION_ERRORS = _classes(
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ChecksumError",
    "FlexibleChecksumError",
    "AwsChunkedWrapperError",
    "UnseekableStreamError",
    "MetadataRetrievalError",
    "CapacityNotAvailableError",
)
CREDENTIAL_ERRORS = _classes(
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "UnknownCredentialError",
    "NoAuthTokenError",
    "TokenRetrievalError",
    "UnknownTokenProviderError",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "LoginError",
)
REGION_ERRORS = _classes(
    "BaseEndpointResolverError",
    "EndpointProviderError",
    "InvalidRegionError",
    "ServiceNotInRegionError",
    "UnknownRegionError",
)
CONFIGURATION_ERRORS = _classes(
    "ProfileNotFound",
    "ConfigNotFound",
    "ConfigParseError",
    "InvalidConfigError",
    "InvalidRetryConfigurationError",
    "InvalidProxiesConfigError",
    "InvalidDefaultsMode",
    "InvalidEndpointConfigurationError",
    "InvalidEndpointDiscoveryConfigurationError",
    "InvalidIMDSEndpointError",
    "InvalidIMDSEndpointModeError",
    "InvalidSTSRegionalEndpointsConfigError",
    "InvalidChecksumConfigError",
    "MissingDependencyException",
    "UnknownSignatureVersionError",
    "UnsupportedSignatureVersionError",
    "UnsupportedServiceProtocolsError",
    "DataNotFoundError",
    "ApiVersionNotFoundError",
)

UNREADABLE_ANSWER = (ResponseParserError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
"""What botocore's parsers let slip when an answer is cut short or garbled."""

FOREIGN_ERRORS = _classes(
    "AliasConflictParameterError",
    "InvalidDNSNameError",
    "InvalidExpressionError",
    "InvalidHostLabelError",
    "InvalidS3AddressingStyleError",
    "InvalidS3UsEast1RegionalEndpointConfigError",
    "MD5UnavailableError",
    "MissingParametersError",
    "OperationNotPageableError",
    "PaginationError",
    "ParamValidationError",
    "RangeError",
    "StubResponseError",
    "UnknownClientMethodError",
    "UnknownKeyError",
    "UnknownParameterError",
    "UnknownServiceStyle",
    "UnsupportedOutpostResourceError",
    "UnsupportedS3AccesspointConfigurationError",
    "UnsupportedS3ArnError",
    "UnsupportedS3ConfigurationError",
    "UnsupportedS3ControlArnError",
    "UnsupportedS3ControlConfigurationError",
    "WaiterConfigError",
    "WaiterError",
)
"""Of other services, or of a mistake of ours: they become a plain ``DriverError``."""


Refusal = Callable[[str], MelangeError]
"""Makes the error for a parameter that the broker refuses, from the broker's text."""


@contextmanager
def mapped_errors(action: str, resource: str, refusal: Refusal = ConfigurationError) -> Iterator[None]:
    """Turn whatever botocore raises inside into a ``MelangeError``.

    ``action`` is the permission that the call needs (``sqs:ReceiveMessage``), ``resource`` the name of
    the queue or topic, ``refusal`` what a refused parameter means here.
    """
    try:
        yield
    except boto.ClientError as error:
        mapped = error_for_answer(error.response, action, resource, refusal)
        if _code(error.response) == "signaturedoesnotmatch":
            raise mapped from None  # its text quotes the signed headers, session token included
        raise mapped from error
    except boto.BotoCoreError as error:
        raise _error_for_botocore(error, action, resource) from error
    except UNREADABLE_ANSWER as error:
        raise DriverConnectionError(f"the answer to {action} on {resource!r} could not be read") from error


def is_missed_by_botocore(cause: BaseException | None) -> bool:
    """Tell whether ``cause`` is transient and yet something that botocore does not retry by itself."""
    if isinstance(cause, boto.ClientError):
        return _code(cause.response) in UNKNOWN_TO_BOTOCORE
    return isinstance(cause, (boto.IncompleteReadError, *UNREADABLE_ANSWER))


def is_transient(entry: dict[str, Any]) -> bool:
    """Tell whether a batch entry under ``Failed`` may pass when it is sent again."""
    return not entry.get("SenderFault") or normalized(entry.get("Code", "")) in THROTTLING_CODES


def error_for_answer(
    response: Mapping[str, Any], action: str, resource: str, refusal: Refusal = ConfigurationError
) -> MelangeError:
    """Return the error for an answer that is an error."""
    details = response.get("Error", {})
    # SQS answers with the code of its old protocol and, beside it, the name that its model uses.
    modeled = details.get("QueryErrorCode")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    codes = [details.get("Code") or str(status), *([modeled] if modeled else [])]
    if status in (429, 500, 502, 503, 504):
        codes.append("ServiceUnavailable")  # whatever the code is called
    return _error_for_code(codes, details.get("Message") or "", action, resource, refusal)


def error_for_sent_entry(entry: dict[str, Any], action: str, resource: str) -> MelangeError:
    """Return the error for a message under ``Failed`` of a publish or send."""
    return _error_for_code(
        [entry.get("Code", "")], entry.get("Message") or "", action, resource, InvalidMessageError
    )


def error_for_settled_entry(entry: dict[str, Any], action: str, resource: str) -> MelangeError:
    """Return the error for a delivery under ``Failed`` of an acknowledge or defer."""
    if normalized(entry.get("Code", "")) in LEASE_LOST_CODES:
        return lease_lost(resource)
    return _error_for_code([entry.get("Code", "")], "", action, resource, lambda _: lease_lost(resource))


def lease_lost(queue_name: str) -> LeaseLostError:
    return LeaseLostError(
        f"a delivery of queue {queue_name!r} is no longer ours: its visibility ran out or its receipt "
        "handle is stale, and somebody else may have it by now"
    )


def normalized(code: str) -> str:
    """Return an error code without the spelling differences between protocols and services."""
    code = code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")
    return code.lower().removesuffix("exception").replace(".", "")


def _code(response: Mapping[str, Any]) -> str:
    return normalized(str(response.get("Error", {}).get("Code", "")))


def _error_for_code(
    codes: list[str], text: str, action: str, resource: str, refusal: Refusal
) -> MelangeError:
    known = {normalized(str(code)) for code in codes}
    where = f"{action} on {resource!r}"
    if known & NOT_FOUND_CODES:
        return _not_found(action, resource)
    if known & CREDENTIAL_CODES:
        return _bad_credentials(codes[0])
    if known & DENIED_CODES:
        return AccessDeniedError(
            f"the credentials in use may not {action} on {resource!r} ({codes[0]}): allow it in their IAM "
            "policy, in the policy of the resource and, where it is encrypted, in its key's policy"
        )
    if known & BUSY_CODES:
        return DriverConnectionError(f"{where} was turned away for now ({codes[0]})")
    if known & REFUSED_CODES:
        return refusal(f"{where} was refused ({codes[0]}): {text}")
    return DriverError(f"{where} failed ({codes[0]}): {text}")


def _not_found(action: str, resource: str) -> MelangeError:
    advice = "; a consumer declares it, or create it first, in this account and region"
    if action.startswith("sns:"):
        return TopicNotFoundError(resource, advice)
    return QueueNotFoundError(resource, advice)


def _bad_credentials(reason: str) -> AccessDeniedError:
    return AccessDeniedError(
        f"AWS credentials are missing, expired or wrong ({reason}): set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or a role, or pass session=boto3.Session(...)"
    )


def _error_for_botocore(error: boto.BotoCoreError, action: str, resource: str) -> MelangeError:
    if isinstance(error, CREDENTIAL_ERRORS):
        return _bad_credentials(type(error).__name__)
    if isinstance(error, REGION_ERRORS):
        return ConfigurationError(
            f"no usable AWS region ({type(error).__name__}): pass region_name= to the driver or set AWS_REGION"
        )
    if isinstance(error, CONNECTION_ERRORS):
        return DriverConnectionError(f"{action} on {resource!r} got no answer from the broker: {error}")
    if isinstance(error, CONFIGURATION_ERRORS):
        return ConfigurationError(f"boto3 is not set up right: {error}")
    return DriverError(f"{action} on {resource!r} failed in botocore ({type(error).__name__})")
