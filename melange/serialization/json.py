"""The JSON of events: strict in both directions, at the speed of the standard library's C code.

The standard library writes and reads NaN, silently turns the key 1 into "1", reads 1e400 as infinity, and reads lone
surrogates, which UTF-8 cannot encode. Here each of these is an error. The search for the place of an error starts only
after an error was found, so that good events do not pay for it.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined] # None without C
from typing import Any, NoReturn

from melange.errors import DecodeError, EncodeError


class NestedTooDeeplyError(Exception):
    """A whole stack is not enough."""


def on_a_fresh_stack(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a new thread, with a whole stack and the caller's context, and return its result.

    So it does not depend on the depth of the consumer's own calls if a message can be read.

    Raises:
        NestedTooDeeplyError: it ends in a ``RecursionError`` there, too.
        RecursionError: the caller's stack has no place left for this call.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:  # raised again in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="melange-fresh-stack")
    thread.start()
    thread.join()
    for error in errors:
        if isinstance(error, RecursionError):
            raise NestedTooDeeplyError from error
        raise error
    return results[0]


MAX_NESTING = 200
"""Deeper events are not written. Every version of Python can read this depth, with two frames for each level."""

_LONGEST_FLAT = 2 * MAX_NESTING
"""The characters that ``MAX_NESTING`` levels need at least. Most events are shorter."""

_JSON_TYPES = (str, int, float, bool, type(None), dict, list, tuple)

_NOT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))

_LEAVES = frozenset((str, int, float, bool, type(None)))

_TYPED_KEY_SUSPECT = re.compile(
    # A written key that is a number, true, false or null ends like this. A text key may, too: only then
    # is the event searched. The first group skips most keys quickly.
    r':(?<=[0-9el]":)(?:(?<=[0-9]":)|(?<="true":)|(?<="false":)|(?<="null":))'
)

_LONGEST_STEP = 64

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

# The noncharacters that UTF-8 can carry and SQS refuses.
_ESCAPED = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


class NotJSONError(DecodeError):
    """The text is not JSON at all, but plain text for instance."""


class _BeyondJSON(ValueError):
    """The text goes beyond JSON; says how, without quoting it."""


def to_json(value: dict[str, Any]) -> str:
    """Return ``value`` as compact JSON text, in which every character can travel.

    Tuples become arrays. Everything else must be what JSON knows: dict with text keys, list, text, int,
    finite float, bool, None.

    Raises:
        EncodeError: names the first place that is not JSON, never its value.
    """
    try:
        text = "".join(_PARTS(value, 0))
    except RecursionError:  # of the caller's own stack, perhaps
        text = _encode_on_a_fresh_stack(value)
    except (TypeError, ValueError) as error:
        raise EncodeError(_offence(value)) from error
    if len(text) > _LONGEST_FLAT and text.count("{") + text.count("[") > MAX_NESTING and not _is_flat(text):
        _refuse_deep_nesting(value)
    if _TYPED_KEY_SUSPECT.search(text):
        _refuse_typed_keys(value)
    return text if text.isascii() else _transportable(text, value)


def text_to_json(text: str) -> str:
    """Return ``text`` as JSON; raises ``TypeError`` for any other type."""
    return encode_basestring(text)


def part_to_json(value: Any) -> str:
    """Return ``value`` as the text of a part of an event; ``is_transportable`` has to judge the whole.

    Raises:
        EncodeError: a key is not text; or ``TypeError``, ``ValueError`` or ``RecursionError``, as for ``json.dumps``.
    """
    text = "".join(_PARTS(value, 0))
    if _TYPED_KEY_SUSPECT.search(text):
        _refuse_typed_keys(value)
    return text


def is_transportable(text: str) -> bool:
    """Return True if this JSON text can travel as it is; otherwise ``to_json`` finds out what is wrong with it."""
    if len(text) > _LONGEST_FLAT and text.count("{") + text.count("[") > MAX_NESTING and not _is_flat(text):
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\ufffe" not in text and "\uffff" not in text


def from_json(text: str) -> Any:
    """Return the value of ``text``; it can be written again unless it is nested more deeply than ``MAX_NESTING``.

    Raises:
        NotJSONError: the text has another form.
        DecodeError: says what is wrong and never quotes the text.
    """
    try:
        # decode() looks for white space on both sides, a fifth of its time; melange writes none.
        try:
            value, end = _SCAN(text, 0)
        except (StopIteration, RecursionError):
            end = -1
        if end != len(text):
            value = _decode(text)
    except json.JSONDecodeError as error:
        raise NotJSONError(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except _BeyondJSON as error:
        raise DecodeError(f"the body is not JSON: {error}") from None
    except NestedTooDeeplyError as error:
        raise DecodeError("the body is nested too deeply") from error
    except ValueError as error:
        # The one ValueError left: Python's limit on the digits of an integer.
        raise DecodeError("the body contains an integer with too many digits") from error
    if not text.isascii() or "\\u" in text:
        _refuse_lone_surrogates(text, value)
    return value


def _encode_on_a_fresh_stack(value: dict[str, Any]) -> str:
    try:
        return str(on_a_fresh_stack(_ENCODER.encode, value))
    except (TypeError, ValueError, NestedTooDeeplyError) as error:
        raise EncodeError(_offence(value)) from error


def _decode(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError:  # of the caller's own stack, perhaps
        return on_a_fresh_stack(_DECODER.decode, text)


def _transportable(text: str, value: dict[str, Any]) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(_offence(value)) from error
    # Outside of its strings JSON is ASCII, so these can only stand where an escape may stand.
    return text.translate(_ESCAPED) if "\ufffe" in text or "\uffff" in text else text


def _refuse_typed_keys(value: Any) -> None:
    containers = [value]
    for container in containers:
        children = container
        if isinstance(container, dict):
            if not all(isinstance(key, str) for key in container):
                raise EncodeError(_offence(value))
            children = container.values()
        containers.extend(child for child in children if isinstance(child, (dict, list, tuple)))


def _is_flat(text: str) -> bool:
    """Return True if fewer than ``MAX_NESTING`` levels are certainly open, in a tenth of the time of writing."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    brackets = text.encode(errors="replace").translate(None, _NOT_BRACKETS).replace(b'""', b"")
    # A quote that is left belongs to text with a bracket in it.
    if b'"' in brackets:
        return False
    for _ in range(MAX_NESTING // 2):  # a round takes off one level or two
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return False


def _refuse_deep_nesting(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if type(child) not in _LEAVES and isinstance(child, (dict, list, tuple))
        ]
        if not level:
            return
    raise EncodeError(f"this event is nested too deeply: {MAX_NESTING} levels can travel")


def _refuse_lone_surrogates(text: str, value: Any) -> None:
    try:
        text.encode()
        if _SURROGATE_ESCAPE.search(text):
            _encoded_again(value).encode()
    except UnicodeEncodeError as error:
        raise DecodeError("the body contains half of a surrogate pair, which is not text") from error
    except NestedTooDeeplyError as error:
        raise DecodeError("the body is nested too deeply") from error


def _encoded_again(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except RecursionError:
        return str(on_a_fresh_stack(_ENCODER.encode, value))


def _offence(event: Any) -> str:
    try:
        found = next(_offences(event, "", ()), None)
    except RecursionError:
        found = None
    return f"this event is not JSON: {found or 'it is nested too deeply'}"


def _offences(value: Any, path: str, ancestors: tuple[int, ...]) -> Iterator[str]:
    where = path.removeprefix(".") or "the event"
    if not isinstance(value, _JSON_TYPES):
        yield (
            f"{where} is a {type(value).__name__}: write it as text or a number, or publish a dataclass "
            "that inherits from EventMessage"
        )
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is not a finite number"
    elif isinstance(value, str) and not _is_unicode(value):
        yield f"{where} contains half of a surrogate pair, which is not text"
    elif isinstance(value, int) and not _is_writable(value):
        yield f"{where} has too many digits"
    elif id(value) in ancestors:
        yield f"{where} contains itself"
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"a key of {where} is a {type(key).__name__}, it must be text"
            elif not _is_unicode(key):
                yield f"a key of {where} contains half of a surrogate pair, which is not text"
            else:
                yield from _offences(item, path + _step(key), (*ancestors, id(value)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _offences(item, f"{path}[{index}]", (*ancestors, id(value)))


def _step(key: str) -> str:
    if key.isidentifier() and len(key) <= _LONGEST_STEP:
        return f".{key}"
    return f"[{key[:_LONGEST_STEP]!a}]"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_writable(number: int) -> bool:
    try:
        int.__repr__(number)
    except ValueError:
        return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _BeyondJSON("a number is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise _BeyondJSON(f"it contains {name}")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
    check_circular=False,  # what contains itself ends in a RecursionError, and is found then
)
_PARTS: Callable[[Any, int], Iterable[str]] = (
    (lambda value, _: _ENCODER.iterencode(value))
    if c_make_encoder is None
    # encode() makes one for each event, which takes as long as writing a small event.
    else c_make_encoder(None, _ENCODER.default, encode_basestring, None, ":", ",", False, False, False)
)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
_SCAN: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined] # of C
