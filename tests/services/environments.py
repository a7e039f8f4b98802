"""Virtual environments for servers whose requirements would fight with ours.

``python tests/services/environments.py NAME...`` builds them ahead of a test run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".services"


def environment_with(requirements: Path, kept_in: Path = ENVIRONMENTS) -> Path:
    """Return the directory with the programs that ``requirements`` install, building it on first use.

    There is one for each content of the file and version of Python. Building takes from seconds to minutes,
    and asks the package index. Safe from several processes at once; see ``built_once``.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    environment = (
        kept_in / f"{requirements.stem}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    )
    built_once(environment, lambda: _build(environment, requirements))
    return environment / "bin"


def built_once(directory: Path, build: Callable[[], None]) -> None:
    """Call ``build`` to fill a directory, unless that was done before; it finds no directory there.

    Safe from several processes at once: one builds, the others wait. If ``build`` raises, or its process is killed, the
    next call begins anew.
    """
    complete = directory / "complete"
    if complete.exists():
        return
    directory.parent.mkdir(exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(directory, ignore_errors=True)
            build()
            # Written last: what was installed may hold its own path, so it cannot be built aside and moved.
            complete.touch()


def _build(environment: Path, requirements: Path) -> None:
    _uv("venv", "--python", sys.executable, environment)
    _uv("pip", "install", "--python", environment / "bin" / "python", "--requirement", requirements)


def _uv(*arguments: str | Path) -> None:
    isolated = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=isolated)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(environment_with(HERE / f"{name}.txt"))
