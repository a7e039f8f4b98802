"""Runs a server for as long as its owner lives: ``python supervisor.py OWNER_PID SCRATCH COMMAND...``

The owner, a test process, may be killed with SIGKILL and then cleans up nothing, so this process in
between does: it ends the server with everything that the server started, and removes its scratch
directory. The owner says stop with a byte on standard input. That input's end alone would not tell that the
owner is gone, because every process that the owner forks holds it open; so the parent is looked at too.
(PR_SET_PDEATHSIG would fire when the thread that started the server ends.)
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys

LOOK_EVERY_SECONDS = 0.2


def main(owner_pid: int, scratch_directory: str, command: list[str]) -> int:
    """Return the server's exit code, or 0 when it was ended because its owner said so or is gone."""
    server = None
    try:
        server = subprocess.Popen(
            command, cwd=scratch_directory, stdin=subprocess.DEVNULL, start_new_session=True
        )
        while server.poll() is None:
            told_to_stop, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY_SECONDS)
            if told_to_stop or os.getppid() != owner_pid:
                return 0
        return server.returncode
    finally:
        if server is not None:
            # Kill, not terminate: nothing in a test server is worth keeping, and this can't hang.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        shutil.rmtree(scratch_directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
