"""The error codes of SNS and SQS and the exceptions of botocore, sorted by what they mean to melange.

Codes are written as ``errors.normalized`` leaves them. A test fails when botocore grows an exception that
is in none of these tables.
"""

from __future__ import annotations

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError


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
