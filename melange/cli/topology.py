"""The commands ``melange topology plan``, ``apply``, ``doctor``, ``export`` and ``graph``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from melange.cli.logs import printable
from melange.cli.options import TRY_AGAIN, failures_shown
from melange.cli.targets import load
from melange.drivers.base import MessagingDriver
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError
from melange.topology.applying import Applied, apply_plan, reason_to_leave
from melange.topology.changes import Change, about
from melange.topology.collecting import collect
from melange.topology.doctor import Finding, app_option, diagnose
from melange.topology.document import combined, from_document, to_document
from melange.topology.model import Topology
from melange.topology.names import Account
from melange.topology.plan import Plan, make_plan

DRIFT = 2
"""The exit code when the broker is not as the program wants it."""

_SIGNS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "move": (">", "yellow"),
    "remove": ("-", "red"),
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Program:
    """The topology of the targets, the driver, and the arguments as they were typed, for commands to copy."""

    topology: Topology
    driver: MessagingDriver | None
    typed: str

    def broker(self) -> MessagingDriver:
        """Return the driver: of the program, or by default AWS for topologies of files alone."""
        if self.driver is not None:
            return self.driver
        return DriverManager.instance().use_driver(driver_name="aws", prefix=self.topology.prefix)


class _Group(click.Group):
    """Ends with 1 for wrong usage: 2 means drift here."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.show()
            ctx.exit(TRY_AGAIN)


@click.group(cls=_Group)
def topology() -> None:
    """Show, make, check and export the topics and queues of a program.

    TARGET is MODULE:ATTRIBUTE: a function that creates the consumers and publishers, a Worker, a consumer, a list of
    them; or a file that `export --format json` has written. Several targets become one topology. Nothing is declared
    while a target is loaded.

    Exit codes: 0 the broker is as the program wants it; 1 the command failed, or its usage is wrong; 2 it is not, or
    `doctor` has found errors.
    """


def _targets(command: _Command) -> _Command:
    name = click.option(
        "--name",
        metavar="NAME",
        help="The name that marks the queues of this program.  [default: the first part of the first module]",
    )
    target = click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
    return target(name(command))


def _old_and_new(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    renamed = {old: new for old, _, new in (pair.partition("=") for pair in pairs)}
    if not all(renamed) or not all(renamed.values()):
        raise click.BadParameter("write OLD=NEW, the names of two queues")
    return renamed


_renamed = click.option(
    "--renamed",
    metavar="OLD=NEW",
    multiple=True,
    callback=_old_and_new,
    help="A queue's old and new name: its messages move, with their ids, and the old queue is removed.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@topology.command()
@_targets
@_renamed
@click.option("--prune", is_flag=True, help="Changes nothing here: a plan always shows what `apply` prunes.")
@_as_json
def plan(
    *,
    targets: tuple[str, ...],
    name: str | None,
    renamed: dict[str, str],
    prune: bool,  # noqa: ARG001 - people type it, as for `apply`
    as_json: bool,
) -> None:
    """Show what is missing at the broker, what differs, and what is not wanted any more. Change nothing.

    Exit codes: 0 no drift; 1 failed; 2 drift.
    """
    with _failures_end_with_1():
        found = _load(targets, name)
        made = make_plan(found.topology, found.broker(), renamed=renamed)
    if as_json:
        _write_json(made.to_document())
    else:
        _show_plan(made, found.typed + "".join(f" --renamed {old}={new}" for old, new in renamed.items()))
    sys.exit(DRIFT if made.has_drift else 0)


@topology.command()
@_targets
@_renamed
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
@_as_json
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
    as_json: bool,
) -> None:
    """Create and change what `plan` shows. Nothing is removed without --prune or --renamed.

    Exit codes: 0 all was done; 1 failed: run it again; 2 something was left, with the reason.
    """
    with _failures_end_with_1():
        found = _load(targets, name)
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
        with _progress(len(made.changes)) as advance:
            applied = apply_plan(
                made, prune=prune, delete_messages=delete_messages, adopt=adopt, on_done=advance
            )
    if as_json:
        _write_json(applied.to_document())
    else:
        _show_applied(applied, found.typed)
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


@topology.command()
@_targets
@_as_json
def doctor(*, targets: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Find what breaks silently: each fault with its reason and what repairs it. Change nothing.

    Exit codes: 0 no errors, perhaps warnings; 1 failed; 2 errors.
    """
    with _failures_end_with_1():
        found = _load(targets, name)
        findings = diagnose(found.topology, found.broker())
    if as_json:
        _write_json({"findings": [finding.to_document(found.typed) for finding in findings]})
    else:
        _show_findings(findings, found.typed)
    sys.exit(DRIFT if any(finding.severity == "error" for finding in findings) else 0)


@topology.command()
@_targets
@click.option(
    "--format",
    "export_format",
    type=click.Choice(["json", "terraform", "cloudformation", "iam"]),
    required=True,
    help="json is the model itself, for `melange server --topology` and as a target of these commands.",
)
@click.option("--region", default="REGION", show_default=True, help="For the ARNs of --format iam.")
@click.option("--account", default="ACCOUNT", show_default=True, help="For the ARNs of --format iam.")
@click.option("--partition", default="aws", show_default=True, help="For the ARNs of --format iam.")
@click.option("--kms-key", metavar="ARN", help="The customer key that encrypts topics and queues.")
@click.option(
    "--json", "_as_json", is_flag=True, help="Every format is JSON already; accepted for uniformity."
)
def export(
    *,
    targets: tuple[str, ...],
    name: str | None,
    export_format: str,
    region: str,
    account: str,
    partition: str,
    kms_key: str | None,
    _as_json: bool,
) -> None:
    """Write the topology for another tool, as JSON. The broker is not asked.

    Exit codes: 0 written; 1 failed.
    """
    with _failures_end_with_1():
        model = _load(targets, name).topology
        document = _exported(model, export_format, Account(region, account, partition), kms_key)
    _write_json(document)


@topology.command()
@_targets
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["mermaid", "svg", "png"]),
    default="mermaid",
    show_default=True,
    help="svg and png need the extra melange[graph].",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write the model as JSON, as `export --format json` does."
)
def graph(
    *, targets: tuple[str, ...], name: str | None, picture_format: str, output: Path | None, as_json: bool
) -> None:
    """Draw publishers, topics, queues and listeners. The broker is not asked.

    Exit codes: 0 drawn; 1 failed.
    """
    from melange.topology.graph import to_mermaid, to_picture  # noqa: PLC0415 - only this command draws

    with _failures_end_with_1():
        model = _load(targets, name).topology
        if as_json:
            drawn = json.dumps(to_document(model), indent=2).encode() + b"\n"
        elif picture_format == "mermaid":
            drawn = to_mermaid(model).encode()
        else:
            drawn = to_picture(model, "png" if picture_format == "png" else "svg")
        if output is not None:
            _write_file(output, drawn)
    if output is None:
        sys.stdout.buffer.write(drawn)


def _exported(model: Topology, export_format: str, place: Account, key: str | None) -> dict[str, Any]:
    if export_format == "json":
        return to_document(model)
    # What the exports share with the driver brings boto3.
    from melange.topology.cloudformation import to_cloudformation  # noqa: PLC0415 - only this command writes it
    from melange.topology.iam import to_iam  # noqa: PLC0415 - the same
    from melange.topology.terraform import to_terraform  # noqa: PLC0415 - the same

    if export_format == "terraform":
        return to_terraform(model, key)
    return to_cloudformation(model, key) if export_format == "cloudformation" else to_iam(model, place, key)


def _load(targets: Sequence[str], name: str | None) -> Program:
    name = name or _default_name(targets[0])
    models: list[Topology] = []
    driver: MessagingDriver | None = None
    for target in targets:
        if target.endswith(".json"):
            models.append(_read(Path(target)))
        else:
            collected = collect(name, partial(load, target))
            models.append(collected.topology)
            driver = driver or collected.driver
    typed = " ".join(targets)
    if name != _default_name(targets[0]):
        typed += f" --name {name}"
    return Program(combined(name, models), driver, typed)


def _default_name(target: str) -> str:
    if target.endswith(".json") and Path(target).exists():
        return _read(Path(target)).name
    return target.partition(":")[0].partition(".")[0]


def _read(path: Path) -> Topology:
    try:
        return from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error


@contextmanager
def _failures_end_with_1() -> Iterator[None]:
    """Show failures as the other commands do, and end with 1 always: 2 means drift here."""
    try:
        with failures_shown():
            yield
    except SystemExit as ended:
        sys.exit(TRY_AGAIN if ended.code else 0)


@contextmanager
def _progress(length: int) -> Iterator[Callable[[Change], None]]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Applying", total=length)

        def advance(change: Change) -> None:
            progress.update(task, advance=1, description=escape(printable(change.name)))

        yield advance


def _console() -> Console:
    # Lines are not wrapped: they are searched and copied. Colours appear in terminals only.
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def _show_plan(made: Plan, typed: str) -> None:
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
        f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
        + (f", {_counted(notes, 'note')}" if notes else "")
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _write_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2))
