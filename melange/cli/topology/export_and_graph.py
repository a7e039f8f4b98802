"""``melange topology export`` and ``graph``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from melange.cli.topology.options import failures_end_with_1, load_program, targets_argument, write_json
from melange.errors import ConfigurationError
from melange.topology.document import to_document
from melange.topology.iam import Account
from melange.topology.model import Topology


@click.command(short_help="Write Terraform, CloudFormation, IAM or JSON.")
@targets_argument
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
    "--json", "_in_json", is_flag=True, help="Every format is JSON already; accepted for uniformity."
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
    _in_json: bool,
) -> None:
    """Write the topology for another tool, as JSON. The broker is not asked.

    Exit codes: 0 written; 1 failed.
    """
    with failures_end_with_1():
        model = load_program(targets, name).topology
        document = _exported(model, export_format, Account(region, account, partition), kms_key)
    write_json(document)


@click.command()
@targets_argument
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
    "--json", "in_json", is_flag=True, help="Write the model as JSON, as `export --format json` does."
)
def graph(
    *, targets: tuple[str, ...], name: str | None, picture_format: str, output: Path | None, in_json: bool
) -> None:
    """Draw publishers, topics, queues and listeners. The broker is not asked.

    Exit codes: 0 drawn; 1 failed.
    """
    from melange.topology.graph import to_mermaid, to_picture  # noqa: PLC0415 - only this command draws

    with failures_end_with_1():
        model = load_program(targets, name).topology
        if in_json:
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


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error
