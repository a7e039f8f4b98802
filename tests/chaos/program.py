"""What the programs of all processes begin with."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

LOOK_FOR_PARENT_SECONDS = 0.5


def run_program(main: Callable[[str], int]) -> None:
    """Run ``main`` with the program's argument and exit with what it returns; told to stop before, exit with 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(message)s")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(sys.argv[1]))


def _end_with(parent: int) -> None:
    """End this process once its parent is gone; a killed test run shall leave no workers behind."""
    while os.getppid() == parent:
        time.sleep(LOOK_FOR_PARENT_SECONDS)
    os._exit(1)
