"""``melange topology plan`` and ``doctor``."""

from __future__ import annotations

import sys

import click

from melange.cli.options import json_option
from melange.cli.topology.describing import show_findings, show_plan
from melange.cli.topology.options import (
    DRIFT,
    failures_end_with_1,
    load_program,
    renamed_option,
    targets_argument,
    write_json,
)
from melange.topology.doctor import diagnose
from melange.topology.drift import make_plan


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
        show_plan(made, found.typed + "".join(f" --renamed {old}={new}" for old, new in renamed.items()))
    sys.exit(DRIFT if made.has_drift else 0)


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
        show_findings(findings, found.typed)
    sys.exit(DRIFT if any(finding.severity == "error" for finding in findings) else 0)
