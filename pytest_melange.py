"""The pytest plugin of melange: the fixtures ``melange`` and ``melange_server``.

A module of its own beside the package: pytest imports it in every project where melange is installed, and importing the
package takes much longer. It imports melange when a test asks for the fixture.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from melange.server import Server
    from melange.testing import Harness

_SEED = pytest.StashKey[int]()
_DISORDER = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("melange").addoption(
        "--melange-seed",
        type=int,
        metavar="N",
        help="the seed of the disorder of standard queues, to repeat a run; by default a random one",
    )


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--melange-seed")
    config.stash[_SEED] = random.randrange(2**32) if seed is None else seed  # noqa: S311 - nothing to guess here
    config.addinivalue_line(
        "markers",
        "melange(duplicates=0, shuffle=False): how the standard queues of the fixture `melange` deliver",
    )


@pytest.fixture
def melange(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Yield a ``melange.testing.Harness``: the messaging of the application in memory, under the test's control."""
    from melange.testing import Harness  # noqa: PLC0415

    marker = request.node.get_closest_marker("melange")
    if marker is not None and marker.args:
        raise pytest.UsageError(
            "name what the marker asks for: @pytest.mark.melange(duplicates=0.05, shuffle=True)"
        )
    disorder = marker.kwargs if marker is not None else {}
    seed = request.config.stash[_SEED]
    if any(disorder.values()):
        request.node.stash[_DISORDER] = f"repeat this disorder with: pytest --melange-seed={seed}"
    with Harness(seed=seed, **disorder) as harness:
        yield harness


@pytest.fixture(scope="session")
def _melange_server() -> Iterator[Server]:
    from melange.server import Server  # noqa: PLC0415

    with Server() as server:
        yield server


@pytest.fixture
def melange_server(_melange_server: Server) -> Iterator[Server]:
    """Yield a ``melange.server.Server``, a local SNS and SQS at ``melange_server.url``, empty for each test.

    One server, on a free port, serves the whole session. Needs the extra ``melange[server]``.
    """
    yield _melange_server
    _melange_server.broker.reset()
    _melange_server.faults.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the seed below a failure of a test with disorder."""
    report = yield
    if report.failed and _DISORDER in item.stash:
        report.sections.append(("melange", item.stash[_DISORDER]))
    return report
