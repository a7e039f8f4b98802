"""The commands of ``melange outbox``, all but the relay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime

import click

from melange.cli.ages import age, age_since, seconds_since
from melange.cli.logs import printable
from melange.cli.options import complain, duration, failures_shown, progress_bar
from melange.cli.outbox.database import database, database_url_option, dialect_of
from melange.outbox import (
    FailedMessage,
    OutboxAdministration,
    ScheduledMessage,
    TopicStatus,
    create_statements,
)


def status_table(topics: Iterable[TopicStatus]) -> str:
    """Return a line for each topic."""
    rows = [
        (topic.topic, topic.pending, topic.failed, topic.held, age_since(topic.oldest_published_at))
        for topic in topics
    ]
    return _table(("TOPIC", "PENDING", "FAILED", "HELD", "OLDEST"), rows)


def failed_table(messages: Iterable[FailedMessage]) -> str:
    """Return a line for each message; the error, which is long, at its end."""
    rows = [
        (
            message.id,
            message.topic,
            "-" if message.key is None else message.key,
            message.event_type_name,
            message.message_id,
            age_since(message.published_at),
            message.held,
            message.error,
        )
        for message in messages
    ]
    return _table(("ID", "TOPIC", "KEY", "TYPE", "MESSAGE ID", "AGE", "HELD", "ERROR"), rows)


def scheduled_table(messages: Iterable[ScheduledMessage]) -> str:
    """Return a line for each message."""
    rows = [
        (
            "-" if message.due_at is None else message.due_at.isoformat(timespec="seconds"),
            message.topic,
            "-" if message.key is None else message.key,
            message.event_type_name,
            message.message_id,
        )
        for message in messages
    ]
    return _table(("DUE", "TOPIC", "KEY", "TYPE", "MESSAGE ID"), rows)


def as_json(items: Iterable[TopicStatus | FailedMessage | ScheduledMessage]) -> str:
    """Return a list of objects, with the names that the classes have; in ASCII, so that any terminal can show it."""
    return json.dumps([asdict(item) for item in items], default=datetime.isoformat, indent=2)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    lines = [headings, *([printable(str(value)) for value in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headings))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
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


_json_option = click.option("--json", "in_json", is_flag=True, help="Write JSON instead of a table.")


@click.command()
@database_url_option()
@_json_option
@click.option(
    "--fail-older-than",
    type=duration,
    metavar="DURATION",
    help="End with 1 if a message has waited longer than this (90s, 15m, 12h ...), or one has failed.",
)
def status(*, database_url: str, in_json: bool, fail_older_than: int | None) -> None:
    """Show the waiting messages by topic: pending, failed, held, and the age of the oldest."""
    with _administration(database_url) as administration:
        topics = administration.status()
    if in_json:
        click.echo(as_json(topics))
    else:
        click.echo(status_table(topics) if topics else "nothing waits")
    complaints = [] if fail_older_than is None else _complaints(topics, fail_older_than)
    for complaint in complaints:
        complain(complaint)
    sys.exit(1 if complaints else 0)


@click.command()
@database_url_option()
@_json_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
def failed(*, database_url: str, in_json: bool, limit: int) -> None:
    """Show the refused messages, the oldest first, and the number of messages that each one holds."""
    with _administration(database_url) as administration:
        messages = administration.failed(limit + 1)
    shown = messages[:limit]
    if in_json:
        click.echo(as_json(shown))
    else:
        click.echo(failed_table(shown) if shown else "nothing has failed")
    if len(messages) > limit:
        click.echo(f"there are more than these {limit}: see --limit", err=True)


@click.command()
@database_url_option()
@_json_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
def scheduled(*, database_url: str, in_json: bool, limit: int) -> None:
    """Show the messages that are due later, the next first."""
    with _administration(database_url) as administration:
        messages = administration.scheduled(limit + 1)
    if in_json:
        click.echo(as_json(messages[:limit]))
    else:
        click.echo(scheduled_table(messages[:limit]) if messages else "nothing is scheduled")
    if len(messages) > limit:
        click.echo(f"there are more than these {limit}: see --limit", err=True)


@click.command()
@database_url_option()
@click.argument("message_ids", metavar="MESSAGE_ID...", nargs=-1, required=True)
def cancel(*, database_url: str, message_ids: tuple[str, ...]) -> None:
    """Cancel scheduled messages, as `melange outbox scheduled` shows them. They are never published.

    Ends with 1 if a MESSAGE_ID is not scheduled, or is due and on its way; the others are cancelled all the same.
    """
    with _administration(database_url) as administration:
        _decide(message_ids, lambda one: administration.cancel(str(one)), "cancelled", kind="scheduled")


@click.command()
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
    with _administration(database_url) as administration:
        if everything:
            click.echo(f"{_messages(administration.retry())} to be tried again")
        else:
            _decide(ids, administration.retry, "to be tried again")


@click.command()
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
    with _administration(database_url) as administration:
        if topic:
            click.echo(f"{_messages(administration.skip_topic(topic))} skipped")
        else:
            _decide(ids, administration.skip, "skipped")


@click.command()
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
    with _administration(database_url) as administration:
        length = administration.count_purgeable(older_than)
        with progress_bar(length, "Deleting") as advance:
            deleted = administration.purge(older_than, on_progress=advance)
    click.echo(f"{_messages(deleted)} deleted")


@click.command()
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


@contextmanager
def _administration(database_url: str) -> Iterator[OutboxAdministration]:
    with failures_shown(), database(database_url) as engine:
        yield OutboxAdministration(engine)


def _complaints(topics: Sequence[TopicStatus], seconds: int) -> list[str]:
    failures = [f"{topic.topic}: {_messages(topic.failed)} failed" for topic in topics if topic.failed]
    waits = [
        (topic.topic, seconds_since(topic.oldest_published_at))
        for topic in topics
        if topic.oldest_published_at is not None
    ]
    return failures + [
        f"{name}: the oldest message waits for {age(waited)}" for name, waited in waits if waited > seconds
    ]


def _decide(
    ids: Sequence[int | str], decide: Callable[[int | str], int], decision: str, kind: str = "failed"
) -> None:
    counts = {one: decide(one) for one in _each_once(ids)}
    click.echo(f"{_messages(sum(counts.values()))} {decision}")
    unknown = [one for one, count in counts.items() if not count]
    if unknown:
        complain(f"there is no {kind} message with the id {', '.join(map(str, unknown))}")
        sys.exit(1)


def _each_once(ids: Sequence[int | str]) -> list[int | str]:
    return list(dict.fromkeys(ids))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
