"""Running the code blocks of a page, top to bottom, in one namespace and one empty directory.

What the language of a block means here:

| language | what happens |
|---|---|
| `python` | it is executed; when its first line is `# name.py` it is saved under that name instead |
| `python` below `# examples/...py` | it must stand in that file, line by line; a line `...` stands for any number of them |
| `text` | what the blocks above have printed since the last one; `...` stands for anything |
| `console` | each `$ command` is run, and must print what stands below it; `^C` there interrupts it. It must end with 0, or with the code that `; echo $?` prints |
| any other, or none | nothing: it is there to be read |

`<!-- skip: next "reason" -->` above a block leaves it out.
"""

from __future__ import annotations

import contextlib
import doctest
import gc
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import SkipTest

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "melange" / "guide.md", *sorted(DOCS.rglob("*.md"))]

_FILE_NAME = re.compile(r"# (\w+\.py)\n")
_EXAMPLE = re.compile(r"# (examples/[\w/]+\.py)\n")
_LEFT_OUT = re.compile(r"^ *\.\.\.\n", re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.+)\n", re.MULTILINE)
_INTERRUPT = "^C"
_SHOW_CODE = "; echo $?"
_SECONDS_TO_PRINT = 60
_PROGRAMS = {
    "melange": ["-m", "melange.cli"],
    "pytest": ["-m", "pytest", "-p", "no:cacheprovider"],
    "python": [],
}


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def run_page(page: Path, directory: Path) -> list[str]:
    """Run the blocks of ``page`` in ``directory``, which must be the working one; return reasons of skips.

    Raises:
        AssertionError: a block printed something else than the page says.
        Exception: whatever a block raised.
    """
    run = _Run(directory)
    document = Document.parse(
        str(page),
        SkipParser(),
        CodeBlockParser("python", run.python),
        CodeBlockParser("text", run.text),
        CodeBlockParser("console", run.console),
    )
    skipped = []
    try:
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                skipped.append(str(reason))
    finally:
        _end_process(document)
    return skipped


def _end_process(document: Document) -> None:
    """Let go of all that the page made: databases that it left open would trouble whatever test runs then."""
    document.namespace.clear()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


class _Run:
    """What the blocks of one page have printed, and where they write files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._printed = io.StringIO()
        self._execute: Callable[[Example], None] = PythonEvaluator()

    def python(self, example: Example) -> str | None:
        quoted = _EXAMPLE.match(example.parsed)
        if quoted:
            return _misquoted(quoted[1], example.parsed[quoted.end() :])
        name = _FILE_NAME.match(example.parsed)
        if name:
            (self._directory / name[1]).write_text(example.parsed)
            return None
        with contextlib.redirect_stdout(self._printed):
            self._execute(example)
        return None

    def text(self, example: Example) -> str | None:
        printed = self._printed.getvalue()
        self._printed.seek(0)
        self._printed.truncate()
        return _difference(example.parsed, printed)

    def console(self, example: Example) -> str | None:
        _, *parts = _COMMAND.split(example.parsed)
        for command, expected in zip(parts[::2], parts[1::2], strict=True):
            difference = self._command(command, expected)
            if difference:
                return f"$ {command}\n{difference}"
        return None

    def _command(self, command: str, expected: str) -> str | None:
        expected, interrupt, _ = expected.partition(_INTERRUPT)
        with _started(command.removesuffix(_SHOW_CODE), self._directory) as process:
            assert process.stdout is not None
            if interrupt:
                printed = "".join(process.stdout.readline() for _ in expected.splitlines())
                process.send_signal(signal.SIGINT)
                process.wait(_SECONDS_TO_PRINT)
            else:
                printed, _ = process.communicate(timeout=_SECONDS_TO_PRINT)
                if command.endswith(_SHOW_CODE):
                    printed += f"{process.returncode}\n"
                elif process.returncode:
                    return f"{printed}\nended with code {process.returncode}"
        return _difference(expected, printed)


@contextlib.contextmanager
def _started(command: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    program, *arguments = shlex.split(command)
    assert program in _PROGRAMS, f"{command!r}: only {', '.join(_PROGRAMS)} are run"
    process = subprocess.Popen(
        [sys.executable, *_PROGRAMS[program], *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        # Somebody who runs the tests in the background of a shell has it ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - before any thread that matters
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _misquoted(name: str, quotation: str) -> str | None:
    """Return what of the quotation does not stand in the file where it should."""
    rest = (REPOSITORY / name).read_text()
    for piece in _LEFT_OUT.split(quotation):
        lines = piece.strip("\n")
        _, found, rest = f"\n{rest}".partition(f"\n{lines}\n")
        if not found:
            return f"not in {name}, or not there:\n{lines}"
    return None


def _difference(expected: str, printed: str) -> str | None:
    checker, options = doctest.OutputChecker(), doctest.ELLIPSIS
    if checker.check_output(expected, printed, options):
        return None
    return f"the page says:\n{expected}\nprinted was:\n{printed}"
