"""Text of unknown origin, made fit for a terminal or a line of a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with escapes in place of line breaks, control characters and whatever else does not print."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
