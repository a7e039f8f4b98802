"""Where the ``melange`` command, and ``python -m melange.cli``, begin."""

from __future__ import annotations

import os
import sys
import threading

EXIT_SECONDS = 5.0
"""How long whatever the program has registered for its exit may take."""


def main() -> int:
    """Run the command that the arguments ask for; return its exit code."""
    try:
        from melange.cli.commands import melange  # noqa: PLC0415 - what it needs may not be there
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("the melange command needs click: pip install 'melange[cli]'\n")
        return 2
    try:
        melange(prog_name="melange")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    _exit_at_the_latest(code)
    return code


def _exit_at_the_latest(code: int) -> None:
    # The interpreter waits for threads that are no daemons, such as those of a listener's own pool, and one
    # that hangs would keep a worker alive that has stopped.
    timer = threading.Timer(EXIT_SECONDS, os._exit, [code])
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
