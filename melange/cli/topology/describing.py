"""Plans, what was applied, and findings, as coloured lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from melange.cli.logs import printable
from melange.cli.readable import counted
from melange.topology.checks import Finding, app_option
from melange.topology.plan import Applied, Change, Plan, about

_SIGNS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "move": (">", "yellow"),
    "remove": ("-", "red"),
}


def _console() -> Console:
    # Lines are not wrapped: they are searched and copied. Colours appear in terminals only.
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_plan(made: Plan, typed: str) -> None:
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


def show_applied(applied: Applied, typed: str) -> None:
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


def show_findings(findings: Sequence[Finding], typed: str) -> None:
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
