"""Whatever botocore raises and AWS answers becomes one of melange's errors, with what to do next."""

import inspect

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from melange.drivers.aws import errors as codes
from melange.drivers.aws.errors import error_for_settled_entry, mapped_errors, normalized
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

TABLES = {
    codes.CONNECTION_ERRORS: DriverConnectionError,
    codes.CREDENTIAL_ERRORS: AccessDeniedError,
    codes.REGION_ERRORS: ConfigurationError,
    codes.CONFIGURATION_ERRORS: ConfigurationError,
    codes.FOREIGN_ERRORS: DriverError,
}
BASES = {boto.BotoCoreError, boto.ValidationError}
BOTOCORE_ERRORS = [
    error
    for _, error in inspect.getmembers(boto, inspect.isclass)
    if issubclass(error, boto.BotoCoreError) and error not in BASES
]


def mapped(error, action="sqs:ReceiveMessage", **options):
    with pytest.raises(MelangeError) as caught, mapped_errors(action, "stock", **options):
        raise error
    return caught.value


def client_error(code, message="", status=400, **details):
    response = {
        "Error": {"Code": code, "Message": message, **details},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "ReceiveMessage")


@pytest.mark.parametrize("error_class", BOTOCORE_ERRORS, ids=lambda error: error.__name__)
def test_every_exception_of_botocore_has_its_place_in_exactly_one_table(error_class):
    places = [meaning for classes, meaning in TABLES.items() if issubclass(error_class, classes)]

    assert len(places) == 1, f"{error_class.__name__}: sort it into a table of melange/drivers/aws/errors.py"


@pytest.mark.parametrize("error_class", BOTOCORE_ERRORS, ids=lambda error: error.__name__)
def test_every_exception_of_botocore_is_mapped_with_its_cause(error_class):
    error = error_class.__new__(error_class)  # each has its own arguments; its class is what counts

    found = mapped(error)

    meaning = next(meaning for classes, meaning in TABLES.items() if isinstance(error, classes))
    assert type(found) is meaning
    assert found.__cause__ is error


def test_an_exception_of_botocore_that_nobody_knows_is_a_driver_error():
    class BrandNewError(boto.BotoCoreError):
        fmt = "new"

    assert type(mapped(BrandNewError())) is DriverError


@pytest.mark.parametrize(
    "error",
    [
        KeyError("Messages"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ResponseParserError("not XML"),
        RecursionError(),
        TypeError("NoneType"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_answer_that_cannot_be_read_is_worth_another_try(error):
    found = mapped(error)

    assert type(found) is DriverConnectionError
    assert found.__cause__ is error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", QueueNotFoundError),
        ("QueueDoesNotExist", QueueNotFoundError),
        ("AccessDenied", AccessDeniedError),
        ("AccessDeniedException", AccessDeniedError),
        ("KMS.AccessDeniedException", AccessDeniedError),
        ("InvalidClientTokenId", AccessDeniedError),
        ("UnrecognizedClientException", AccessDeniedError),
        ("ExpiredToken", AccessDeniedError),
        ("ExpiredTokenException", AccessDeniedError),
        ("RequestThrottled", DriverConnectionError),
        ("ThrottlingException", DriverConnectionError),
        ("KMS.ThrottlingException", DriverConnectionError),
        ("KmsThrottled", DriverConnectionError),
        ("OverLimit", DriverConnectionError),
        ("AWS.SimpleQueueService.QueueDeletedRecently", DriverConnectionError),
        ("AWS.SimpleQueueService.PurgeQueueInProgress", DriverConnectionError),
        ("InvalidAttributeValue", ConfigurationError),
        ("QueueAlreadyExists", ConfigurationError),
        ("SomethingNew", DriverError),
    ],
)
def test_error_codes_have_their_meaning(code, expected):
    assert type(mapped(client_error(code))) is expected


def test_the_modelled_name_of_an_sqs_error_counts_as_well_as_its_code():
    error = client_error("Sender", QueryErrorCode="QueueDoesNotExist")

    assert type(mapped(error)) is QueueNotFoundError


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_fault_is_worth_another_try_whatever_its_code(status):
    assert type(mapped(client_error("Strange", status=status))) is DriverConnectionError


def test_a_missing_topic_is_told_from_a_missing_queue():
    error = mapped(client_error("NotFound", status=404), action="sns:Publish")

    assert isinstance(error, TopicNotFoundError)
    assert error.topic_name == "stock"


def test_denied_access_names_the_action_and_the_resource():
    error = mapped(client_error("AccessDenied", status=403))

    assert "sqs:ReceiveMessage on 'stock'" in str(error)


def test_a_refused_parameter_is_what_the_call_says_it_is():
    error = mapped(client_error("InvalidParameter", "no"), action="sns:Publish", refusal=InvalidMessageError)

    assert type(error) is InvalidMessageError


def test_a_wrong_signature_does_not_show_what_was_signed():
    error = mapped(client_error("SignatureDoesNotMatch", "x-amz-security-token:FwoGZXIvYXdz"))

    assert isinstance(error, AccessDeniedError)
    assert "FwoGZXIvYXdz" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"]
)
def test_a_stale_handle_is_a_lost_lease_and_is_not_quoted(code):
    entry = {"Code": code, "Message": "Value AQEBhandle for parameter ReceiptHandle is invalid."}

    error = error_for_settled_entry(entry, "sqs:DeleteMessage", "stock")

    assert isinstance(error, LeaseLostError)
    assert "AQEBhandle" not in str(error)


def test_other_failures_of_settling_do_not_quote_the_broker_either():
    entry = {"Code": "Whatever", "Message": "Value AQEBhandle is odd"}

    error = error_for_settled_entry(entry, "sqs:DeleteMessage", "stock")

    assert type(error) is DriverError
    assert "AQEBhandle" not in str(error)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("com.amazonaws.sqs#QueueDoesNotExist", "queuedoesnotexist"),
        ("AWS.SimpleQueueService.NonExistentQueue", "nonexistentqueue"),
        ("KMS.ThrottlingException", "kmsthrottling"),
        ("", ""),
    ],
)
def test_codes_are_compared_without_their_spelling_differences(code, expected):
    assert normalized(code) == expected
