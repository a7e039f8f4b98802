"""``melange dead-letters move``."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from datetime import datetime

import click

from melange.cli.dead_letters.options import Place, place, place_options, queue_argument
from melange.cli.failures import TRY_AGAIN, complain
from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.readable import age_since, counted
from melange.cli.terminal import progress, show_table
from melange.operations import DeadLetters

_POLL_SECONDS = 2.0


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
@place_options
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

    It goes on when the command has ended. Ends with 1 if the last move failed, or if there was nothing to cancel.
    """
    if (status or cancel) and (to or rate or wait or (status and cancel)):
        raise click.UsageError("--status and --cancel take no other option")
    with place(app, driver_name) as where:
        letters = where.dead_letters(queue_name_given)
        if cancel:
            moved = letters.cancel_move()
            if in_json:
                click.echo(json.dumps({"moved": moved}))
            elif moved is None:
                complain("no move is running")
            else:
                click.echo(f"cancelled, after {_about(letters)}{counted(moved, 'message')}")
            sys.exit(TRY_AGAIN if moved is None else 0)
        if not status:
            destination = letters.start_move(to=to, messages_per_second=rate)
            if not in_json:
                click.echo(f"moving to {printable(destination.name)}: see --status and --cancel")
        if wait:
            _wait(letters, where)
        if status or wait or in_json:
            _show_moves(letters, in_json=in_json)
        tasks = letters.moves()
        sys.exit(TRY_AGAIN if tasks and tasks[0].status == "failed" else 0)


def _wait(letters: DeadLetters, where: Place) -> None:
    never, moved = threading.Event(), 0
    with progress("Moving", letters.measure().visible) as advance:
        while not where.stopping():
            tasks = letters.moves()
            if tasks:
                advance(tasks[0].moved - moved)
                moved = tasks[0].moved
            if not tasks or tasks[0].status not in ("running", "cancelling"):
                return
            never.wait(_POLL_SECONDS)


def _show_moves(letters: DeadLetters, *, in_json: bool) -> None:
    tasks = letters.moves()
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
