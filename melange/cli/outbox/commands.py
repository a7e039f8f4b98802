"""The commands of ``melange outbox``, all but the relay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from melange.cli.failures import complain, failures_shown
from melange.cli.logs import printable
from melange.cli.options import duration, progress_bar
from melange.cli.outbox.database import database, database_url_option
from melange.cli.outbox.listing import age, as_json, failed_table, seconds_since, status_table
from melange.cli.outbox.relaying import relay
from melange.outbox import OutboxAdministration, TopicStatus, create_statements

_ID = click.IntRange(1, 2**63 - 1)
_json_option = click.option("--json", "in_json", is_flag=True, help="Write JSON instead of a table.")


@click.command()
@database_url_option()
@_json_option
@click.option(
    "--fail-older-than",
    type=duration,
    metavar="DURATION",
    help="End with 1 if a message has waited longer than that (90s, 15m, 12h ...), or any has failed.",
)
def status(*, database_url: str, in_json: bool, fail_older_than: int | None) -> None:
    """Show what waits, by topic: pending, failed, held by what failed, and the age of the oldest of these."""
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
    """Show the messages that were refused, the oldest first, and how many each one holds."""
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
@click.argument("ids", metavar="[ID]...", nargs=-1, type=_ID)
@click.option("--all", "everything", is_flag=True, help="Try again whatever has failed.")
def retry(*, database_url: str, ids: tuple[int, ...], everything: bool) -> None:
    """Have failed messages tried again, before those of their keys that they hold.

    Ends with 1 if an ID is of no failed message; the others are tried again all the same.
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
@click.argument("ids", metavar="[ID]...", nargs=-1, type=_ID)
@click.option(
    "--topic", metavar="NAME", help="Leave out whatever waits for a topic that will never be there."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def skip(*, database_url: str, ids: tuple[int, ...], topic: str | None, yes: bool) -> None:
    """Leave failed messages out for good, so that those of their keys go on.

    Ends with 1 if an ID is of no failed message; the others are skipped all the same.
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
    """Delete what was sent or skipped longer ago than that. A relay does so by itself, after a week."""
    with _administration(database_url) as administration:
        length = administration.count_purgeable(older_than)
        with progress_bar(length, "Deleting") as advance:
            deleted = administration.purge(older_than, on_progress=advance)
    click.echo(f"{_messages(deleted)} deleted")


@click.command()
@click.argument("dialect", type=click.Choice(["postgresql", "sqlite"]))
def schema(*, dialect: str) -> None:
    """Print the SQL that creates the tables of outbox and inbox."""
    click.echo(create_statements(dialect), nl=False)


COMMANDS = (relay, status, failed, retry, skip, purge, schema)


@contextmanager
def _administration(database_url: str) -> Iterator[OutboxAdministration]:
    with failures_shown(), database(database_url) as engine:
        yield OutboxAdministration(engine)


def _complaints(topics: Sequence[TopicStatus], seconds: int) -> list[str]:
    failures = [f"{topic.topic}: {_messages(topic.failed)} failed" for topic in topics if topic.failed]
    waits = [(topic.topic, seconds_since(topic.oldest_published_at)) for topic in topics]
    return failures + [
        f"{name}: the oldest message waits for {age(waited)}" for name, waited in waits if waited > seconds
    ]


def _decide(ids: Sequence[int], decide: Callable[[Sequence[int]], int], decision: str) -> None:
    unknown = [one for one in _each_once(ids) if not decide([one])]
    click.echo(f"{_messages(len(_each_once(ids)) - len(unknown))} {decision}")
    if unknown:
        complain(f"there is no failed message with the id {', '.join(map(str, unknown))}")
        sys.exit(1)


def _each_once(ids: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(ids))


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
