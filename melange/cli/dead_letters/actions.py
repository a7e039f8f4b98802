"""The commands that act on dead letters: ``retry``, ``remove``, ``move``, ``export`` and ``import``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Any, NoReturn, TextIO

import click

from melange.cli.dead_letters.options import (
    Connection,
    broker_options,
    complain_of_failures,
    connect,
    queue_argument,
    selection_options,
    unseen,
)
from melange.cli.failures import TRY_AGAIN, complain
from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.terminal import age_since, counted, progress, show_table
from melange.drivers.dead_letters import MoveTask
from melange.operations import DeadLetters, Report, Selection, export_line, import_lines

_POLL_SECONDS = 2.0

_all_option = click.option("--all", "everything", is_flag=True, help="All dead letters, without a selection.")
_limit_option = click.option("--limit", type=click.IntRange(min=1), help="At most this many.")


@click.command(short_help="Send dead letters back, then remove them.")
@queue_argument
@selection_options(with_ids=True)
@_all_option
@click.option("--to", metavar="QUEUE", help="Another queue than the one where each failed.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most this many messages a second.")
@_limit_option
@click.option("--edit", is_flag=True, help="Edit the body of the one ID in your editor first.")
@click.option(
    "--body", type=click.File(encoding="utf-8"), help="A file with another body for the one ID, - for stdin."
)
@json_option
@broker_options
def retry(
    *,
    queue_name_given: str,
    selection: Selection,
    everything: bool,
    to: str | None,
    rate: float | None,
    limit: int | None,
    edit: bool,
    body: TextIO | None,
    in_json: bool,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Send dead letters back to the queue where they failed, then remove them.

    Each keeps its id, so that listeners that had finished the message do not run again. Interrupted or killed, this loses
    nothing: run it again. With --edit or --body the message gets a new id, and all listeners run.

    Ends with 1 if some could not be retried, or if a signal came first.
    """
    if edit or body:
        if len(selection.message_ids) != 1 or (edit and body):
            raise click.UsageError("--edit and --body are for one ID, and only one of them")
        if everything or rate or limit or selection != Selection(message_ids=selection.message_ids):
            raise click.UsageError("--edit and --body take no filter, --all, --limit or --rate")
    else:
        _check_selection(selection, everything=everything)
    with connect(app, driver_name) as connection:
        letters = connection.dead_letters(queue_name_given)
        if edit or body:
            (message_id,) = selection.message_ids
            new_body = body.read() if body else _edited(letters, message_id)
            new_id = letters.edit(message_id, new_body, to=to)
            click.echo(json.dumps({"message_id": new_id}) if in_json else f"retried with the new id {new_id}")
            return
        with progress("Retrying", letters.measure().visible) as advance:
            report = letters.retry(
                selection, to=to, rate=rate, limit=limit, on_progress=advance, stopping=connection.stopping
            )
        _show_report(report, letters, "retried", in_json=in_json)


@click.command()
@queue_argument
@selection_options(with_ids=True)
@_all_option
@_limit_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@broker_options
def remove(
    *,
    queue_name_given: str,
    selection: Selection,
    everything: bool,
    limit: int | None,
    yes: bool,
    in_json: bool,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Remove dead letters for good. That cannot be undone: `export` them first.

    Ends with 1 if some could not be removed, or if a signal came first.
    """
    _check_selection(selection, everything=everything)
    with connect(app, driver_name) as connection:
        letters = connection.dead_letters(queue_name_given)
        if not yes:
            what = "all dead letters" if everything else "the selected dead letters"
            click.confirm(
                f"Remove {what} from {printable(letters.queue.name)}? That cannot be undone",
                abort=True,
                err=True,
            )
        with progress("Removing", letters.measure().visible) as advance:
            report = letters.remove(selection, limit=limit, on_progress=advance, stopping=connection.stopping)
        _show_report(report, letters, "removed", in_json=in_json)


@click.command(short_help="Let the broker move the whole queue.")
@queue_argument
@click.option(
    "--to",
    metavar="QUEUE",
    help="The queue to move to.  [default: the only queue that uses this dead-letter queue]",
)
@click.option("--rate", type=click.IntRange(1, 500), help="At most this many messages a second.")
@click.option("--wait", is_flag=True, help="Wait until it is over.")
@click.option("--status", is_flag=True, help="Start nothing: show the last moves.")
@click.option("--cancel", is_flag=True, help="Start nothing: stop the running move.")
@json_option
@broker_options
def move(
    *,
    queue_name_given: str,
    to: str | None,
    rate: int | None,
    wait: bool,
    status: bool,
    cancel: bool,
    in_json: bool,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Let the broker move the whole dead-letter queue, without a selection (SQS: StartMessageMoveTask).

    It goes on when the command has ended. Ends with 1 if the last move failed, if there was nothing to cancel, or if a
    signal came while it waited.
    """
    if (status or cancel) and (to or rate or wait or (status and cancel)):
        raise click.UsageError("--status and --cancel take no other option")
    with connect(app, driver_name) as connection:
        letters = connection.dead_letters(queue_name_given)
        if cancel:
            _cancel_move(letters, in_json=in_json)
        if not status:
            destination = letters.start_move(to=to, messages_per_second=rate)
            if not in_json:
                click.echo(f"moving to {printable(destination.name)}: see --status and --cancel")
        if wait:
            _wait(letters, connection)
        tasks = letters.moves()
        if status or wait or in_json:
            _show_moves(tasks, letters, in_json=in_json)
        has_failed = bool(tasks) and tasks[0].status == "failed"
        sys.exit(TRY_AGAIN if has_failed or connection.stopping() else 0)


@click.command(short_help="Write dead letters as lines of JSON.")
@queue_argument
@selection_options(with_ids=True)
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="-",
    help="A file.  [default: stdout]",
)
@click.option("--masked", is_flag=True, help="Mask sensitive fields, for a ticket; it cannot be imported.")
@click.option("--limit", type=click.IntRange(min=1), help="How many to write.")
@broker_options
def export(
    *,
    queue_name_given: str,
    selection: Selection,
    output: TextIO,
    masked: bool,
    limit: int | None,
    app: str | None,
    driver_name: str | None,
) -> None:
    """Write dead letters as lines of JSON, with complete bodies; remove none.

    `import` sends them to a queue again. Ends with 1 if an ID was not found.
    """
    with connect(app, driver_name) as connection:
        if masked and connection.serializer is None:
            raise click.UsageError("--masked needs --app: the program says which fields are sensitive")
        letters = connection.dead_letters(queue_name_given)
        found: set[str] = set()
        with progress("Exporting", letters.measure().visible) as advance:
            browsing = letters.browse(
                selection, limit=limit, on_progress=advance, stopping=connection.stopping
            )
            with closing(browsing):
                for letter in browsing:
                    output.write(export_line(letter, masked=masked, serializer=connection.serializer) + "\n")
                    found.add(letter.message_id)
        output.flush()
        click.echo(f"{counted(len(found), 'dead letter')} exported", err=True)
        if missing := selection.message_ids - found:
            raise unseen(missing, letters)
        sys.exit(TRY_AGAIN if connection.stopping() else 0)


@click.command("import", short_help="Send exported messages to a queue.")
@queue_argument
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@json_option
@broker_options
def import_command(
    *, queue_name_given: str, file: TextIO, in_json: bool, app: str | None, driver_name: str | None
) -> None:
    """Send exported messages to QUEUE, each with its id. FILE is standard input by default.

    To a dead-letter queue they go with their reasons, to any other queue without. Ends with 1 if the broker refused some.
    """
    with connect(app, driver_name) as connection:
        lines = list(file)
        failures = import_lines(queue_name_given, lines, connection.driver)
        sent = sum(1 for line in lines if line.strip()) - len(failures)
        if in_json:
            errors = [{"message_id": one.item.message_id, "error": str(one.error)} for one in failures]
            click.echo(json.dumps({"sent": sent, "not_done": errors}, indent=2))
        else:
            click.echo(f"{counted(sent, 'message')} sent to {printable(queue_name_given)}")
            complain_of_failures([(one.item.message_id, str(one.error)) for one in failures])
        sys.exit(TRY_AGAIN if failures else 0)


def _check_selection(selection: Selection, *, everything: bool) -> None:
    if selection.selects_all != everything:
        raise click.UsageError("say which: IDs or filters, or --all")


def _edited(letters: DeadLetters, message_id: str) -> str:
    browsing = letters.browse(Selection(message_ids=frozenset({message_id})), limit=1)
    found = next(browsing, None)
    browsing.close()  # the message is released while the editor is open
    if found is None:
        raise unseen([message_id], letters)
    pretty = (
        found.message.body if found.data is None else json.dumps(found.data, indent=2, ensure_ascii=False)
    )
    edited = click.edit(pretty, extension=".json")
    if edited is None or edited.strip() == pretty.strip():
        complain("the body was not changed: nothing is done")
        sys.exit(TRY_AGAIN)
    return edited.strip()


def _show_report(report: Report, letters: DeadLetters, done: str, *, in_json: bool) -> None:
    errors = [(one.message_id, str(one.error)) for one in report.not_done]
    if in_json:
        result: dict[str, Any] = {
            "seen": report.seen,
            done: report.done,
            "sent_to": report.sent_to,
            "not_done": [{"message_id": message_id, "error": error} for message_id, error in errors],
            "unfound_ids": report.unfound_ids,
            "was_stopped": report.was_stopped,
        }
        click.echo(json.dumps(result, indent=2))
    else:
        places = ", ".join(f"{count:,} to {printable(name)}" for name, count in report.sent_to.items())
        click.echo(f"{counted(report.done, 'dead letter')} {done}" + (f": {places}" if places else ""))
        complain_of_failures(errors)
        waiting = _waiting_behind(report, letters)
        if waiting > 0:
            click.echo(
                f"about {waiting:,} more wait behind others that are not selected, in their groups "
                "(list --group-by group)"
            )
        if report.was_stopped:
            complain("stopped before the end: run it again for the rest")
    if report.unfound_ids:
        raise unseen(report.unfound_ids, letters)
    sys.exit(TRY_AGAIN if report.not_done or report.was_stopped else 0)


def _waiting_behind(report: Report, letters: DeadLetters) -> int:
    """Return the number of messages that a FIFO queue does not show while the first ones of their groups are there."""
    if not letters.queue.is_fifo or report.was_stopped or not report.done < report.seen:
        return 0
    return letters.measure().visible - (report.seen - report.done)


def _cancel_move(letters: DeadLetters, *, in_json: bool) -> NoReturn:
    moved = letters.cancel_move()
    if in_json:
        click.echo(json.dumps({"moved": moved}))
    elif moved is None:
        complain("no move is running")
    else:
        click.echo(f"cancelled, after {_about(letters)}{counted(moved, 'message')}")
    sys.exit(TRY_AGAIN if moved is None else 0)


def _wait(letters: DeadLetters, connection: Connection) -> None:
    moved = 0
    with progress("Moving", letters.measure().visible) as advance:
        while not connection.stopping():
            tasks = letters.moves()
            if tasks:
                advance(tasks[0].moved - moved)
                moved = tasks[0].moved
            if not tasks or tasks[0].status not in ("running", "cancelling"):
                return
            time.sleep(_POLL_SECONDS)


def _show_moves(tasks: Sequence[MoveTask], letters: DeadLetters, *, in_json: bool) -> None:
    if in_json:
        click.echo(json.dumps([asdict(task) for task in tasks], default=datetime.isoformat, indent=2))
    elif tasks:
        about = _about(letters)
        rows = [
            (
                task.status,
                task.destination_name,
                f"{about}{task.moved:,}",
                None if task.to_move is None else f"{about}{task.to_move:,}",
                age_since(task.started_at),
                task.failure,
            )
            for task in tasks
        ]
        show_table(("STATUS", "TO", "MOVED", "OF", "STARTED", "FAILURE"), rows)
    else:
        click.echo("nothing was moved lately")


def _about(letters: DeadLetters) -> str:
    return "about " if letters.counts_are_estimates else ""
