"""Whatever botocore raises and AWS answers becomes one of melange's errors, with what to do next."""

import email.utils
import inspect
import time

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from melange.drivers.aws import errors
from melange.drivers.aws.errors import error_for, error_for_entry, keeps_its_cause, normalized
from melange.drivers.aws.operations import UnreadableAnswer
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DriverConnectionError,
    DriverError,
    InvalidMessageError,
    LeaseLostError,
    QueueNotFoundError,
    TopicNotFoundError,
)

TABLES = {
    errors.CONNECTION_ERRORS: DriverConnectionError,
    errors.CREDENTIAL_ERRORS: AccessDeniedError,
    errors.SETUP_ERRORS: ConfigurationError,
}
BOTOCORE_ERRORS = [
    error
    for _, error in inspect.getmembers(boto, inspect.isclass)
    if issubclass(error, boto.BotoCoreError) and error is not boto.BotoCoreError
]


def mapped(error, action="sqs:ReceiveMessage", **options):
    return error_for(error, action, "stock", **options)


def client_error(code, message="", status=400, **details):
    response = {
        "Error": {"Code": code, "Message": message, **details},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "ReceiveMessage")


@pytest.mark.parametrize("error_class", BOTOCORE_ERRORS, ids=lambda error: error.__name__)
def test_every_exception_of_botocore_is_mapped_and_by_at_most_one_table(error_class):
    error = error_class.__new__(error_class)  # each has its own arguments; its class is what counts

    meanings = [meaning for classes, meaning in TABLES.items() if isinstance(error, classes)]

    assert len(meanings) <= 1
    assert type(mapped(error)) is (meanings[0] if meanings else DriverError)


def test_an_exception_of_botocore_that_nobody_knows_is_a_driver_error():
    class BrandNewError(boto.BotoCoreError):
        fmt = "new"

    assert type(mapped(BrandNewError())) is DriverError


@pytest.mark.parametrize("error", [KeyError("Messages"), TypeError("x"), AttributeError("x"), OSError()])
def test_what_comes_neither_from_the_network_nor_from_an_answer_is_not_mapped(error):
    assert mapped(error) is None


def test_an_answer_that_cannot_be_read_is_worth_another_try():
    assert type(mapped(UnreadableAnswer("it is not JSON"))) is DriverConnectionError


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


@pytest.mark.parametrize("status", [302, 307, 408, 429, 500, 502, 503, 504])
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


WHO = "User: arn:aws:sts::123456789012:assumed-role/shop/worker is not authorized to perform: sqs:ReceiveMessage"
WHY = "on resource: arn:aws:sqs:us-east-1:123456789012:stock because no identity-based policy allows it"


def test_aws_own_sentence_of_a_denied_call_is_kept():
    error = mapped(client_error("AccessDenied", f"{WHO} {WHY}", status=403))

    assert f"{WHO} {WHY}" in str(error)


@pytest.mark.parametrize(
    "secret", ["AQEBhandle", "IQoJb3JpZ2luX2VjEPT", "FwoGZXIvYXdz", "x" * 65, "Zm9vYmFy" * 40 + "=="]
)
def test_a_sentence_of_aws_is_quoted_without_what_may_be_a_secret(secret):
    error = mapped(client_error("AccessDenied", f"{WHO}\n with {secret}: no", status=403))

    assert secret not in str(error)
    assert "\n" not in str(error)
    assert "assumed-role/shop/worker" in str(error)


def test_a_denied_acknowledgement_quotes_who_was_denied_and_no_handle():
    parameters = {"Entries": [{"Id": "0", "ReceiptHandle": "short-handle"}]}
    denied = client_error("AccessDenied", f"Value short-handle is odd. {WHO} {WHY}", status=403)
    worse = client_error("AccessDenied", f"{WHO} with short-handle", status=403)

    assert "assumed-role/shop/worker" in str(mapped(denied, "sqs:DeleteMessage", parameters=parameters))
    for error in (denied, worse):
        assert "short-handle" not in str(mapped(error, "sqs:DeleteMessage", parameters=parameters))


def test_a_long_role_is_named_in_full():
    role = "arn:aws:sts::123456789012:assumed-role/" + "shop-" * 20 + "/worker"

    error = mapped(client_error("AccessDenied", f"User: {role} is not authorized to perform: x", status=403))

    assert role in str(error)


@pytest.mark.parametrize(
    "error",
    [
        client_error("AccessDenied", "Value handle-7 is odd"),
        client_error("InvalidParameterValue", "Value AQEBhandle is odd"),
        ResponseParserError("invalid XML received: the-payload"),
    ],
)
def test_an_exception_that_quotes_a_handle_or_a_message_is_not_shown_as_the_cause(error):
    assert not keeps_its_cause(error, {"Entries": [{"Id": "0", "ReceiptHandle": "handle-7"}]})


def test_other_exceptions_are_shown_as_the_cause():
    assert keeps_its_cause(client_error("AccessDenied", f"{WHO} {WHY}"), {})
    assert keeps_its_cause(KeyError("x"), {})


def test_a_long_sentence_of_the_broker_is_shortened():
    assert len(str(mapped(client_error("AccessDenied", "no " * 10_000)))) < 1_000


def test_a_wrong_signature_does_not_show_what_was_signed():
    refused = client_error("SignatureDoesNotMatch", "x-amz-security-token:FwoGZXIvYXdz")

    error = mapped(refused)

    assert isinstance(error, AccessDeniedError)
    assert "FwoGZXIvYXdz" not in str(error)
    assert not keeps_its_cause(refused, {})


def date(seconds_ago):
    """Return a function that makes the metadata of an answer: many tests may run before it is needed."""
    return lambda: {"HTTPHeaders": {"date": email.utils.formatdate(time.time() - seconds_ago)}}


@pytest.mark.parametrize(
    ("code", "text", "metadata"),
    [
        ("RequestExpired", "", dict),
        ("RequestTimeTooSkewed", "", dict),
        ("SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than ...", dict),
        ("InvalidSignatureException", "Signature not yet current: 20260101T000000Z ...", dict),
        ("InvalidSignatureException", "in words that are new", date(600)),
        ("SignatureDoesNotMatch", "in words that are new", date(-600)),
    ],
)
def test_a_wrong_clock_is_not_taken_for_wrong_credentials(code, text, metadata):
    response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": metadata()}

    error = mapped(boto.ClientError(response, "ReceiveMessage"))

    assert isinstance(error, DriverConnectionError)
    assert "clock" in str(error)


@pytest.mark.parametrize(
    "metadata",
    [date(5), lambda: {"HTTPHeaders": {"date": "yesterday"}}, dict],
    ids=["right", "malformed", "none"],
)
def test_a_wrong_signature_at_the_right_time_is_one_of_the_credentials(metadata):
    response = {"Error": {"Code": "SignatureDoesNotMatch", "Message": "no"}, "ResponseMetadata": metadata()}

    assert isinstance(mapped(boto.ClientError(response, "ReceiveMessage")), AccessDeniedError)


@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"]
)
def test_a_stale_handle_is_a_lost_lease_and_is_not_quoted(code):
    entry = {"Code": code, "Message": "Value AQEBhandle for parameter ReceiptHandle is invalid."}

    error = error_for_entry(entry, "sqs:DeleteMessage", "stock")

    assert isinstance(error, LeaseLostError)
    assert "AQEBhandle" not in str(error)


def test_other_failures_of_settling_do_not_quote_the_broker_either():
    entry = {"Code": "Whatever", "Message": "Value AQEBhandle is odd"}

    error = error_for_entry(entry, "sqs:DeleteMessage", "stock")

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
