"""What all tests share: no test can reach a real AWS account, and those that ask for it get a local one."""

from __future__ import annotations

import functools
import gc
import importlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from hypothesis import HealthCheck, settings

from watched_driver import worker_on

if TYPE_CHECKING:
    from melange import ExchangeMessageConsumer, Worker
    from services.postgres import PostgresServer
    from services.redis import RedisServer

SNS_SQS_SERVERS = ("melange_server", "ministack", "localstack")

# How long an example takes is the machine's doing, which runs other tests meanwhile.
settings.register_profile(
    "quick", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1_000)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for the server, so that ``-m sns_sqs`` chooses it; first, for ``-m`` looks at it next."""
    for item in items:
        if isinstance(item, pytest.Function) and "sns_sqs_server" in item.fixturenames:
            item.add_marker("sns_sqs")


def pytest_collection_finish() -> None:
    """Keep the tests themselves from the collector: it takes 0.2 s to walk over them, and dozens of tests call it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test has logged fit for UTF-8, in which pytest-xdist sends it on; lone surrogates are not."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_real_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Replace whatever the machine says about AWS by dummy credentials and a region."""
    nowhere = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
        environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """Let all boto3 sessions share what botocore has read: models of services take it most of a session's time."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session", autouse=True)
def _transport() -> None:
    """Give drivers that do not name a transport the one of ``MELANGE_TEST_TRANSPORT``; processes of their own keep "auto"."""
    name = os.environ.get("MELANGE_TEST_TRANSPORT")
    if name:
        importlib.import_module("melange.drivers.aws").AwsDriver.__init__.__kwdefaults__["transport"] = name


@pytest.fixture(scope="session")
def sns_sqs_server() -> Iterator[str]:
    """Yield the URL of a local SNS+SQS server, shared by the whole run: give topics and queues own names.

    ``MELANGE_TEST_ENDPOINT_URL`` names one that runs already; otherwise one is started, of the kind that
    ``MELANGE_TEST_SERVER`` names: ``melange_server`` (the default), ``ministack`` or ``localstack``. A server that does not
    start fails the tests that need it.
    """
    endpoint_url = os.environ.get("MELANGE_TEST_ENDPOINT_URL")
    if endpoint_url:
        yield endpoint_url
        return
    name = os.environ.get("MELANGE_TEST_SERVER") or "melange_server"
    if name not in SNS_SQS_SERVERS:
        pytest.fail(f"MELANGE_TEST_SERVER is {name!r}, it may be {' or '.join(SNS_SQS_SERVERS)}")
    with importlib.import_module(f"services.{name}").run() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Yield the URL of a Redis, shared by the whole run: use a namespace of one's own.

    ``REDIS_URL`` names one that runs already.
    """
    url = os.environ.get("REDIS_URL")
    if url:
        yield url
        return
    with importlib.import_module("services.redis").run() as server:
        yield server.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Yield a Redis of the test's own, to be killed, stalled, restarted and set up."""
    with importlib.import_module("services.redis").run() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the SQLAlchemy URL, for psycopg, of a database that is this run's own: use tables of one's own.

    ``DATABASE_URL`` names a PostgreSQL that runs already.
    """
    postgres = importlib.import_module("services.postgres")
    with ExitStack() as stack:
        url = os.environ.get("DATABASE_URL", "")
        if not url.startswith(("postgres://", "postgresql")):
            url = stack.enter_context(postgres.run()).url
        yield stack.enter_context(postgres.database_of_its_own(url))


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL of the test's own, to be killed, stopped and started again."""
    with importlib.import_module("services.postgres").run() as server:
        yield server


@pytest.fixture
def running() -> Iterator[Callable[..., Worker]]:
    """Start workers, and stop them at the end."""
    workers: list[Worker] = []

    def start(*consumers: ExchangeMessageConsumer, **options: Any) -> Worker:
        workers.append(worker_on(*consumers, **options))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop(30)
