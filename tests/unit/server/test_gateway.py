"""Requests as they come over HTTP: who may send them, in which protocol, and how errors look."""

import json
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from melange.server.authentication import Key
from melange.server.broker import Broker
from melange.server.gateway import Gateway
from melange.server.http import Request, Response

JSON = {"host": "localhost:4566", "x-amz-target": "AmazonSQS.ListQueues"}


def answer(request, **options):
    return Gateway(Broker(), **options).answer(request, lambda: True)


def json_request(operation, parameters, **headers):
    target = {"x-amz-target": f"AmazonSQS.{operation}"}
    return Request("POST", "/", JSON | target | headers, json.dumps(parameters).encode())


def test_an_error_has_both_of_its_names_in_the_json_protocol():
    response = answer(json_request("GetQueueUrl", {"QueueName": "none"}))

    assert response.status == 400
    assert response.headers["x-amzn-query-error"] == "AWS.SimpleQueueService.NonExistentQueue;Sender"
    assert json.loads(response.body)["__type"] == "com.amazonaws.sqs#QueueDoesNotExist"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"QueueName": 1}', b'{"Attributes": []}', b"\xff", b"[" * 100_000]
)
def test_a_body_that_is_no_call_is_refused(body):
    response = answer(Request("POST", "/", JSON | {"x-amz-target": "AmazonSQS.CreateQueue"}, body))

    assert response.status == 400
    assert b"SerializationException" in response.body


def test_an_unknown_operation_is_named():
    response = answer(json_request("SendFax", {}))

    assert response.status == 400
    assert b"SendFax" in response.body


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:4566"},
        {"host": ""},
        {"host": "localhost, evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_request_that_a_strangers_page_may_have_sent_is_refused(headers):
    assert answer(json_request("ListQueues", {}, **headers)).status == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4566", "[::1]:4566", "melange", "sqs.localhost", "host.docker.internal"]
)
def test_names_of_this_machine_and_of_private_networks_are_allowed(host):
    assert answer(json_request("ListQueues", {}, host=host)).status == 200


def test_other_names_can_be_allowed():
    request = json_request("ListQueues", {}, host="queues.shop.example")

    assert answer(request, allowed_hosts=frozenset({"queues.shop.example"})).status == 200


def test_queue_urls_have_the_host_that_the_client_used():
    response = answer(json_request("CreateQueue", {"QueueName": "orders"}, host="melange:4566"))

    assert json.loads(response.body) == {"QueueUrl": "http://melange:4566/000000000000/orders"}


def signed(secret="secret", key_id="AKIAIOSFODNN7EXAMPLE", *, in_query=False):
    request = AWSRequest(
        "GET" if in_query else "POST",
        "http://localhost:4566/000000000000/a%20b?Action=GetCallerIdentity&Version=2011-06-15",
        {} if in_query else {"X-Amz-Date": ""},
        b"",
    )
    auth = SigV4QueryAuth if in_query else SigV4Auth
    auth(Credentials(key_id, secret), "sqs", "us-east-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": "localhost:4566"}
    return Request(request.method, request.url.removeprefix("http://localhost:4566"), headers)


KEYS = {"AKIAIOSFODNN7EXAMPLE": Key("secret", "111111111111")}


@pytest.mark.parametrize("in_query", [False, True])
def test_a_right_signature_is_accepted(in_query):
    assert answer(signed(in_query=in_query), keys=KEYS).status == 200


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (signed("wrong"), b"SignatureDoesNotMatch"),
        (signed(key_id="AKIAUNKNOWNUNKNOWN"), b"InvalidClientTokenId"),
        (signed()._replace(body=b"changed"), b"SignatureDoesNotMatch"),
        (json_request("ListQueues", {}), b"MissingAuthenticationToken"),
        (
            json_request("ListQueues", {}, authorization="AWS4-HMAC-SHA256 Credential=x"),
            b"IncompleteSignature",
        ),
    ],
    ids=["wrong secret", "unknown key", "changed", "missing", "incomplete"],
)
def test_any_other_signature_is_refused_once_keys_are_given(request_, code):
    response = answer(request_, keys=KEYS)

    assert response.status in {400, 403}
    assert code in response.body


def test_an_old_signature_is_refused():
    request = signed()
    old = request._replace(headers=request.headers | {"x-amz-date": "20200101T000000Z"})

    assert b"expired" in answer(old, keys=KEYS).body
    assert datetime.now(UTC).year > 2020


def form(target, **fields):
    return Request("GET", f"{target}?{urlencode(fields)}" if fields else target, {"host": "localhost:4566"})


@pytest.mark.parametrize("action", ["FooBar", "ListQueues", "CreateQueue"])
def test_the_address_of_a_queue_takes_only_calls_about_it(action):
    response = answer(form("/000000000000/orders", Action=action))

    assert response.status == 400
    assert f"The action {action} is not valid for this endpoint.".encode() in response.body


def test_a_missing_queue_is_named_otherwise_in_the_query_protocol():
    response = answer(form("/000000000000/none", Action="ReceiveMessage"))

    assert b"<Code>AWS.SimpleQueueService.NonExistentQueue</Code>" in response.body
    assert b"The specified queue does not exist for this wsdl version." in response.body


def test_a_visit_without_an_action_is_an_unknown_operation():
    response = answer(form("/000000000000/orders"))

    assert (response.status, response.body) == (404, b"<UnknownOperationException/>\n")


def console(request):
    return Response(200, "text/html", b"a page")


def browser_request(target, method="GET", **headers):
    return Request(method, target, {"host": "localhost:4566", "accept": "text/html,*/*"} | headers)


def test_a_browser_is_sent_from_the_root_to_the_console():
    response = answer(browser_request("/"), console=console)

    assert (response.status, response.headers["Location"]) == (303, "/_melange/console/")
    assert answer(browser_request(response.headers["Location"]), console=console).body == b"a page"


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", "/", {"host": "localhost:4566", "accept": "*/*"}),
        browser_request("/?Action=ListQueues"),
        browser_request("/000000000000/orders"),
        Request("POST", "/", JSON | {"accept": "text/html"}, b"{}"),
    ],
)
def test_calls_never_reach_the_console(request_):
    assert answer(request_, console=console).status != 303
    assert answer(request_, console=console).body != b"a page"


def test_a_server_without_a_console_has_no_pages():
    assert answer(browser_request("/_melange/console/")).status == 404
    assert answer(browser_request("/")).status == 404


LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def test_a_link_on_another_site_leads_to_the_console():
    assert answer(browser_request("/", **LINK), console=console).status == 303
    assert answer(browser_request("/_melange/console/faults", **LINK), console=console).status == 200


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/?Action=ListQueues", {}),
        ("/_melange/state", {}),
        ("/_melange/console/", {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
        ("/_melange/console/", {"sec-fetch-dest": "iframe"}),
        ("/_melange/console/", {"host": "evil.example"}),
        ("/_melange/console/", {"origin": "http://evil.example"}),
    ],
)
def test_other_requests_of_another_site_do_not_reach_the_console(target, headers):
    assert answer(browser_request(target, **LINK | headers), console=console).status == 403


def test_forms_of_another_site_do_not_reach_the_console():
    request = browser_request("/_melange/console/reset", "POST", **LINK)

    assert answer(request, console=console).status == 403
