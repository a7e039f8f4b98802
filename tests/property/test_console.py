"""Whatever is in a message, the pages of the console show it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from melange.server.sqs.messages import SentMessage
from melange.server.sqs.sending import put
from unit.console.given import Browser

texts = st.text(max_size=40) | st.sampled_from(
    ["<script>", "'\"><img src=x onerror=1>", "\u202e", "\ud800", "{{7777*7777}}", "\x00"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["Type", "Message", "MessageId", "TopicArn", "Subject", "MessageAttributes", "event_type_name"]
)
envelopes = st.dictionaries(names, values, max_size=7).map(
    lambda fields: {"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:0:t", "Message": "{}"} | fields
)
bodies = texts | values.map(json.dumps) | envelopes.map(json.dumps)
attribute_names = st.sampled_from(
    ["melange-dead-letter", "melange-headers", "melange-event-type", "melange-message-id", "kind"]
)
notes = values.map(json.dumps) | st.dictionaries(
    st.sampled_from(["reason", "listener", "attempts", "queue", "rejected_at"]), values
).map(json.dumps)
attributes = st.dictionaries(attribute_names, texts | notes, max_size=4).map(
    lambda found: {name: {"DataType": "String", "StringValue": value} for name, value in found.items()}
)


@given(bodies, attributes)
def test_every_message_has_its_pages(body, attributes):
    browser = Browser()
    browser.client.queue("dead-dlq")
    arn = browser.client.arn("dead-dlq")
    # Past the checks of SQS: pages must not rely on them.
    message = SentMessage("", {}, sender_id="")
    message.body, message.attributes = body, attributes
    put(browser.client.broker.queues[arn], message)
    [found] = browser.backend.messages(arn).messages

    try:
        for path in (
            "",
            "dead-letters",
            f"queues/{arn}",
            f"queues/{arn}/messages/{found.key}",
            f"queues/{arn}/send?like={found.key}",
        ):
            response = browser.get(path)
            assert response.status == 200, path
            assert b"<script>" not in response.body
            assert b"<img src=x" not in response.body
            assert b"60481729" not in response.body
    finally:
        browser.console.close()
