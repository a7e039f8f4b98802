"""Maps exceptions of botocore to melange's errors. Only this module does that.

An exception is classified by its source: the network, an answer, or the search for credentials. An exception from none
of these is a mistake in code, ours or the caller's, and is never reported as an outage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from melange.drivers.aws.error_answers import (
    SIGNATURE_CODES,
    Refusal,
    bad_credentials,
    denial_in,
    error_for_answer,
    holds_token,
    known_codes,
    quotes_handles,
    said,
    without_secrets,
)
from melange.drivers.aws.operations import UnreadableAnswer
from melange.errors import ConfigurationError, DriverConnectionError, DriverError, MelangeError

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

_FINDING_CREDENTIALS = frozenset({"botocore.credentials", "botocore.tokens", "botocore.signers"})
_READING_ANSWERS = frozenset({"botocore.parsers"})
"""Modules: an exception raised below one of them has this cause."""


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
        return bad_credentials(
            "a header cannot hold a line break: look at the end of the key and of the token"
        )
    if isinstance(error, boto.ClientError):
        return error_for_answer(error.response, action, resource, refusal, parameters)
    if isinstance(error, UnreadableAnswer) or _was_raised_in(error, _READING_ANSWERS):
        # botocore quotes the answer, which may contain messages.
        why = str(error) if isinstance(error, UnreadableAnswer) else type(error).__name__
        return DriverConnectionError(f"the answer to {action} on {resource!r} could not be read: {why}")
    return _error_for_botocore(error, action, resource) if isinstance(error, boto.BotoCoreError) else None


def keeps_its_cause(error: Exception, parameters: Mapping[str, Any]) -> bool:
    """Return False if the text of ``error`` quotes secrets: signed headers, handles, messages."""
    if isinstance(error, boto.ClientError):
        text = str(error.response.get("Error", {}).get("Message") or "")
        is_clean = not holds_token(text) and not quotes_handles(text, parameters)
        return is_clean and not known_codes(error.response) & SIGNATURE_CODES
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
        found = error_for_answer(error.response, "obtain credentials", "its provider")
        if isinstance(found, DriverConnectionError):
            return found
        return bad_credentials(f"{type(error).__name__}{said(denial_in(without_secrets(str(error))))}")
    text = str(error) if isinstance(error, OSError) else ""
    return bad_credentials(f"{type(error).__name__}{said(text)}")


def _was_raised_in(error: Exception, modules: frozenset[str]) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") in modules:
            return True
        traceback = traceback.tb_next
    return False
