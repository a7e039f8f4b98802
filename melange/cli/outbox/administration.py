"""The commands of ``melange outbox``, all but the relay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TypeVar

import click

from melange.cli.failures import TRY_AGAIN, complain, failures_shown
from melange.cli.logs import printable
from melange.cli.options import duration, json_option
from melange.cli.outbox.database import administration_of, database_url_option, dialect_of
from melange.cli.terminal import age, age_since, counted, progress, seconds_since, show_table
from melange.outbox import FailedMessage, ScheduledMessage, TopicStatus, create_statements

_Listed = TypeVar("_Listed", FailedMessage, ScheduledMessage)

_limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most this many."
)
_ROW_ID = click.IntRange(1, 2**63 - 1)


def _row_or_message_ids(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[int | str, ...]:
    """Read an ID: a number is that of a row, any other text is a message id."""
    return tuple(
        # It reads text; the annotation of the base class is wider.
        _ROW_ID.convert(text, parameter, context) if text.isascii() and text.isdigit() else text  # type: ignore[arg-type]
        for text in texts
    )


@click.command(short_help="Show the waiting messages by topic.")
@database_url_option()
@json_option
@click.option(
    "--fail-older-than",
    type=duration,
    metavar="DURATION",
    help="End with 1 if a message has waited longer than this (90s, 15m, 12h ...), or one has failed.",
)
def status(*, database_url: str, in_json: bool, fail_older_than: int | None) -> None:
    """Show the waiting messages by topic: pending, failed, held, and the age of the oldest."""
    with administration_of(database_url) as administration:
        topics = administration.status()
    if in_json:
        _write_json(topics)
    elif topics:
        show_table(
            ("TOPIC", "PENDING", "FAILED", "HELD", "OLDEST"),
            [
                (topic.topic, topic.pending, topic.failed, topic.held, age_since(topic.oldest_published_at))
                for topic in topics
            ],
        )
    else:
        click.echo("nothing waits")
    complaints = [] if fail_older_than is None else _complaints(topics, fail_older_than)
    for complaint in complaints:
        complain(complaint)
    sys.exit(TRY_AGAIN if complaints else 0)


@click.command(short_help="Show the refused messages.")
@database_url_option()
@json_option
@_limit_option
def failed(*, database_url: str, in_json: bool, limit: int) -> None:
    """Show the refused messages, the oldest first, and the number of messages that each one holds."""
    with administration_of(database_url) as administration:
        messages = _cut(administration.failed(limit + 1), limit)
    if in_json:
        _write_json(messages)
    elif messages:
        show_table(
            ("ID", "TOPIC", "KEY", "TYPE", "MESSAGE ID", "AGE", "HELD", "ERROR"),
            [
                (
                    message.id,
                    message.topic,
                    message.key,
                    message.event_type_name,
                    message.message_id,
                    age_since(message.published_at),
                    message.held,
                    message.error,
                )
                for message in messages
            ],
        )
    else:
        click.echo("nothing has failed")


@click.command(short_help="Show the messages that are due later.")
@database_url_option()
@json_option
@_limit_option
def scheduled(*, database_url: str, in_json: bool, limit: int) -> None:
    """Show the messages that are due later, the next first."""
    with administration_of(database_url) as administration:
        messages = _cut(administration.scheduled(limit + 1), limit)
    if in_json:
        _write_json(messages)
    elif messages:
        show_table(
            ("DUE", "TOPIC", "KEY", "TYPE", "MESSAGE ID"),
            [
                (
                    None if message.due_at is None else message.due_at.isoformat(timespec="seconds"),
                    message.topic,
                    message.key,
                    message.event_type_name,
                    message.message_id,
                )
                for message in messages
            ],
        )
    else:
        click.echo("nothing is scheduled")


@click.command(short_help="Print the SQL that creates the tables.")
@click.argument("dialect", type=click.Choice(["postgresql", "sqlite"]), required=False)
@database_url_option(required=False)
def schema(*, dialect: str | None, database_url: str | None) -> None:
    """Print the SQL that creates the tables of outbox and inbox. Nothing is executed.

    DIALECT is postgresql or sqlite; without it, --database-url says which one.
    """
    if dialect is None and database_url is None:
        raise click.UsageError("say for which database: postgresql or sqlite, or --database-url")
    with failures_shown():
        click.echo(create_statements(dialect or dialect_of(database_url or "")), nl=False)


@click.command(short_help="Cancel scheduled messages.")
@database_url_option()
@click.argument("message_ids", metavar="MESSAGE_ID...", nargs=-1, required=True)
def cancel(*, database_url: str, message_ids: tuple[str, ...]) -> None:
    """Cancel scheduled messages, as `melange outbox scheduled` shows them. They are never published.

    Ends with 1 if a MESSAGE_ID is not scheduled, or is due and on its way; the others are cancelled all the same.
    """
    with administration_of(database_url) as administration:
        _decide(message_ids, lambda one: administration.cancel(str(one)), "cancelled", kind="scheduled")


@click.command(short_help="Retry failed messages.")
@database_url_option()
@click.argument("ids", metavar="[ID]...", nargs=-1, callback=_row_or_message_ids)
@click.option("--all", "everything", is_flag=True, help="Retry all failed messages.")
def retry(*, database_url: str, ids: tuple[int | str, ...], everything: bool) -> None:
    """Retry failed messages, before the messages of their keys that they hold.

    An ID is a message id, or the number of a row. Ends with 1 if an ID does not belong to a failed message; the
    others are still retried.
    """
    if bool(ids) == everything:
        raise click.UsageError("say which: either IDs, as `melange outbox failed` shows them, or --all")
    with administration_of(database_url) as administration:
        if everything:
            click.echo(f"{counted(administration.retry(), 'message')} to be tried again")
        else:
            _decide(ids, administration.retry, "to be tried again")


@click.command(short_help="Skip failed messages for good.")
@database_url_option()
@click.argument("ids", metavar="[ID]...", nargs=-1, callback=_row_or_message_ids)
@click.option(
    "--topic", metavar="NAME", help="Skip all messages that wait for a topic that will never exist."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def skip(*, database_url: str, ids: tuple[int | str, ...], topic: str | None, yes: bool) -> None:
    """Skip failed messages: they are never published, and the messages of their keys continue.

    An ID is a message id, or the number of a row. Ends with 1 if an ID does not belong to a failed message; the
    others are still skipped.
    """
    if bool(ids) == bool(topic):
        raise click.UsageError("say which: either IDs, as `melange outbox failed` shows them, or --topic")
    if not yes:
        what = printable(f"what waits for topic {topic}" if topic else ", ".join(map(str, _each_once(ids))))
        click.confirm(f"Never publish {what}? That cannot be undone", abort=True, err=True)
    with administration_of(database_url) as administration:
        if topic:
            click.echo(f"{counted(administration.skip_topic(topic), 'message')} skipped")
        else:
            _decide(ids, administration.skip, "skipped")


@click.command(short_help="Delete messages that were sent or skipped.")
@database_url_option()
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    required=True,
    help="How long ago it must have been: 90s, 15m, 12h, 7d.",
)
def purge(*, database_url: str, older_than: int) -> None:
    """Delete messages that were sent or skipped before this time. A relay does so by itself, after a week."""
    with administration_of(database_url) as administration:
        length = administration.count_purgeable(older_than)
        with progress("Deleting", length) as advance:
            deleted = administration.purge(older_than, on_progress=advance)
    click.echo(f"{counted(deleted, 'message')} deleted")


def _complaints(topics: Sequence[TopicStatus], seconds: int) -> list[str]:
    failures = [
        f"{topic.topic}: {counted(topic.failed, 'message')} failed" for topic in topics if topic.failed
    ]
    waits = [
        (topic.topic, seconds_since(topic.oldest_published_at))
        for topic in topics
        if topic.oldest_published_at is not None
    ]
    return failures + [
        f"{name}: the oldest message waits for {age(waited)}" for name, waited in waits if waited > seconds
    ]


def _cut(messages: Sequence[_Listed], limit: int) -> Sequence[_Listed]:
    if len(messages) > limit:
        click.echo(f"there are more than these {limit}: see --limit", err=True)
    return messages[:limit]


def _write_json(items: Iterable[TopicStatus | FailedMessage | ScheduledMessage]) -> None:
    # In ASCII, so that any terminal can show it.
    click.echo(json.dumps([asdict(item) for item in items], default=datetime.isoformat, indent=2))


def _decide(
    ids: Sequence[int | str], decide: Callable[[int | str], int], decision: str, kind: str = "failed"
) -> None:
    counts = {one: decide(one) for one in _each_once(ids)}
    click.echo(f"{counted(sum(counts.values()), 'message')} {decision}")
    unknown = [one for one, count in counts.items() if not count]
    if unknown:
        complain(f"there is no {kind} message with the id {', '.join(map(str, unknown))}")
        sys.exit(TRY_AGAIN)


def _each_once(ids: Sequence[int | str]) -> list[int | str]:
    return list(dict.fromkeys(ids))
