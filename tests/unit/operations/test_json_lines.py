"""Dead letters as lines of JSON."""

import json
from dataclasses import dataclass, field

import pytest

from melange import ConfigurationError, EventMessage
from melange.operations import export_line, exported_letters, import_lines


@dataclass
class CardDeclined(EventMessage):
    order_id: int
    card: str = field(metadata={"sensitive": True})


def exported(letters, **options):
    return [export_line(letter, **options) for letter in letters.browse()]


def test_an_exported_message_comes_back_as_it_was(add, letters, messages_in, driver) -> None:
    add(message_id="m", body='{"a": "\u2028ü"}', headers={"tenant": "north"}, message_group_id="fair")
    (before,) = messages_in("billing-dlq")
    lines = exported(letters)
    driver.purge_queue(letters.queue)

    assert import_lines("billing-dlq", lines, driver) == []

    (after,) = messages_in("billing-dlq")
    assert after == before


def test_what_was_exported_is_selected_and_nothing_that_has_come_since(add, letters, ids_in) -> None:
    add(message_id="first")
    lines = exported(letters)
    add(message_id="second")

    letters.remove(exported_letters(lines))

    assert ids_in("billing-dlq") == ["second"]


def test_an_exported_message_that_has_failed_again_is_another_dead_letter(
    add, letters, ids_in, clock
) -> None:
    add(message_id="m")
    lines = exported(letters)
    letters.remove(exported_letters(lines))
    clock.advance(60)
    add(message_id="m")

    report = letters.remove(exported_letters(lines))

    assert (report.done, report.unfound_ids) == (0, ["m"])
    assert ids_in("billing-dlq") == ["m"]


@pytest.mark.parametrize("lines", [[], ["", "\n"], ["{}"], ["[]"], ["no"]])
def test_a_file_that_names_no_exported_dead_letter_selects_nothing(lines) -> None:
    with pytest.raises(ConfigurationError, match="exported dead letter"):
        exported_letters(lines)


def test_it_leaves_its_note_behind_when_it_goes_to_a_working_queue(add, letters, messages_in, driver) -> None:
    add(message_id="m", headers={"tenant": "north"})

    import_lines("billing", exported(letters), driver)

    (message,) = messages_in("billing")
    assert dict(message.headers) == {"tenant": "north"}


def test_each_line_is_ascii_and_one_line(add, letters) -> None:
    add(body='{"a": "\u2028\\n"}')

    (line,) = exported(letters)

    assert line.isascii()
    assert "\n" not in line


def test_masked_lines_hide_sensitive_fields_and_cannot_be_imported(add, letters, driver) -> None:
    add(body='{"event_type_name":"CardDeclined","order_id":1,"card":"4111"}')

    lines = exported(letters, masked=True)

    assert "4111" not in lines[0]
    assert json.loads(json.loads(lines[0])["body"])["order_id"] == 1
    with pytest.raises(ConfigurationError, match="line 1: its sensitive fields are masked"):
        import_lines("billing", lines, driver)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        "5",
        '{"message_id":1,"body":"{}","headers":{}}',
        '{"message_id":"m","body":"{}","headers":{},"message_group_id":5}',
    ],
)
def test_a_line_that_was_not_exported_is_named_and_nothing_is_sent(
    add, letters, driver, ids_in, line
) -> None:
    add()
    lines = [*exported(letters), "", line]

    with pytest.raises(ConfigurationError, match="line 3"):
        import_lines("billing", lines, driver)

    assert ids_in("billing") == []
