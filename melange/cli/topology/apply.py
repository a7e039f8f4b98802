"""``melange topology apply``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.terminal import progress
from melange.cli.topology.describing import show_applied
from melange.cli.topology.options import (
    DRIFT,
    failures_end_with_1,
    load_program,
    renamed_option,
    targets_argument,
    write_json,
)
from melange.errors import ConfigurationError
from melange.topology.drift import make_plan
from melange.topology.plan import Change, Plan, apply_plan, reason_to_leave


@click.command(short_help="Create and change what `plan` shows.")
@targets_argument
@renamed_option
@click.option(
    "--prune", is_flag=True, help="Remove bindings, filters and queues that are not wanted any more."
)
@click.option("--delete-messages", is_flag=True, help="With --prune: also remove queues that hold messages.")
@click.option("--adopt", is_flag=True, help="Take over queues that are marked for another topology.")
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    help="Only the changes of this topic, queue or binding, named as `plan` names it; may be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask before something is moved or removed.")
@json_option
def apply(
    *,
    targets: tuple[str, ...],
    name: str | None,
    renamed: dict[str, str],
    prune: bool,
    delete_messages: bool,
    adopt: bool,
    only: tuple[str, ...],
    yes: bool,
    in_json: bool,
) -> None:
    """Create and change what `plan` shows. Nothing is removed without --prune or --renamed.

    Exit codes: 0 all was done; 1 failed: run it again; 2 something was left, with the reason.
    """
    with failures_end_with_1():
        found = load_program(targets, name)
        made = make_plan(found.topology, found.broker(), renamed=renamed)
        if only:
            made = _only(made, only)
        if not yes:
            _confirm(
                [
                    change
                    for change in made.changes
                    if not reason_to_leave(change, prune=prune, delete_messages=delete_messages)
                ]
            )
        with progress("Applying", len(made.changes)) as advance:
            applied = apply_plan(
                made,
                prune=prune,
                delete_messages=delete_messages,
                adopt=adopt,
                on_done=lambda _: advance(1),
            )
    if in_json:
        write_json(applied.to_document())
    else:
        show_applied(applied, found.typed)
    sys.exit(DRIFT if applied.left else 0)


def _only(made: Plan, names: Sequence[str]) -> Plan:
    known = {change.name for change in made.changes}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ConfigurationError(
            f"the plan has no change of {unknown[0]!r}, only of: {', '.join(sorted(known)) or 'nothing'}"
        )
    return replace(made, changes=tuple(change for change in made.changes if change.name in names))


def _confirm(changes: Sequence[Change]) -> None:
    """Ask before something is removed, old queues of a rename included."""
    removed = [change.name for change in changes if change.action == "remove"]
    moved = [change.name for change in changes if change.action == "move"]
    questions = [f"Remove {', '.join(removed)}?"] if removed else []
    if moved:
        questions.append(f"Move the messages {', '.join(moved)}, and remove the old queues?")
    if questions:
        click.confirm(printable(" ".join(questions)) + " That cannot be undone", abort=True, err=True)
