"""What a relay tells about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from melange import TopicNotFoundError
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Outbox, OutboxRelay, metadata
from waiting import eventually

DEADLINE_SECONDS = 30


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def make_relay(engine: Engine) -> Iterator[Callable[..., OutboxRelay]]:
    """Make relays that only look topics up; at the end they are stopped."""
    relays = []

    def make(on: Engine = engine) -> OutboxRelay:
        relays.append(OutboxRelay(on, InMemoryDriver(), declare=False, poll_seconds=0.01))
        return relays[-1]

    yield make
    for relay in relays:
        assert relay.stop(DEADLINE_SECONDS)


def test_a_relay_is_ready_from_its_first_look_until_it_is_stopped(make_relay) -> None:
    relay = make_relay()
    before = relay.health()
    relay.start()
    eventually(lambda: relay.health().ready)
    at_work = relay.health()
    relay.stop(DEADLINE_SECONDS)

    assert (before.ready, before.seconds_since_round) == (False, None)
    assert at_work.seconds_since_round is not None
    assert not at_work.on_standby
    assert not relay.health().ready


def test_a_relay_that_on_standby_is_ready_and_says_so(make_relay) -> None:
    first, second = make_relay(), make_relay()
    first.start()
    eventually(lambda: first.health().ready)

    second.start()
    eventually(lambda: second.health().on_standby)
    first.stop(DEADLINE_SECONDS)

    eventually(lambda: second.health().ready and not second.health().on_standby)


def test_a_relay_that_has_not_read_its_outbox_is_not_ready(make_relay, tmp_path, caplog) -> None:
    without_tables = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    relay = make_relay(without_tables)

    relay.start()
    eventually(lambda: "melange outbox schema" in caplog.text)

    assert not relay.health().ready
    relay.stop(DEADLINE_SECONDS)
    without_tables.dispose()


def test_a_topic_that_takes_nothing_is_named_with_the_reason(make_relay, engine) -> None:
    with Session(engine) as session, session.begin():
        Outbox(session).publish("orders", {"event_type_name": "OrderPlaced"})
    relay = make_relay()

    relay.start()
    eventually(lambda: relay.health().troubles)

    (error,) = relay.health().troubles.values()
    assert list(relay.health().troubles) == ["orders"]
    assert isinstance(error, TopicNotFoundError)
    eventually(lambda: relay.health().ready)


def test_progress_is_told_batch_by_batch_and_what_it_raises_passes(engine) -> None:
    with Session(engine) as session, session.begin():
        for _ in range(5):
            Outbox(session).publish("orders", {"event_type_name": "OrderPlaced"})
    relay = OutboxRelay(engine, InMemoryDriver(), batch_size=2)
    told: list[int] = []

    def interrupt(count: int) -> None:
        raise RuntimeError(count)

    with pytest.raises(RuntimeError, match="2"):
        relay.relay_pending(on_progress=interrupt)
    published = relay.relay_pending(on_progress=told.append)

    assert (published, told) == (3, [2, 1])


@pytest.mark.filterwarnings("ignore:Query string argument:sqlalchemy.exc.SAWarning")
def test_the_log_shows_nothing_of_a_url_s_query_where_a_password_may_be(make_relay, engine, caplog) -> None:
    caplog.set_level("INFO")
    with_password = create_engine(engine.url.set(query={"password": "s3cr3t"}))
    relay = make_relay(with_password)

    relay.start()
    eventually(lambda: "relaying the outbox of a sqlite database" in caplog.text)
    relay.stop(DEADLINE_SECONDS)
    with_password.dispose()

    assert "s3cr3t" not in caplog.text


def test_a_paused_relay_lets_another_one_work_until_it_resumes(make_relay) -> None:
    first, second = make_relay(), make_relay()
    first.start()
    eventually(lambda: first.health().ready)
    second.start()
    eventually(lambda: second.health().on_standby)

    first.pause()
    eventually(lambda: not second.health().on_standby)
    paused = first.health()
    first.resume()
    second.pause()
    eventually(lambda: not first.health().on_standby)

    assert paused.ready


def test_a_relay_runs_during_a_with_block(make_relay) -> None:
    relay = make_relay()

    with relay.running():
        eventually(lambda: relay.health().ready)

    assert not relay.health().ready
    assert relay.stop(0)


def test_a_relay_runs_while_an_application_lives(make_relay) -> None:
    relay = make_relay()

    async def application() -> None:
        async with relay.lifespan(), asyncio.timeout(DEADLINE_SECONDS):
            while not relay.health().ready:
                await asyncio.sleep(0.01)

    asyncio.run(application())

    assert not relay.health().ready
    assert relay.stop(0)
