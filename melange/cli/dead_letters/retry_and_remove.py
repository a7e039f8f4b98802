"""``melange dead-letters retry`` and ``remove``."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

import click

from melange.cli.dead_letters.describing import complain_of_failures, complain_of_missing
from melange.cli.dead_letters.options import (
    place,
    place_options,
    queue_argument,
    selection_options,
)
from melange.cli.failures import TRY_AGAIN, complain
from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.readable import counted
from melange.cli.terminal import progress
from melange.operations import DeadLetters, Report, Selection

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
@place_options
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
    else:
        _check_selection(selection, everything=everything)
    with place(app, driver_name) as where:
        letters = where.dead_letters(queue_name_given)
        if edit or body:
            (message_id,) = selection.message_ids
            new_body = body.read() if body else _edited(letters, message_id)
            new_id = letters.edit(message_id, new_body, to=to)
            click.echo(json.dumps({"message_id": new_id}) if in_json else f"retried with the new id {new_id}")
            return
        with progress("Retrying", letters.measure().visible) as advance:
            report = letters.retry(
                selection, to=to, rate=rate, limit=limit, on_progress=advance, stopping=where.stopping
            )
        _show_report(report, letters, "retried", in_json=in_json)


@click.command()
@queue_argument
@selection_options(with_ids=True)
@_all_option
@_limit_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@place_options
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
    with place(app, driver_name) as where:
        letters = where.dead_letters(queue_name_given)
        if not yes:
            what = "all dead letters" if everything else "the selected dead letters"
            click.confirm(
                f"Remove {what} from {printable(letters.queue.name)}? That cannot be undone",
                abort=True,
                err=True,
            )
        with progress("Removing", letters.measure().visible) as advance:
            report = letters.remove(selection, limit=limit, on_progress=advance, stopping=where.stopping)
        _show_report(report, letters, "removed", in_json=in_json)


def _check_selection(selection: Selection, *, everything: bool) -> None:
    if selection.selects_all != everything:
        raise click.UsageError("say which: IDs or filters, or --all")


def _edited(letters: DeadLetters, message_id: str) -> str:
    browsing = letters.browse(Selection(message_ids=frozenset({message_id})), limit=1)
    found = next(browsing, None)
    browsing.close()  # the message is released while the editor is open
    if found is None:
        complain_of_missing({message_id}, letters)
        raise AssertionError("unreachable")
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
    complain_of_missing(report.unfound_ids, letters)
    sys.exit(TRY_AGAIN if report.not_done or report.was_stopped else 0)


def _waiting_behind(report: Report, letters: DeadLetters) -> int:
    """Return the number of messages that a FIFO queue does not show while the first ones of their groups are there."""
    if not letters.queue.is_fifo or report.was_stopped or not report.done < report.seen:
        return 0
    return letters.measure().visible - (report.seen - report.done)
