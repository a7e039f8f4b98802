"""``melange dead-letters list`` and ``show``: dead letters as groups and in full, as text and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from melange.cli.dead_letters.options import (
    broker_options,
    connect,
    queue_argument,
    selection_options,
    unseen,
)
from melange.cli.failures import TRY_AGAIN
from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.terminal import age_since, counted, progress, show_table
from melange.drivers.base import QueueDepth
from melange.errors import DecodeError
from melange.operations import DeadLetter, DeadLetters, Group, Selection
from melange.operations.model import ASPECTS, DEFAULT_ASPECTS, Aspect, grouped
from melange.serialization.json import from_json
from melange.serialization.masking import masked_body, sensitive_names
from melange.serialization.serializer import EventSerializer

_LONGEST_CELL = 80
_HIDDEN = "hidden: name the program with --app, so that sensitive fields can be masked, or use --unmasked"


@click.command("list", short_help="Show groups of dead letters, with counts.")
@queue_argument
@selection_options(with_ids=False)
@click.option(
    "--group-by",
    "aspects",
    type=click.Choice(ASPECTS),
    multiple=True,
    help="What the groups have in common; may be repeated.  [default: reason, listener, type]",
)
@click.option("--messages", "one_by_one", is_flag=True, help="A line for each message instead of groups.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="How many to look at."
)
@json_option
@broker_options
def list_command(
    *,
    queue_name_given: str,
    selection: Selection,
    aspects: tuple[Aspect, ...],
    one_by_one: bool,
    limit: int,
    in_json: bool,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Say what happened, since when, and how many there are of each kind.

    Looking is not taking: messages are received and released at the end. But their receive counts rise, and meanwhile
    nothing else can receive them.
    """
    if one_by_one and aspects:
        raise click.UsageError("--messages or --group-by: a message is not a group")
    with connect(app, driver_name) as connection:
        letters = connection.dead_letters(queue_name_given)
        depth, source_depth = letters.measure(), letters.measure_source()
        count = 0
        with progress("Looking", depth.visible) as advance:

            def looked(steps: int) -> None:
                nonlocal count
                count += steps
                advance(steps)

            browsing = letters.browse(
                selection, limit=limit, on_progress=looked, stopping=connection.stopping
            )
            with closing(browsing):
                if one_by_one:
                    rows = [_summary(letter) for letter in browsing]
                    selected = len(rows)
                else:
                    groups = grouped(browsing, connection.driver.clock.now(), aspects or DEFAULT_ASPECTS)
                    rows = [_group_row(group) for group in groups]
                    selected = sum(group.count for group in groups)
        if in_json:
            found = {"messages" if one_by_one else "groups": rows}
            depths = {**_depth(letters, depth), "source": _source_depth(letters, source_depth)}
            click.echo(json.dumps({**depths, "seen": count, "selected": selected, **found}, indent=2))
        else:
            click.echo(_overview(letters, depth))
            if line := _overview_of_source(letters, source_depth):
                click.echo(line)
            _show(rows, one_by_one=one_by_one)
            for note in _notes(letters, depth, count, selected, limit):
                click.echo(note)
        sys.exit(TRY_AGAIN if connection.stopping() else 0)


@click.command(short_help="Show dead letters in full.")
@queue_argument
@selection_options(with_ids=True)
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True, help="How many to show.")
@click.option("--unmasked", is_flag=True, help="Show sensitive fields.")
@json_option
@broker_options
def show(
    *,
    queue_name_given: str,
    selection: Selection,
    limit: int,
    unmasked: bool,
    in_json: bool,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Show dead letters in full: reason, headers, and the body with sensitive fields masked.

    ID is a message id, as `list` shows it. Ends with 1 if an ID was not found.
    """
    with connect(app, driver_name) as connection:
        letters = connection.dead_letters(queue_name_given)
        typed = frozenset() if selection.dead_since else selection.message_ids
        limit = max(limit, len(typed))
        browsing = letters.browse(selection, limit=limit, stopping=connection.stopping)
        with closing(browsing):
            found = _each_id_once(browsing, len(typed))
        bodies = [_body_of(letter, connection.serializer, unmasked=unmasked) for letter in found]
        if in_json:
            rows = [_as_json(letter, body) for letter, body in zip(found, bodies, strict=True)]
            click.echo(json.dumps(rows, indent=2))
        else:
            for letter, body in zip(found, bodies, strict=True):
                click.echo("\n".join(_lines_of(letter, body)))
            if not found:
                click.echo("no dead letter is selected")
        if missing := typed - {letter.message_id for letter in found}:
            raise unseen(missing, letters)


def _each_id_once(browsing: Iterator[DeadLetter], wanted: int) -> list[DeadLetter]:
    """Return the letters; look no further when all ids are found."""
    found: list[DeadLetter] = []
    for letter in browsing:
        found.append(letter)
        if wanted and len({one.message_id for one in found}) == wanted:
            break
    return found


def _group_row(group: Group) -> dict[str, Any]:
    return {
        "count": group.count,
        **group.aspects,
        "oldest": group.oldest and group.oldest.isoformat(),
        "newest": group.newest and group.newest.isoformat(),
        "example_id": group.example_id,
    }


def _show(rows: Sequence[dict[str, Any]], *, one_by_one: bool) -> None:
    if not rows:
        return
    if one_by_one:
        cells = [
            (
                row["message_id"],
                row["event_type_name"],
                row["listener_name"],
                row["attempts"],
                _age(row["dead_since"]),
                row["reason"],
            )
            for row in rows
        ]
        show_table(
            ("MESSAGE ID", "TYPE", "LISTENER", "ATTEMPTS", "AGE", "REASON"), cells, right=("ATTEMPTS",)
        )
        return
    aspects = [name for name in rows[0] if name in ASPECTS]
    show_table(
        ("COUNT", *(aspect.upper() for aspect in aspects), "OLDEST", "NEWEST", "EXAMPLE"),
        [
            (
                f"{row['count']:,}",
                *(_shortened(row[aspect]) for aspect in aspects),
                _age(row["oldest"]),
                _age(row["newest"]),
                row["example_id"],
            )
            for row in rows
        ],
        right=("COUNT",),
    )


def _shortened(text: str | None) -> str | None:
    """Return the beginning of a long reason, so that a row stays a line: `show` and JSON have all of it."""
    return text if text is None or len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 3] + "..."


def _age(text: str | None) -> str:
    return age_since(None if text is None else datetime.fromisoformat(text))


def _depth(letters: DeadLetters, depth: QueueDepth) -> dict[str, Any]:
    return {
        "queue": letters.queue.name,
        "counts_are_estimates": letters.counts_are_estimates,
        "visible": depth.visible,
        "in_flight": depth.in_flight,
    }


def _source_depth(letters: DeadLetters, depth: QueueDepth | None) -> dict[str, Any] | None:
    if letters.source is None or depth is None:
        return None
    return {"queue": letters.source.name, **asdict(depth)}


def _notes(letters: DeadLetters, depth: QueueDepth, count: int, selected: int, limit: int) -> Iterator[str]:
    if selected != count:
        yield f"{counted(selected, 'dead letter')} selected of {count:,} looked at"
    if selected == limit:
        yield f"there may be more: see --limit, {limit:,}"
    elif letters.queue.is_fifo and count < depth.visible:
        yield (
            f"about {depth.visible - count:,} more wait behind these in their groups (--group-by group): "
            "they can be seen when those were retried or removed"
        )


def _overview(letters: DeadLetters, depth: QueueDepth) -> str:
    """Return one line about the whole dead-letter queue."""
    about = "about " if letters.counts_are_estimates else ""
    line = f"{letters.queue.name}: {about}{counted(depth.visible, 'dead letter')}"
    if depth.in_flight:
        line += f", and {about}{depth.in_flight:,} in flight elsewhere, which cannot be seen"
    return printable(line)


def _overview_of_source(letters: DeadLetters, depth: QueueDepth | None) -> str | None:
    """Return one line about the queue where the messages failed; None if it is not known which."""
    if letters.source is None or depth is None:
        return None
    about = "about " if letters.counts_are_estimates else ""
    line = f"{letters.source.name}: {about}{counted(depth.visible, 'message')}, {about}{depth.in_flight:,} in flight"
    if depth.delayed:
        line += f", {about}{depth.delayed:,} delayed"
    return printable(line)


def _body_of(letter: DeadLetter, serializer: EventSerializer | None, *, unmasked: bool) -> str | None:
    """Return the body for printing; None if it cannot be masked.

    It can if the program is known: then a type that declares sensitive fields is among those that were imported.
    """
    body = letter.message.body
    if unmasked:
        return body
    if serializer is None and sensitive_names(letter.event_type_name) is None:
        return None
    return masked_body(body, letter.event_type_name, serializer)


def _as_json(letter: DeadLetter, body: str | None) -> dict[str, Any]:
    """Return the dead letter as a JSON object; ``body`` is parsed where it is JSON."""
    return {
        **_summary(letter),
        "headers": dict(letter.headers),
        "published_at": _text(letter.message.published_at),
        "message_group_id": letter.message.message_group_id,
        "problem": letter.problem,
        "body": _HIDDEN if body is None else _parsed(body),
    }


def _summary(letter: DeadLetter) -> dict[str, Any]:
    """Return what identifies a dead letter, without its content."""
    return {
        "message_id": letter.message_id,
        "event_type_name": letter.event_type_name,
        "reason": letter.reason,
        "origin": letter.origin,
        "listener_name": letter.listener_name,
        "attempts": letter.attempts,
        "queue_name": letter.queue_name,
        "dead_since": _text(letter.dead_since),
        "receive_count": letter.receive_count,
    }


def _lines_of(letter: DeadLetter, body: str | None) -> Iterator[str]:
    """Yield the dead letter as lines for people; no content can look like another line."""
    yield printable(f"message {letter.message_id}")
    facts = {
        "reason": letter.reason,
        "listener": letter.listener_name,
        "attempts": letter.attempts,
        "queue": letter.queue_name,
        "dead since": _moment(letter.dead_since),
        "type": letter.event_type_name,
        "published": _moment(letter.message.published_at),
        "group": letter.message.message_group_id,
        "receives": f"{letter.receive_count}, this look included",
        "problem": letter.problem,
    }
    for name, value in facts.items():
        if value is not None:
            yield f"  {name:<12}{printable(str(value))}"
    for name, value in letter.headers.items():
        yield printable(f"  header      {name}: {value}")
    yield "  body"
    for line in [_HIDDEN] if body is None else _pretty(body):
        yield f"    {printable(line)}"


def _pretty(body: str) -> list[str]:
    parsed = _parsed(body)
    if isinstance(parsed, (dict, list)):
        return json.dumps(parsed, indent=2, ensure_ascii=False).split("\n")
    return body.split("\n")


def _parsed(body: str) -> Any:
    try:
        return from_json(body)
    except DecodeError:
        return body


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {age_since(moment)} ago"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
