"""The control interface: state, clock, disorder, reset; and who may not reach it."""

import urllib.error
import urllib.request
from threading import Thread

import pytest

from waiting import eventually


def test_the_state_shows_depths_without_touching_a_message(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="1")
    sqs.send_message(QueueUrl=queue_url, MessageBody="2", DelaySeconds=60)

    _, state = control("GET", "state")

    [queue] = state["queues"]
    assert {key: queue[key] for key in ("name", "visible", "in_flight", "delayed")} == {
        "name": "orders",
        "visible": 1,
        "in_flight": 0,
        "delayed": 1,
    }


def test_an_advanced_clock_ends_delays_and_visibility_timeouts(sqs, queue_url, control) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="1", DelaySeconds=300)

    before = sqs.receive_message(QueueUrl=queue_url).get("Messages", [])
    control("POST", "clock/advance", {"seconds": 300})
    after_delay = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    control("POST", "clock/advance", {"seconds": 600})
    after_timeout = sqs.receive_message(QueueUrl=queue_url)["Messages"]

    assert before == []
    assert [after_delay[0]["Body"], after_timeout[0]["Body"]] == ["1", "1"]


def test_an_advanced_clock_wakes_a_receive_that_waits(sqs, queue_url, control, server) -> None:
    received = []
    sqs.send_message(QueueUrl=queue_url, MessageBody="1", DelaySeconds=300)
    waiting = Thread(
        target=lambda: received.extend(
            sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=20).get("Messages", [])
        )
    )
    waiting.start()
    [queue] = server.broker.queues.values()
    eventually(lambda: len(queue.stored.waiters) == 1)

    control("POST", "clock/advance", {"seconds": 300})
    waiting.join(timeout=30)

    assert [message["Body"] for message in received] == ["1"]


@pytest.mark.parametrize("seconds", [0, -1, "60", True, None, 1e12])
def test_a_clock_goes_forward_only(control, seconds) -> None:
    status, answer = control("POST", "clock/advance", {"seconds": seconds})

    assert status == 400
    assert "a clock goes forward only" in answer["error"]


def test_a_reset_forgets_everything_but_the_clock(sqs, queue_url, control, client) -> None:
    client("sns").create_topic(Name="orders")
    control("POST", "faults", {"kind": "error"})
    control("POST", "clock/advance", {"seconds": 3600})
    now = control("GET", "clock")[1]["now"]

    control("POST", "reset")

    _, state = control("GET", "state")
    assert (state["queues"], state["topics"], control("GET", "faults")[1]) == ([], [], [])
    assert control("GET", "clock")[1]["now"] >= now
    assert sqs.create_queue(QueueName="orders")


def test_standard_queues_that_exist_deliver_duplicates_from_now_on(sqs, queue_url, control) -> None:
    control("PUT", "disorder", {"duplicates": 1.0})

    sqs.send_message(QueueUrl=queue_url, MessageBody="1")

    received = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == ["1", "1"]
    assert len({message["MessageId"] for message in received}) == 1


def test_a_mistake_in_the_disorder_is_refused(control) -> None:
    assert control("PUT", "disorder", {"duplicates": 2})[0] == 400
    assert control("PUT", "disorder", {"duplicate": 0.1})[0] == 400


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["origin", "host", "fetch-metadata"],
)
def test_the_page_of_a_stranger_cannot_reach_it(server, control, headers) -> None:
    request = urllib.request.Request(
        f"{server.url}/_melange/reset", data=b"{}", headers=headers, method="POST"
    )

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)

    with refused.value:
        assert refused.value.code == 403


def test_a_form_is_refused(control) -> None:
    status, answer = control("POST", "reset", {}, {"Content-Type": "application/x-www-form-urlencoded"})

    assert (status, answer) == (400, {"error": "send JSON, with Content-Type: application/json"})


def test_another_path_says_what_there_is(control) -> None:
    status, answer = control("GET", "nothing")

    assert status == 404
    assert "POST /_melange/clock/advance" in answer["error"]
