"""Named points at which a process can be made to die, to test what a crash leaves behind.

With ``MELANGE_FAIL_POINT=after-mark`` in its environment a process ends the first time that it passes that
point, as if it were killed; with ``after-mark:3`` the third time. Without the variable a point costs the call
of an empty function. ``tests/chaos`` makes use of it.
"""

from __future__ import annotations

import itertools
import os

VARIABLE = "MELANGE_FAIL_POINT"
EXIT_CODE = 137
"""What a shell reports of a process that was killed by SIGKILL."""


def fail_point(name: str) -> None:
    """Mark a point that a crash may come to."""


class _DeadlyPoint:
    """Stands in for ``fail_point`` where the environment asks for it."""

    def __init__(self, wish: str) -> None:
        self._name, _, times = wish.partition(":")
        self._last = int(times or 1)
        self._passes = itertools.count(1)

    def __call__(self, name: str) -> None:
        if name == self._name and next(self._passes) == self._last:
            os._exit(EXIT_CODE)  # runs no handler, writes out no buffer: nothing a kill would not do


if wish := os.environ.get(VARIABLE):
    fail_point = _DeadlyPoint(wish)
