"""Bodies as the console shows them."""

import json
from base64 import b64encode

import pytest

from melange.console.model import Message
from melange.console.reading import draft_of, indented, preview, read
from melange.console.rendering import duration, highlighted, shown, size


def message(body, **attributes):
    named = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return Message(
        "1", {"MessageId": "id-1", "Body": body, "ReceiptHandle": "", "MessageAttributes": named}, "visible"
    )


ENVELOPE = {
    "Type": "Notification",
    "TopicArn": "arn:aws:sns:us-east-1:000000000000:events",
    "MessageId": "id-2",
    "Subject": "News",
    "Message": '{"event_type_name":"Sold"}',
    "MessageAttributes": {"kind": {"Type": "String", "Value": "sale"}},
}


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[1,{"b":[]}],"c":{},"d":"x\\"y,:{}[]"}',
        "[]",
        "{}",
        '[[[["deep"]]]]',
        '{"a": 1.10, "b": 1e5, "c": -0, "d": null, "e": true}',
        '{"a": "\\u00e9\\ud800", "b": "\\n\\t\\\\"}',
    ],
)
def test_indented_json_means_the_same(text):
    assert json.loads(indented(text)) == json.loads(text)


def test_json_is_indented_by_two_spaces_as_others_do_it():
    document = {"a": [1, {"b": []}], "c": {}, "d": "x"}

    assert indented(json.dumps(document)).replace("[]", "").replace("{}", "") == json.dumps(
        document, indent=2
    ).replace("[]", "").replace("{}", "")


def test_numbers_and_doubled_names_stay_as_they_are_written():
    assert indented('{"a":1.10,"a":12345678901234567890123}') == (
        '{\n  "a": 1.10,\n  "a": 12345678901234567890123\n}'
    )


def test_letters_are_shown_instead_of_their_escapes():
    assert indented('["\\u00c5rhus"]') == '[\n  "Århus"\n]'


@pytest.mark.parametrize(
    "text", ["", "text", "1", '"text"', "{", "[1,]", "{'a': 1}", "[" * 100_000, "{}" * 2]
)
def test_other_text_is_not_indented(text):
    assert indented(text) is None


def test_the_envelope_is_taken_off():
    reading = read(message(json.dumps(ENVELOPE)))

    assert reading.text == '{\n  "event_type_name": "Sold"\n}'
    assert reading.event_type == "Sold"
    assert reading.envelope.subject == "News"


@pytest.mark.parametrize(
    "change", [{"Type": "Other"}, {"Message": 1}, {"TopicArn": None}, {"MessageAttributes": {"a": 1}}]
)
def test_what_only_looks_like_an_envelope_is_shown_as_it_is_or_without_its_faults(change):
    reading = read(message(json.dumps(ENVELOPE | change)))

    assert reading.envelope is None or reading.envelope.attributes == {}


def in_base64(document):
    return b64encode(json.dumps(document).encode()).decode()


TASK = in_base64({"headers": {"task": "shop.tasks.ship", "argsrepr": "(1, 2)", "kwargsrepr": "{}"}})
"""A body as Celery sends it."""


def test_a_task_of_celery_is_read_as_json_with_its_name():
    reading = read(message(TASK))

    assert '"argsrepr": "(1, 2)"' in reading.text
    assert reading.is_json
    assert reading.is_decoded
    assert reading.event_type == "shop.tasks.ship"
    assert preview(message(TASK)) == "(1, 2) {}"
    assert preview(message(in_base64({"a": 1}))) == '{"a": 1}'


def test_a_draft_of_a_task_stays_in_base64():
    assert draft_of(message(TASK)).body == TASK


@pytest.mark.parametrize("body", [in_base64([1]), "eyJhIjox", "eyJhIjoxfQ==.e30", "eye", "ew", "eyL/"])
def test_what_is_no_object_in_base64_stays_as_it_is(body):
    reading = read(message(body))

    assert reading.text == body
    assert not reading.is_decoded


@pytest.mark.parametrize("headers", [None, [], {}, {"task": 1}, {"task": ""}])
def test_json_in_base64_without_a_task_has_no_name(headers):
    reading = read(message(in_base64({"headers": headers})))

    assert reading.is_decoded
    assert reading.event_type is None


def test_a_draft_has_what_the_sender_gave():
    draft = draft_of(message(json.dumps(ENVELOPE)))

    assert draft.body == '{\n  "event_type_name": "Sold"\n}'
    assert draft.subject == "News"
    assert draft.attributes == {"kind": {"DataType": "String", "StringValue": "sale"}}


def test_a_draft_of_a_dead_letter_has_no_reason():
    draft = draft_of(message("{}", **{"melange-dead-letter": "{}", "kind": "sale"}))

    assert list(draft.attributes) == ["kind"]


def test_highlighting_escapes_markup():
    html = str(highlighted('{\n  "<b>": "<script>&\\"",\n  "n": 1\n}'))

    assert "<b>" not in html
    assert "<script>" not in html
    assert '<span class="json-key">&#34;n&#34;</span>: <span class="json-number">1</span>' in html


def test_markup_beside_unseen_characters_is_escaped():
    assert str(shown("<i>\x00</i>")) == (
        '&lt;i&gt;<span class="unseen" title="U+0000">\\x00</span>&lt;/i&gt;'
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59.5, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (90_000, "1 d 1 h"),
        (-5, "0 s"),
        (None, "-"),
    ],
)
def test_durations_have_at_most_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 byte"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (3 * 1_048_576, "3.0 MiB")]
)
def test_sizes_have_a_unit_that_fits(number, text):
    assert size(number) == text
