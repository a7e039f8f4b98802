"""Installs the lowest versions of melange's dependencies that it allows, into the environment that runs this.

What pip would choose is always the newest; a bound that is too low is found only where it is tried.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest_versions() -> list[str]:
    """Return ``name==version`` for each dependency, those of the extras included."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    lowest = {re.sub(r"^([\w-]+)>=([\d.]+).*", r"\1==\2", requirement) for requirement in requirements}
    return sorted(
        lowest.union(*(_same_release(one) for one in lowest if one.startswith("opentelemetry-api")))
    )


def _same_release(api: str) -> set[str]:
    """Return what the tests use beside OpenTelemetry's API: each works with the API of its own release alone."""
    version = api.partition("==")[2]
    instrumentations = f"0.{int(version.split('.')[1]) + 21}b0"  # 0.51b0 came with 1.30
    names = ("opentelemetry-instrumentation-botocore", "opentelemetry-exporter-prometheus")
    return {f"opentelemetry-sdk=={version}", *(f"{name}=={instrumentations}" for name in names)}


if __name__ == "__main__":
    # With uv, as tox does: there is no pip in the environments that it makes.
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, *lowest_versions()]
    sys.exit(subprocess.run(command, check=False).returncode)
