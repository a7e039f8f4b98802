"""The entry point of the ``melange`` command and of ``python -m melange.cli``."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading

from melange.signals import SIGNALS, end_process_on_signals

EXIT_SECONDS = 5.0
"""The limit for the exit functions that the program has registered."""


def main() -> int:
    """Run the command that the arguments ask for; return its exit code."""
    end_process_on_signals()  # first: process 1 misses earlier signals
    atexit.register(_ignore_signals)
    try:
        from melange.cli.commands import melange  # noqa: PLC0415 - what it needs may not be there
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("the melange command needs click: pip install '.[cli]' in a checkout of melange\n")
        return 2
    try:
        melange(prog_name="melange")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except OSError as error:  # click itself ends the command when a pipe is closed
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"melange cannot write: {error.strerror}\n")
        code = 1
    _exit_at_the_latest(code)
    _drop_what_cannot_be_written()
    return code


def _exit_at_the_latest(code: int) -> None:
    # The interpreter waits for threads that are not daemons, such as those of a listener's own pool, and one
    # that hangs would keep a worker alive that has stopped. A signal need not wait for it, and changes no code.
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: os._exit(code))
    timer = threading.Timer(EXIT_SECONDS, os._exit, [code])
    timer.daemon = True
    timer.start()


def _drop_what_cannot_be_written() -> None:
    # The interpreter writes out its buffers at the end, and where that fails it ends with code 120 instead of ours.
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (AttributeError, OSError, ValueError):  # there is none, a full disk, a closed terminal
            setattr(sys, name, None)


def _ignore_signals() -> None:
    # Registered first, so it runs last. Python gives up its own handlers next, and a repetition of the signal
    # that stopped a worker would end it with another code.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
