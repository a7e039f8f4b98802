"""A name of the library means one thing, so that a search for it finds one definition."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "melange"

OTHER_WORLDS = (
    "cli",
    "console",
    "django",
    "server",
    "testing/deduplication_contract",
    "testing/driver_contract",
)
"""They have commands, views, twins of models, AWS's own terms, and groups of tests: by names that stand elsewhere too."""

SAME_MEANING = {
    "DeadLetter",  # the outcome that middleware sees, and the message that operators see: both are public
    "diagnose",  # the doctor of topologies, and that of Lambda functions
    "mapped_errors",  # of SQLAlchemy, and of redis
}


def test_no_two_modules_define_the_same_name() -> None:
    modules = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        if not module.startswith(OTHER_WORLDS):
            for name in _public_names(path):
                modules[name].add(module)

    twins = {name: found for name, found in modules.items() if len(found) > 1}

    assert set(twins) == SAME_MEANING, twins


def _public_names(path: Path) -> Iterator[str]:
    for statement in ast.parse(path.read_text()).body:
        if isinstance(
            statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ) and not statement.name.startswith("_"):
            yield statement.name
