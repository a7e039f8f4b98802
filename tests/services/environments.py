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
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".services"


def environment_with(requirements: Path, kept_in: Path = ENVIRONMENTS) -> Path:
    """Return the directory with the programs that ``requirements`` install, building it on first use.

    There is one for each content of the file and version of Python. Building takes from seconds to minutes,
    and asks the package index. Safe from several processes at once: one builds, the others wait. An
    environment that was left half built is never used.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    environment = (
        kept_in / f"{requirements.stem}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    )
    complete = environment / "complete"
    if not complete.exists():
        kept_in.mkdir(exist_ok=True)
        with environment.with_name(f"{environment.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.exists():
                _build(environment, requirements)
                # Written last: scripts hold the environment's path, so it can't be built aside and moved.
                complete.touch()
    return environment / "bin"


def _build(environment: Path, requirements: Path) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    _uv("venv", "--python", sys.executable, environment)
    _uv("pip", "install", "--python", environment / "bin" / "python", "--requirement", requirements)


def _uv(*arguments: str | Path) -> None:
    isolated = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=isolated)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(environment_with(HERE / f"{name}.txt"))
