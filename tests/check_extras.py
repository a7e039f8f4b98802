"""Checks what `pip install 'melange[cli,otel,outbox,server]'` gives, in an environment with nothing else; see tox.ini.

Other environments have packages of the tests in them, which may stand in for what the extras forgot.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS: list[tuple[list[str], str]] = [
    (["-c", "import melange.pydantic, melange.large_events.s3, zstandard; print('imported')"], "imported"),
    (["-c", "import melange.outbox, melange.domain.sqlalchemy; print('imported')"], "imported"),
    (["-c", "from melange.telemetry import *; Tracing(), Metrics(); print('imported')"], "imported"),
    (["-m", "melange.cli", "outbox", "schema", "postgresql"], "CREATE TABLE melange_outbox"),
    (["-m", "melange.cli", "worker", "--help"], "Usage: melange worker"),
    (["-m", "melange.cli", "dead-letters", "list", "--help"], "what happened"),
    (["-m", "melange.cli", "topology", "plan", "--help"], "Usage: melange topology plan"),
    (["-m", "melange.cli", "server", "--help"], "Usage: melange server"),
    (["-m", "melange.cli", "console", "--help"], "Usage: melange console"),
    (
        ["-c", "from melange.server import Broker; print(Broker().signer.certificate_name)"],
        "SimpleNotificationService-",
    ),
    (["-c", "from melange.console.rendering import render, shown; print(shown('\x85'))"], "x85</span>"),
    (["-m", "melange.cli", "guide"], "melange on three pages"),
    (["-m", "shop"], "Grace has 12500 cents left."),
]


def main() -> None:
    for arguments, wanted in COMMANDS:
        completed = subprocess.run(
            [sys.executable, *arguments], cwd=EXAMPLES, capture_output=True, text=True, check=False
        )
        if completed.returncode or wanted not in completed.stdout:
            sys.exit(f"python {' '.join(arguments)} ended with {completed.returncode}:\n{completed.stderr}")
    print("the extras are complete")


if __name__ == "__main__":
    main()
