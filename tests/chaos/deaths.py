"""Named points at which a process of a run dies by itself, to see what a crash there leaves behind.

With ``MELANGE_FAIL_POINT=after-mark`` in its environment a process ends the first time that it passes that point, as
if it were killed; with ``after-mark:3`` the third time. The points are in what the programs of the runs wrap around
driver, store and database, not in melange.
"""

from __future__ import annotations

import itertools
import os

VARIABLE = "MELANGE_FAIL_POINT"
EXIT_CODE = 137
"""What a shell reports of a process that was killed by SIGKILL."""

_name, _, _times = os.environ.get(VARIABLE, "").partition(":")
_passes = itertools.count(1)


def may_die_at(point: str) -> None:
    """End the process if this is the point, and the pass of it, that its environment names."""
    if point == _name and next(_passes) == int(_times or 1):
        os._exit(EXIT_CODE)  # runs no handler, writes out no buffer: nothing a kill would not do
