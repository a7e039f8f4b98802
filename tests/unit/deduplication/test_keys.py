"""What makes two messages the same one: the id and the content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange.deduplication import DeduplicationKey
from melange.messages import Message, content_of


def message(body: str = "{}", event_type_name: str | None = "Added", **headers: str) -> Message:
    return Message(body=body, event_type_name=event_type_name, message_id="m-1", headers=headers)


@pytest.mark.parametrize(
    "other",
    [
        message(body="[]"),
        message(event_type_name="Removed"),
        message(event_type_name=None),
        message(tenant="a"),
        message(body="\ud800"),
    ],
)
def test_another_type_body_or_header_is_another_content(other: Message) -> None:
    assert content_of(other) != content_of(message())


@pytest.mark.parametrize(
    "name",
    [
        "traceparent",
        "TraceParent",
        "X-Amzn-Trace-Id",
        "x-b3-traceid",
        "sentry-trace",
        "baggage",
        "melange-cause",
    ],
)
def test_headers_that_differ_between_repetitions_are_not_part_of_the_content(name: str) -> None:
    first = Message(body="{}", event_type_name="Added", message_id="m-1", headers={name: "1"})
    again = Message(body="{}", event_type_name="Added", message_id="m-1", headers={name: "2"})

    assert content_of(first) == content_of(again) == content_of(message())


def test_the_order_of_headers_does_not_matter() -> None:
    assert content_of(message(a="1", b="2")) == content_of(message(b="2", a="1"))


@pytest.mark.parametrize(
    "other",
    [
        message(body="1:a1:b{}"),  # as the header a=b and the body {} are written
        message(a="b1:c1:d"),
        message(a1="b"),
        message(event_type_name="Added1:a1:b"),
    ],
)
def test_parts_of_the_content_do_not_run_together(other: Message) -> None:
    assert content_of(other) != content_of(message(a="b"))


texts = st.text(alphabet=["a", "1", ":", "\0", "\ud800"], max_size=4)
keys = st.builds(DeduplicationKey, texts, texts, texts, st.lists(texts, max_size=3).map(tuple))


@given(keys, keys)
def test_keys_have_one_digest_if_and_only_if_they_are_equal(
    one: DeduplicationKey, other: DeduplicationKey
) -> None:
    assert (one.digest() == other.digest()) == (one == other)
    assert len(one.digest()) == 16
