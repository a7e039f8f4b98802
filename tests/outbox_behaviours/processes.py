"""Relays in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from sqlalchemy import URL

PROGRAM = Path(__file__).with_name("relay_process.py")


class RelayProcess:
    """A relay that runs until it is told to end; ``published`` are the names of its events, ``log`` its log."""

    def __init__(self, url: URL, batch_size: int = 100) -> None:
        text = url.render_as_string(hide_password=False)
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, text, str(batch_size)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        self.published: list[str] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=read_lines, args=(stdout, self.published)),
            threading.Thread(target=read_lines, args=(stderr, self.log)),
        ]
        for reader in self._readers:
            reader.start()

    def said(self, words: str) -> bool:
        return any(words in line for line in self.log)

    def end(self, signal_number: int) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(signal_number)
        code = self._process.wait(30)
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return code


def read_lines(stream: IO[str], lines: list[str]) -> None:
    lines.extend(line.rstrip("\n") for line in stream)
