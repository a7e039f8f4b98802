"""Clients that nobody here wrote do their work against ``melange server``, each in an environment of its own.

The requirements of Python programs are in the text file beside each; see ``services.environments``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clients.environments import go_binary, node_with, run
from services.environments import environment_with

PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.timeout(600)  # the first run installs them


@pytest.mark.parametrize("program", ["old_boto3", "powertools", "celery_worker"])
def test_a_python_client_does_its_work(url: str, program: str) -> None:
    run([python_of(program), PROGRAMS / f"{program}.py", url])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="fanferro needs Python 3.12")
def test_fanferro_publishes_and_consumes(url: str) -> None:
    run([python_of("fanferro_consumer"), PROGRAMS / "fanferro_consumer.py", url])


def test_the_aws_command_line_does_its_work(url: str, tmp_path: Path) -> None:
    programs = environment_with(PROGRAMS / "command_line.txt")

    run(["sh", PROGRAMS / "command_line.sh", url], path=programs, directory=tmp_path)


def test_sqs_consumer_on_node_receives_what_was_sent_and_published(url: str) -> None:
    node, directory = node_with()
    program = directory / "consumer.mjs"  # Node looks for packages beside the program
    program.write_text((PROGRAMS / "consumer.mjs").read_text())

    run([node, program, url])


def test_the_sdk_for_go_publishes_filters_receives_and_knows_its_errors(url: str, tmp_path: Path) -> None:
    run([go_binary(PROGRAMS / "consumer.go", tmp_path), url])


def python_of(program: str) -> Path:
    return environment_with(PROGRAMS / f"{program}.txt") / "python"
