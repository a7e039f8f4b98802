"""Checks the installed wheel, in an environment with nothing but it and its requirements; see tox.ini."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

# -I: the source tree that this runs in is not looked at.
PROGRAM = "import sys, melange; print(melange.__file__, *{name.partition('.')[0] for name in sys.modules})"


def main() -> None:
    completed = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    module_file, *packages = completed.stdout.split()
    files = {str(file) for file in distribution("melange").files or []}

    _check(Path(module_file).is_relative_to(sys.prefix), f"melange was imported from {module_file}")
    _check("melange/py.typed" in files, "py.typed is not in the wheel")
    _check("pytest_melange.py" in files, "the pytest plugin is not in the wheel")
    _check("melange/guide.md" in files, "the guide is not in the wheel")
    for file in ("templates/base.html", "assets/console.css", "assets/console.js"):
        _check(f"melange/console/{file}" in files, f"the console's {file} is not in the wheel")
    _check(any(file.endswith("licenses/LICENSE") for file in files), "LICENSE is not in the wheel")
    _check(not any(file.startswith("tests/") for file in files), "the tests are in the wheel")
    heavy = {"boto3", "botocore", "click", "filelock", "redis", "redis_cache", "sqlalchemy"} & set(packages)
    _check(not heavy, f"importing melange imports {', '.join(heavy)}")
    command = subprocess.run(
        [Path(sys.executable).with_name("melange"), "--version"], capture_output=True, text=True, check=False
    )
    said = (command.returncode, command.stdout, command.stderr)
    _check(
        said == (2, "", "the melange command needs click: pip install '.[cli]' in a checkout of melange\n"),
        f"without its extra the melange command said {said}",
    )
    print(f"melange {distribution('melange').version}: the wheel is good")


def _check(condition: bool, complaint: str) -> None:
    if not condition:
        sys.exit(complaint)


if __name__ == "__main__":
    main()
