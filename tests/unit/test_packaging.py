"""What the package says about itself in more than one place agrees."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
TEST_COMMAND = re.compile(r"^\s*(python3\.11 -m venv .* && .*/tox)$", re.MULTILINE)


def test_newest_version_in_the_changelog_is_the_package_version() -> None:
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    versions = re.findall(r"^## \[(\d\S*)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert versions[0] == package


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    readme_commands = TEST_COMMAND.findall((REPOSITORY / "README.md").read_text())

    ci_commands = TEST_COMMAND.findall((REPOSITORY / ".ci" / "run").read_text())

    assert len(ci_commands) == 1
    assert ci_commands == readme_commands


def test_importing_melange_imports_no_broker_store_or_database_client() -> None:
    program = "import sys, melange; print(*{name.partition('.')[0] for name in sys.modules})"

    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    packages = set(imported.stdout.split())
    assert "melange" in packages
    assert not packages & {
        "boto3",
        "botocore",
        "click",
        "filelock",
        "redis",
        "redis_cache",
        "rich",
        "sqlalchemy",
    }


def test_a_program_that_publishes_dicts_imports_neither_the_consumer_nor_marshmallow() -> None:
    program = """
import sys
from melange import ExchangeMessagePublisher
from melange.drivers.memory import InMemoryDriver
ExchangeMessagePublisher("orders", InMemoryDriver()).publish({"event_type_name": "OrderPlaced"})
print(*sys.modules)
"""

    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    modules = set(imported.stdout.split())
    assert "melange.publishing" in modules
    assert not modules & {"marshmallow", "melange.consuming", "melange.deduplication"}


def test_importing_the_lambda_handler_imports_little() -> None:
    program = "import sys, melange.aws_lambda; print(*sys.modules)"

    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    modules = set(imported.stdout.split())
    assert "melange.aws_lambda.lambda_handler" in modules
    assert not modules & {"asyncio", "boto3", "botocore", "melange.topology", "melange.consuming.worker"}


def test_the_package_can_be_imported_where_processes_cannot_fork() -> None:
    program = (
        "import asyncio, os, random, boto3; del os.register_at_fork; "
        "import melange.drivers.aws, melange.publishing.gathering, melange.request_reply"
    )

    imported = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert imported.returncode == 0, imported.stderr
