"""Filling templates, and the filters that they use."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from melange.console.model import name_of, place_of
from melange.server.contents import summary
from melange.server.control import CONSOLE_PREFIX

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
"""Characters that have no picture, or reorder the text around them."""

_JSON_PART = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*")(?=:)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?\d[\d.eE+-]*|true|false|null)'
)


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a filled template. Thread-safe."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("melange.console"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # a server that runs stays as it is when the package is upgraded
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "base64": base64,
        "count": count,
        "duration": duration,
        "highlighted": highlighted,
        "moment": moment,
        "name": name_of,
        "ordinal": ordinal,
        "place": place_of,
        "shown": shown,
        "size": size,
        "summary": summary,
    }
    environment.globals["url"] = lambda path: CONSOLE_PREFIX + quote(path, safe="/:")
    return environment


def shown(text: str) -> Markup:
    """Return text with its invisible characters as escapes, each in an element of its own."""
    parts: list[str | Markup] = []
    end = 0
    for found in _UNSEEN.finditer(text):
        parts += [text[end : found.start()], _escape_of(found[0])]
        end = found.end()
    return Markup("").join([*parts, text[end:]])


def highlighted(text: str) -> Markup:
    """Return indented JSON with elements around its names, strings and numbers."""
    parts: list[Markup] = []
    end = 0
    for found in _JSON_PART.finditer(text):
        parts += [
            shown(text[end : found.start()]),
            Markup('<span class="json-{}">{}</span>').format(found.lastgroup, shown(found[0])),
        ]
        end = found.end()
    return Markup("").join([*parts, shown(text[end:])])


def base64(data: bytes) -> str:
    """Return bytes in Base64."""
    return b64encode(data).decode()


def duration(seconds: float | None) -> str:
    """Return seconds in at most two units, as ``2 min 5 s``."""
    if seconds is None:
        return "-"
    left = max(0, math.ceil(seconds) if seconds < 60 else round(seconds))
    days, hours, minutes = left // 86_400, left % 86_400 // 3_600, left % 3_600 // 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    text = f"{parts[0][0]} {parts[0][1]}"
    return text + (f" {parts[1][0]} {parts[1][1]}" if len(parts) > 1 and parts[1][0] else "")


def moment(seconds: float | None) -> Markup:
    """Return a time in UTC as an element."""
    if not seconds:
        return Markup("-")
    when = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(when.isoformat(), when)


def ordinal(number: int) -> str:
    """Return a number as an ordinal, as ``3rd``."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}" + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def count(number: int) -> str:
    """Return a number with separators."""
    return f"{number:,}"


def size(number: int) -> str:
    """Return a number of bytes in a unit that fits."""
    if number < 1_024:
        return f"{number} {'byte' if number == 1 else 'bytes'}"
    return f"{number / 1_024:.1f} KiB" if number < 1_048_576 else f"{number / 1_048_576:.1f} MiB"


def _escape_of(character: str) -> Markup:
    code = ord(character)
    escape = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    return Markup('<span class="unseen" title="U+{:04X}">{}</span>').format(code, escape)
