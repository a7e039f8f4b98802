"""``melange dead-letters export`` and ``import``."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TextIO

import click

from melange.cli.dead_letters.describing import complain_of_failures, complain_of_missing
from melange.cli.dead_letters.options import (
    place,
    place_options,
    queue_argument,
    selection_options,
)
from melange.cli.failures import TRY_AGAIN
from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.readable import counted
from melange.cli.terminal import progress
from melange.operations import Selection, export_line, import_lines


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
@place_options
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
    with place(app, driver_name) as where:
        if masked and where.serializer is None:
            raise click.UsageError("--masked needs --app: the program says which fields are sensitive")
        letters = where.dead_letters(queue_name_given)
        found: set[str] = set()
        with progress("Exporting", letters.measure().visible) as advance:
            browsing = letters.browse(selection, limit=limit, on_progress=advance, stopping=where.stopping)
            with closing(browsing):
                for letter in browsing:
                    output.write(export_line(letter, masked=masked, serializer=where.serializer) + "\n")
                    found.add(letter.message_id)
        output.flush()
        click.echo(f"{counted(len(found), 'dead letter')} exported", err=True)
        complain_of_missing(selection.message_ids - found, letters)
        sys.exit(TRY_AGAIN if where.stopping() else 0)


@click.command("import", short_help="Send exported messages to a queue.")
@queue_argument
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@json_option
@place_options
def import_command(
    *, queue_name_given: str, file: TextIO, in_json: bool, app: str | None, driver_name: str | None
) -> None:
    """Send exported messages to QUEUE, each with its id. FILE is standard input by default.

    To a dead-letter queue they go with their reasons, to any other queue without. Ends with 1 if the broker refused some.
    """
    with place(app, driver_name) as where:
        lines = list(file)
        failures = import_lines(queue_name_given, lines, where.driver)
        sent = sum(1 for line in lines if line.strip()) - len(failures)
        if in_json:
            errors = [{"message_id": one.item.message_id, "error": str(one.error)} for one in failures]
            click.echo(json.dumps({"sent": sent, "not_done": errors}, indent=2))
        else:
            click.echo(f"{counted(sent, 'message')} sent to {printable(queue_name_given)}")
            complain_of_failures([(one.item.message_id, str(one.error)) for one in failures])
        sys.exit(TRY_AGAIN if failures else 0)
