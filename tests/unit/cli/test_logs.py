"""One line a record, whatever is in it; ids in fields; nothing of other libraries' requests."""

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange.cli.logs import JsonFormatter, TextFormatter, configure

FORMATTERS = [TextFormatter(), JsonFormatter()]


def record(message="told", *arguments, exc_info=None, **extra) -> logging.LogRecord:
    made = logging.LogRecord("melange.test", logging.WARNING, __file__, 1, message, arguments, exc_info)
    made.created, made.process = 1_700_000_000.25, 42
    made.__dict__.update(extra)
    return made


def failure(text: str):
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_text_says_when_how_bad_which_process_who_and_what() -> None:
    line = TextFormatter().format(record("message %s failed", "m-1", message_id="m-1", queue_name="stock"))

    assert line == (
        "2023-11-14T22:13:20.250+00:00 WARNING  [42] melange.test: message m-1 failed "
        "message_id=m-1 queue_name=stock"
    )


def test_json_says_the_same_as_keys() -> None:
    line = JsonFormatter().format(record("message %s failed", "m-1", message_id="m-1", receive_count=2))

    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "WARNING",
        "process": 42,
        "logger": "melange.test",
        "message": "message m-1 failed",
        "message_id": "m-1",
        "receive_count": 2,
    }


@pytest.mark.parametrize("formatter", FORMATTERS, ids=lambda one: type(one).__name__)
@given(text=st.text() | st.text('\n\r\x0b\x0c\x1b\x85\u2028\u2029\ud800\u202e"\\ =a'))
def test_a_record_is_one_printable_line_whatever_is_in_it(formatter, text) -> None:
    line = formatter.format(record(text, exc_info=failure(text), message_id=text, event={"name": text}))

    assert line.isprintable()


@pytest.mark.parametrize("formatter", FORMATTERS, ids=lambda one: type(one).__name__)
def test_the_traceback_is_in_the_line(formatter) -> None:
    line = formatter.format(record(exc_info=failure("boom")))

    assert "traceback" in line
    assert "in failure" in line
    assert "ValueError: boom" in line


def test_in_a_terminal_the_traceback_follows_on_lines_of_its_own() -> None:
    text = TextFormatter(in_terminal=True).format(record(exc_info=failure("boom"), message_id="m-1"))

    head, *traceback = text.split("\n")
    assert head.endswith("told message_id=m-1")
    assert [traceback[0], traceback[-1]] == [
        "    Traceback (most recent call last):",
        "    ValueError: boom",
    ]


def test_in_a_terminal_a_stack_is_shown_as_well() -> None:
    one = record()
    one.stack_info = "Stack (most recent call last):\n  here"

    assert (
        TextFormatter(in_terminal=True)
        .format(one)
        .endswith("told\n    Stack (most recent call last):\n      here")
    )


@given(text=st.text() | st.text('\n\r\x0b\x0c\x1b\x85\u2028\u2029\ud800\u202e"\\ =a'))
def test_in_a_terminal_nothing_in_a_record_can_pass_for_another(text) -> None:
    shown = TextFormatter(in_terminal=True).format(
        record(text, exc_info=failure(text), message_id=text, event={"name": text})
    )

    first, *others = shown.split("\n")
    assert first.isprintable()
    assert all(line.isprintable() and line.startswith("    ") for line in others)


@pytest.mark.parametrize("in_terminal", [True, False])
def test_tracebacks_are_lines_only_where_standard_error_is_a_terminal(monkeypatch, in_terminal) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: in_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    configure("info", "text")

    logging.getLogger("melange.test").error("told", exc_info=failure("boom"))

    assert ("\n    ValueError: boom" in stream.getvalue()) == in_terminal


def test_an_id_with_spaces_cannot_pass_for_another_field() -> None:
    line = TextFormatter().format(record(message_id='m-1" queue_name=forged', empty=""))

    assert line.endswith(r'told message_id="m-1\" queue_name=forged" empty=""')


def test_an_extra_cannot_replace_what_every_json_line_has() -> None:
    line = JsonFormatter().format(record(level="forged", time="forged", logger="forged"))

    assert "forged" not in line


def test_values_that_json_lacks_are_described() -> None:
    line = JsonFormatter().format(record(ratio=float("nan"), ids=("a", "b")))

    assert json.loads(line)["ratio"] == "nan"
    assert json.loads(line)["ids"] == "('a', 'b')"


def test_debugging_melange_does_not_show_the_requests_of_client_libraries(capsys) -> None:
    configure("debug", "text")

    logging.getLogger("melange.consuming").debug("a detail")
    logging.getLogger("botocore.endpoint").debug("AUTHORIZATION: secret")

    printed = capsys.readouterr().err
    assert "a detail" in printed
    assert "secret" not in printed
