"""``melange console``: the console over the AWS driver, here with our own server as SNS and SQS."""

import html
import json
import re
import subprocess
import sys
import threading
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import boto3
import pytest

from melange.console.aws import AwsBackend
from melange.console.backend import RefusedError
from melange.console.console import ConsoleServer
from melange.console.model import Draft
from melange.drivers.aws import AwsDriver
from melange.server import Server

ACCESS = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
NOTE = json.dumps({"reason": "ValueError: no lines", "queue": "billing", "attempts": 5})


@pytest.fixture
def server():
    with Server() as server:
        yield server


@pytest.fixture
def sqs(server):
    return boto3.client("sqs", endpoint_url=server.url, **ACCESS)


@pytest.fixture
def backend(server):
    session = boto3.Session(**ACCESS)
    with AwsDriver(session=session, endpoint_url=server.url) as driver:
        yield AwsBackend(driver)


@pytest.fixture
def browser(backend):
    with ConsoleServer(backend) as console:
        yield Browser(console.url)


class Browser:
    def __init__(self, url):
        self.url = url

    def get(self, path="", **headers):
        with urlopen(Request(f"{self.url}/_melange/console/{path}", headers=headers), timeout=20) as response:
            return response.read().decode()

    def post(self, path, **fields):
        token = re.search(r'name="token" value="([^"]+)"', self.get("queues/" + arn_of("billing") + "/send"))[
            1
        ]
        form = urlencode({"token": token} | fields, doseq=True).encode()
        with urlopen(f"{self.url}/_melange/console/{path}", data=form, timeout=20) as response:
            return html.unescape(response.read().decode())


def arn_of(name):
    return f"arn:aws:sqs:us-east-1:000000000000:{name}"


def with_dead_letters(sqs, *bodies):
    """Make the queues ``billing`` and ``billing-dlq``, and put dead letters there."""
    dead = sqs.create_queue(QueueName="billing-dlq")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": arn_of("billing-dlq"), "maxReceiveCount": 3})
    billing = sqs.create_queue(QueueName="billing", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    note = {"melange-dead-letter": {"DataType": "String", "StringValue": NOTE}}
    for body in bodies:
        sqs.send_message(QueueUrl=dead, MessageBody=body, MessageAttributes=note)
    return billing, dead


def bodies(sqs, url):
    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return sorted(message["Body"] for message in messages)


def test_an_overview_shows_what_the_account_has(server, sqs, backend):
    with_dead_letters(sqs, "1", "2")
    sns = boto3.client("sns", endpoint_url=server.url, **ACCESS)
    topic = sns.create_topic(Name="orders")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of("billing"))

    overview = backend.overview()

    billing, dead = overview.queues
    assert (billing.name, billing.dead_letter_arn, billing.max_receive_count) == ("billing", dead.arn, 3)
    assert (dead.visible, dead.source_arns) == (2, (billing.arn,))
    [binding] = overview.bindings
    assert (binding.topic_arn, binding.endpoint) == (topic, billing.arn)
    assert binding.problem.startswith("Nothing is delivered: ")
    assert binding.lacks_permission


def test_messages_are_looked_at_on_request_only_and_released(sqs, backend, browser):
    _, dead = with_dead_letters(sqs, "1", "2")
    path = "queues/" + arn_of("billing-dlq")

    assert "Not looked at yet." in browser.get(path)
    assert "ValueError: no lines" in browser.post(f"{path}/look")

    attributes = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessages"] == "2"
    assert [one.receive_count for one in backend.messages(arn_of("billing-dlq")).messages] == [1, 1]


def test_nothing_is_retried_without_a_question(sqs, browser):
    billing, dead = with_dead_letters(sqs, "1", "2")
    path = "queues/" + arn_of("billing-dlq")
    browser.post(f"{path}/look")
    fields = {"reason": "ValueError: no lines"}

    asked = browser.post(f"{path}/retry", **fields)
    assert "Retry dead letters?" in asked
    assert bodies(sqs, billing) == []
    browser.post(f"{path}/retry", is_sure="yes", **fields)

    assert bodies(sqs, billing) == ["1", "2"]
    assert bodies(sqs, dead) == []


def test_selected_dead_letters_are_moved_and_deleted(sqs, backend):
    _, dead = with_dead_letters(sqs, "1", "2", "3")
    other = sqs.create_queue(QueueName="other")["QueueUrl"]
    arn = arn_of("billing-dlq")
    backend.look(arn)
    keys = {message.body: message.key for message in backend.messages(arn).messages}

    assert backend.delete(arn, [keys["1"]]) == 1
    backend.look(arn)
    assert backend.move(arn, [keys["2"]], arn_of("other")) == 1

    assert bodies(sqs, dead) == ["3"]
    assert bodies(sqs, other) == ["2"]


def test_messages_of_other_queues_stay_where_they_are(sqs, backend):
    billing, _ = with_dead_letters(sqs)
    sqs.send_message(QueueUrl=billing, MessageBody="order 1")
    arn = arn_of("billing")
    backend.look(arn)
    [message] = backend.messages(arn).messages

    for change in (
        lambda: backend.delete(arn, [message.key]),
        lambda: backend.move(arn, [message.key], arn_of("billing-dlq")),
        lambda: backend.release(arn, message.key),
        lambda: backend.delete_queue(arn),
    ):
        with pytest.raises(RefusedError):
            change()

    assert bodies(sqs, billing) == ["order 1"]


def test_messages_are_sent_and_published_with_typed_attributes(server, sqs, backend):
    billing, _ = with_dead_letters(sqs)
    sns = boto3.client("sns", endpoint_url=server.url, **ACCESS)
    topic = sns.create_topic(Name="orders")["TopicArn"]
    count = {"count": {"DataType": "Number", "StringValue": "3"}}

    backend.send(arn_of("billing"), Draft("order 1", count))
    assert backend.publish(topic, Draft("order 2", count, subject="Order"))

    [message] = sqs.receive_message(QueueUrl=billing, MessageAttributeNames=["All"])["Messages"]
    assert message["MessageAttributes"] == count


def test_what_sqs_refuses_is_said(sqs, backend):
    with_dead_letters(sqs)

    with pytest.raises(RefusedError, match="number"):
        backend.send(arn_of("billing"), Draft("1", {"n": {"DataType": "Number", "StringValue": "x"}}))


def test_depths_are_shown_as_estimates(sqs, browser):
    with_dead_letters(sqs, "1")

    assert "Visible, about" in browser.get("queues/" + arn_of("billing-dlq"))
    assert "estimates" in browser.get()


def test_queues_are_purged_only_if_that_was_allowed(sqs, backend, browser):
    billing, _ = with_dead_letters(sqs)
    sqs.send_message(QueueUrl=billing, MessageBody="1")
    assert "Purge" not in browser.get("queues/" + arn_of("billing"))

    with pytest.raises(RefusedError, match="--allow-purge"):
        backend.purge(arn_of("billing"))
    backend.allows_purging = True
    backend.purge(arn_of("billing"))

    assert bodies(sqs, billing) == []


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_pages_of_other_sites_are_refused(browser, headers):
    with pytest.raises(HTTPError) as refusal:
        browser.get(**headers)

    assert refusal.value.code == 403
    refusal.value.close()


def test_the_command_serves_the_console(server, sqs):
    with_dead_letters(sqs)
    command = [sys.executable, "-m", "melange.cli", "console", "--port", "0", "--endpoint-url", server.url]
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = process.stdout.readline().split()[-1]
            with urlopen(url, timeout=20) as page:
                assert b"billing-dlq" in page.read()
        finally:
            process.terminate()

    assert process.returncode == 0


def test_depths_from_before_a_change_are_not_shown_after_it(server, sqs, monkeypatch):
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="1")
    with AwsDriver(session=boto3.Session(**ACCESS), endpoint_url=server.url) as driver:
        backend = AwsBackend(driver, allows_purging=True)
        purging = threading.Thread(target=backend.purge, args=[arn_of("orders")])
        ask = backend._account.queues

        def ask_while_another_purges():
            found = ask()
            purging.start()
            purging.join(0.5)  # it may wait for this answer
            return found

        with monkeypatch.context() as patch:
            patch.setattr(backend._account, "queues", ask_while_another_purges)
            [before] = backend.overview().queues
            purging.join()

        [after] = backend.overview().queues
    assert (before.visible, after.visible) == (1, 0)
