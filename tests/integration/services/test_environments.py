"""The virtual environments that the local servers live in."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from services.environments import environment_with


@pytest.fixture(scope="module")
def find_environment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An environment with nothing in it, so that no package index is asked."""
    directory = tmp_path_factory.mktemp("environments")
    requirements = directory / "nothing.txt"
    requirements.touch()
    return partial(environment_with, requirements, kept_in=directory / "kept")


def test_environment_is_built_once(find_environment: Any) -> None:
    programs = find_environment()
    (programs / "mark").touch()

    again = find_environment()

    assert (again / "mark").exists()


def test_half_built_environment_is_built_anew_by_one_of_those_who_need_it(find_environment: Any) -> None:
    programs = find_environment()
    (programs.parent / "complete").unlink()
    (programs / "left_over").touch()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: find_environment(), range(2)))

    assert found == [programs, programs]
    assert not (programs / "left_over").exists()
    subprocess.run([programs / "python", "-c", ""], check=True)
