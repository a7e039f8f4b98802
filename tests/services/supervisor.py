"""Runs a server for as long as its owner lives: ``python supervisor.py OWNER_PID DIRECTORY USER COMMAND...``

The owner, a test process, may be killed with SIGKILL and then cleans up nothing, so this process in
between does: it ends the server with everything that the server started, and removes its directory. The
owner says stop with a byte on standard input. That input's end alone would not tell that the owner is gone,
because every process that the owner forks holds it open; so the parent is looked at too. (PR_SET_PDEATHSIG
would fire when the thread that started the server ends.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

LOOK_EVERY_SECONDS = 0.2
PR_SET_CHILD_SUBREAPER = 36


def main(owner_pid: int, directory: str, user: str, command: list[str]) -> int:
    """Return the server's exit code, or 0 when it was ended because its owner said so or is gone."""
    if sys.platform == "linux":
        # What the server leaves behind becomes our child instead of init's.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = None
    owner_is_gone = False
    try:
        server = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            user=user or None,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        while server.poll() is None and not owner_is_gone:
            readable, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY_SECONDS)
            if readable and os.read(sys.stdin.fileno(), 1):
                return 0
            owner_is_gone = bool(readable) or os.getppid() != owner_pid
        return server.poll() or 0
    finally:
        if server is not None:
            _end(server)
        if owner_is_gone:
            shutil.rmtree(directory, ignore_errors=True)


def _end(server: subprocess.Popen[bytes]) -> None:
    # Kill, not terminate: nothing in a test server is worth keeping, and this can't hang.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            # PostgreSQL's processes have a session each, so the group was not all.
            for orphan in _children():
                os.kill(orphan, signal.SIGKILL)
            os.wait()


def _children() -> list[int]:
    children = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...", and a name may have anything in it.
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                children.append(int(process.name))
    return children


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
