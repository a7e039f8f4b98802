"""A child process that follows commands: one line on its standard input, one line of answer on its standard output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


class Child:
    """A process that stays alive and is asked to work, turn by turn. It is killed at the end of a ``with`` block."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
        )

    def tell(self, command: str) -> None:
        """Send a command that has no answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Send a command; return its answer."""
        self.tell(command)
        return self.answer()

    def answer(self) -> str:
        """Return the next line.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.name} has ended")
        return line

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
