"""What errors and logs quote: whatever the text is, it stays short and on one line."""

from __future__ import annotations

import re

import pytest

from melange import errors
from melange.errors import MelangeError, shortened


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("ProductAdded", "'ProductAdded'"),
        ("Kühler 😀", "'Kühler 😀'"),
        ("it's", '"it\'s"'),
        ("", "''"),
        (5, "'5'"),
        (None, "'None'"),
        ("a\nb\r\t\x00\x1b[31m\x9b", r"'a\nb\r\t\x00\x1b[31m\x9b'"),
        ("\u2028\u202e\ud800", r"'\u2028\u202e\ud800'"),
        (10**5_000, "'<int>'"),
        (Unspeakable(), "'<Unspeakable>'"),
    ],
    ids=[
        "plain",
        "not ASCII",
        "quote",
        "empty",
        "number",
        "null",
        "control",
        "invisible",
        "digits",
        "failing",
    ],
)
def test_text_of_unknown_origin_is_quoted_on_one_line(text: object, quoted: str) -> None:
    assert shortened(text) == quoted


@pytest.mark.parametrize("character", ["x", "\n", "\x00", "\U0010ffff", "'"], ids=ascii)
def test_long_text_is_cut_after_it_was_escaped(character: str) -> None:
    quoted = shortened(character * 1_000_000, limit=30)

    assert len(quoted) == 32
    assert quoted.isprintable()
    assert quoted[1:-1].endswith("...")


def test_text_as_long_as_the_limit_is_not_cut() -> None:
    assert shortened("x" * 30, limit=30) == f"'{'x' * 30}'"


def test_the_drawn_tree_has_each_error_on_a_line_of_its_own():
    drawn = re.findall(r"^[ │]*[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)

    defined = [
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, MelangeError) and one is not MelangeError
    ]
    assert sorted(drawn) == sorted(defined)


@pytest.mark.parametrize("error_class", [errors.TopicNotFoundError, errors.QueueNotFoundError])
def test_an_error_about_something_missing_says_what_to_do(error_class) -> None:
    assert str(error_class("orders")).endswith(
        "'orders' does not exist: create its consumer first, which declares it, or check the name"
    )
    assert str(error_class("orders", " (did you mean 'order'?)")).endswith(
        "'orders' does not exist (did you mean 'order'?)"
    )
