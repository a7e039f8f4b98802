"""The commands that compare a program with its broker: ``melange topology plan``, ``apply`` and ``doctor``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click
from rich.console import Console

from melange.cli.logs import printable
from melange.cli.options import json_option
from melange.cli.terminal import counted, progress
from melange.cli.topology.options import (
    DRIFT,
    failures_end_with_1,
    load_program,
    renamed_option,
    targets_argument,
    write_json,
)
from melange.errors import ConfigurationError
from melange.topology.checks import Finding, app_option
from melange.topology.doctor import diagnose
from melange.topology.drift import make_plan
from melange.topology.plan import Applied, Change, Plan, about, apply_plan, reason_to_leave

_SIGNS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "move": (">", "yellow"),
    "remove": ("-", "red"),
}


@click.command(short_help="Show what differs from the broker.")
@targets_argument
@renamed_option
@click.option("--prune", is_flag=True, help="Changes nothing here: a plan always shows what `apply` prunes.")
@json_option
def plan(
    *,
    targets: tuple[str, ...],
    name: str | None,
    renamed: dict[str, str],
    prune: bool,  # noqa: ARG001 - people type it, as for `apply`
    in_json: bool,
) -> None:
    """Show what is missing at the broker, what differs, and what is not wanted any more. Change nothing.

    Exit codes: 0 no drift; 1 failed; 2 drift.
    """
    with failures_end_with_1():
        found = load_program(targets, name)
        made = make_plan(found.topology, found.broker(), renamed=renamed)
    if in_json:
        write_json(made.to_document())
    else:
        _show_plan(made, found.typed + "".join(f" --renamed {old}={new}" for old, new in renamed.items()))
    sys.exit(DRIFT if made.has_drift else 0)


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
        _show_applied(applied, found.typed)
    sys.exit(DRIFT if applied.left else 0)


@click.command(short_help="Find what breaks silently.")
@targets_argument
@json_option
def doctor(*, targets: tuple[str, ...], name: str | None, in_json: bool) -> None:
    """Find what breaks silently: each fault with its reason and what repairs it. Change nothing.

    Exit codes: 0 no errors, perhaps warnings; 1 failed; 2 errors.
    """
    with failures_end_with_1():
        found = load_program(targets, name)
        findings = diagnose(found.topology, found.broker())
    if in_json:
        write_json({"findings": [finding.to_document(found.typed) for finding in findings]})
    else:
        _show_findings(findings, found.typed)
    sys.exit(DRIFT if any(finding.severity == "error" for finding in findings) else 0)


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


def _show_plan(made: Plan, typed: str) -> None:
    """Write what ``apply`` would do, and the command for it."""
    console = _console()
    model = made.topology
    console.print(f"topology {model.name}" + (f", prefix {model.prefix}" if model.prefix else ""))
    _show_changes(console, [change for change in made.changes if change.is_drift])
    extra = [change for change in made.changes if not change.is_drift]
    if extra:
        console.print("apply also does, without any drift:")
        _show_changes(console, extra)
    for note in made.notes:
        console.print(printable(f"note: {note}"))
    counts = dict.fromkeys(_SIGNS, 0)
    for change in made.changes:
        counts[change.action] += change.is_drift
    if not made.has_drift:
        console.print("no drift")
        return
    moves = f", {counts['move']} to move" if counts["move"] else ""
    console.print(
        f"drift: {counts['create']} to create, {counts['update']} to change{moves}, {counts['remove']} to remove"
    )
    for advice in _advice(made, f"melange topology apply {typed}"):
        console.print(advice)


def _advice(made: Plan, command: str) -> Iterator[str]:
    """Yield the commands that make it so: one that keeps the messages of old queues comes first."""
    removals = [change for change in made.changes if change.action == "remove"]
    prune = " --prune" if removals else ""
    old_names = sorted({change.old_name for change in removals if change.message_count})
    if not old_names:
        yield f"to make it so: {command}{prune}"
        return
    empty = [change for change in removals if change.old_name not in old_names]
    renamed = "".join(f" --renamed {name}=NEW_NAME" for name in old_names)
    yield f"if {', '.join(old_names)} was renamed: {command}{renamed}{' --prune' if empty else ''}"
    yield f"if nothing needs its messages: {command} --prune --delete-messages"


def _show_changes(console: Console, changes: Sequence[Change]) -> None:
    for change in changes:
        sign, colour = _SIGNS[change.action]
        console.print(printable(f"  {sign} {_described(change)}"), style=colour)
        for one in change.differences:
            text = one.wanted if change.action == "create" else f"{one.now} => {one.wanted}"
            console.print(printable(f"      {one.setting}: {text}"))


def _described(change: Change) -> str:
    parts = [f"{change.kind} {change.name}"]
    if change.message_count:
        parts.append(about(change.message_count))
    if change.takes:
        parts.append(change.takes)
    return parts[0] + (f" ({'; '.join(parts[1:])})" if parts[1:] else "")


def _show_applied(applied: Applied, typed: str) -> None:
    """Write what was done and what was left."""
    console = _console()
    _show_changes(console, applied.done)
    for change, reason in applied.left:
        console.print(printable(f"  left: {_described(change)}: {reason}"), style="yellow")
    console.print(f"{len(applied.done)} done, {len(applied.left)} left")
    for change in applied.done:
        if change.dead_letters_of and change.message_count:
            console.print(
                f"dead letters wait in {printable(change.name.rpartition(' -> ')[2])} ({about(change.message_count)}): "
                f"melange dead-letters list {printable(change.dead_letters_of)}{app_option(typed)}"
            )


def _show_findings(findings: Sequence[Finding], typed: str) -> None:
    """Write each finding with its reason and remedy, and how many there are."""
    console = _console()
    for finding in findings:
        colour = {"error": "red", "warning": "yellow"}.get(finding.severity, "")
        console.print(
            printable(f"{finding.severity} [{finding.check}] {finding.resource}: {finding.problem}"),
            style=colour,
        )
        console.print(printable(f"    why: {finding.reason}"))
        console.print(printable(f"    fix: {finding.remedy_for(typed)}"))
    errors, warnings, notes = (
        sum(finding.severity == severity for finding in findings) for severity in ("error", "warning", "note")
    )
    console.print(
        f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        + (f", {counted(notes, 'note')}" if notes else "")
    )


def _console() -> Console:
    # Lines are not wrapped: they are searched and copied. Colours appear in terminals only.
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
