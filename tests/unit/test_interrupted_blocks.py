"""A block that guards a state guards it until its last instruction: Ctrl-C may come at any of them.

CPython 3.12 and 3.13 compile a loop that ends in an ``if`` so that the jump back to its head is outside of every ``with`` and
``try`` around it (https://github.com/python/cpython/issues/130279). An interrupt there would leave a lock taken for good. A loop
that ends in another statement has no such gap, and neither has a loop in a function of its own.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

import melange

PACKAGE = Path(melange.__file__).parent
GUARDED = [
    PACKAGE / "consuming" / "consumer.py",
    PACKAGE / "domain" / "dispatch.py",
    *sorted((PACKAGE / "drivers" / "memory").glob("*.py")),
    *sorted((PACKAGE / "engine").glob("*.py")),
]
"""What runs in the main thread of an application, and must be usable after an interrupt."""

LOOP_UNDER_A_LOCK = """
def release(lock, jobs):
    with lock:
        for job in jobs:
            if job.is_old:
                job.release()
"""


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_loop_jumps_back_outside_of_the_block_around_it(path: Path) -> None:
    source = path.read_text()

    assert unguarded_lines(source, compile(source, str(path), "exec")) == set()


def test_a_jump_that_no_handler_covers_is_found() -> None:
    module = compile(LOOP_UNDER_A_LOCK, "", "exec")
    without_handlers = [
        one.replace(co_exceptiontable=b"") if isinstance(one, CodeType) else one for one in module.co_consts
    ]

    assert unguarded_lines(LOOP_UNDER_A_LOCK, module.replace(co_consts=tuple(without_handlers)))


def unguarded_lines(source: str, module: CodeType) -> set[int]:
    """Return the lines in blocks from which a jump back to a loop's head, in the same block, is outside of every handler."""
    blocks = [
        range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.With) or (isinstance(node, ast.Try) and _guards_a_state(node))
    ]
    return {
        line
        for line, head in _jumps_without_handler(module)
        if any(line in block and head in block for block in blocks)
    }


def _guards_a_state(node: ast.Try) -> bool:
    caught = {ast.unparse(handler.type) for handler in node.handlers if handler.type is not None}
    return bool(node.finalbody) or "BaseException" in caught


def _jumps_without_handler(code: CodeType) -> Iterator[tuple[int, int]]:
    """Yield the line of each jump back that can be interrupted, and of what it jumps to."""
    bytecode = dis.Bytecode(code)
    lines: dict[int, int] = {}
    line = code.co_firstlineno
    for one in bytecode:
        line = lines[one.offset] = (one.positions and one.positions.lineno) or line
        if (
            "JUMP_BACKWARD" in one.opname
            and not one.opname.endswith("NO_INTERRUPT")
            # From a generator the exception reaches its caller, within the block.
            and not code.co_name.startswith("<")
            and not any(entry.start <= one.offset < entry.end for entry in bytecode.exception_entries)  # type: ignore[attr-defined]
        ):
            yield line, lines[one.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _jumps_without_handler(constant)
