"""What runs inside of Pyodide: pytest, with stand-ins for what Python does not have there."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import warnings
from asyncio.base_events import BaseEventLoop
from typing import Any, NoReturn

import pytest

LEFT_OUT = (
    "tests/unit/domain/test_after_commit_sqlalchemy.py",  # greenlet, which is compiled
    "tests/unit/domain/test_greenlets.py",
    "tests/unit/domain/test_trio.py",  # which has no WebAssembly
)
SKIPPED_WORDS = {
    **dict.fromkeys(
        ("deep]", "deeply", "contains_itself", "close_to_the_limit", "hostile_bodies"),
        "where Python raises RecursionError, WebAssembly ends the process",
    ),
    "asgiref": "asgiref starts threads, and leaves coroutines behind when it can't",
}
OPTIONS = [
    "--confcutdir=tests/unit",  # tests/conftest.py is for servers, and imports hypothesis, which is compiled
    *(f"--ignore={file}" for file in LEFT_OUT),
    "-pno:cacheprovider",
    "-pno:faulthandler",
]


class LoopWithoutSockets(BaseEventLoop):
    """CPython's own event loop, which waits for time alone."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("all tasks wait for something that nothing here can bring about")
        time.sleep(timeout)
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...


def run_in_loop(main: Any, *, debug: bool | None = None) -> Any:
    """Stand in for ``asyncio.run``, in the place of which Pyodide has one that needs the browser's loop."""
    with asyncio.Runner(debug=debug, loop_factory=LoopWithoutSockets) as runner:
        return runner.run(main)


def skip_for_want_of_threads(thread: threading.Thread) -> NoReturn:
    pytest.skip("there are no threads in WebAssembly")


class Plugin:
    """Knows the settings of plugins that are not here, and what cannot be tested here."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addini("timeout", "of pytest-timeout, which needs signals and threads")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for words, reason in SKIPPED_WORDS.items():
                if words in item.name:
                    item.add_marker(pytest.mark.skip(reason=reason))


def run(arguments: list[str]) -> int:
    assert sys.version_info[:2] == (3, 14), sys.version
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    asyncio.run = run_in_loop
    asyncio._set_running_loop(None)  # Pyodide says that its own, which the browser drives, is running
    threading.Thread.start = skip_for_want_of_threads  # type: ignore[method-assign]
    warnings.simplefilter("default")
    return int(pytest.main([*OPTIONS, *arguments], plugins=[Plugin()]))
