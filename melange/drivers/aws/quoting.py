"""What errors may quote of the words of SNS and SQS, which sometimes quote receipt handles and session tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile("AQEB|IQoJ|FwoG")
"""How receipt handles and session tokens begin."""

_LONGEST_WORD = 64
_LONGEST_TEXT = 600


def denial_in(text: str) -> str:
    """Return the sentence that names the denied role, the action and the policy; "" where there is none."""
    start = text.find("User: arn:")
    return text[start:] if start >= 0 and "is not authorized to perform" in text else ""


def without_secrets(text: str, parameters: Mapping[str, Any] | None = None) -> str:
    """Return the text on one line, shortened, without what may be a receipt handle or a token."""
    if quotes_handles(text, parameters or {}):
        return ""
    words = ["..." if _is_secret(word) else word for word in text[: 10 * _LONGEST_TEXT].split()]
    line = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return line[:_LONGEST_TEXT]


def quotes_handles(text: str, parameters: Mapping[str, Any]) -> bool:
    """Return True if the text quotes a receipt handle of the call's parameters."""
    handles = [entry.get("ReceiptHandle") for entry in parameters.get("Entries", ())]
    return any(handle in text for handle in handles if handle)


def holds_token(text: str) -> bool:
    """Return True if a word of the text may be a receipt handle or a token."""
    return any(map(_is_secret, text.split()))


def _is_secret(word: str) -> bool:
    is_long = len(word) > _LONGEST_WORD and not word.lstrip("\"'([").startswith("arn:")
    return is_long or _TOKEN.search(word) is not None
