"""The command run in this process, on programs written for the test."""

import logging
import sys

import pytest
from click.testing import CliRunner

from melange import DriverManager
from melange.cli.commands import melange


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch, tmp_path):
    """Give each test an empty working directory; afterwards its programs, log handlers and driver are as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(DriverManager, "_instance", None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    # Only the programs that the test wrote: libraries in C that were imported by them crash when they are imported again.
    for name, module in list(sys.modules.items()):
        namespace = getattr(module, "__dict__", {})
        places = [namespace.get("__file__"), *(namespace.get("__path__") or ())]
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    """Write a file into the working directory."""

    def write_program(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write_program


@pytest.fixture
def run():
    """Run the command with these arguments; return click's result."""

    def invoke(*arguments: str, typed: str = ""):
        return CliRunner().invoke(melange, arguments, input=typed, catch_exceptions=False)

    return invoke
