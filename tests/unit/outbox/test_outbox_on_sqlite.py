"""Outbox and relay on SQLite keep every behaviour."""

import pytest
from sqlalchemy import create_engine, event

from melange.errors import OutboxError
from melange.outbox import OutboxRelay
from outbox_behaviours.administration import AdministrationBehaviours, administration
from outbox_behaviours.lifecycle import LifecycleBehaviours, LoggingBehaviours, PendingBehaviours
from outbox_behaviours.malformed import MALFORMED, ON_SQLITE, MalformedBehaviours, RestoredDatabaseBehaviours
from outbox_behaviours.ordering import OrderBehaviours
from outbox_behaviours.publishing import AsyncPublishingBehaviours, PublishingBehaviours
from outbox_behaviours.refusals import RefusalBehaviours
from outbox_behaviours.scheduling import SchedulingBehaviours
from outbox_behaviours.schema import PlanBehaviours, SchemaBehaviours
from outbox_behaviours.troubles import TroubleBehaviours
from outbox_behaviours.writability import ReadOnly, WritabilityBehaviours

__all__ = ["administration"]


class TestPublishing(PublishingBehaviours):
    pass


class TestAsyncPublishing(AsyncPublishingBehaviours):
    @pytest.fixture(params=["sqlite+aiosqlite"])
    def async_driver(self, request):
        return request.param


class TestOrder(OrderBehaviours):
    pass


class TestScheduling(SchedulingBehaviours):
    pass


class TestRefusal(RefusalBehaviours):
    pass


class TestTrouble(TroubleBehaviours):
    pass


class TestPending(PendingBehaviours):
    pass


class TestLifecycle(LifecycleBehaviours):
    pass


class TestLogging(LoggingBehaviours):
    pass


class TestAdministration(AdministrationBehaviours):
    pass


class TestSchema(SchemaBehaviours):
    pass


class TestPlan(PlanBehaviours):
    pass


class TestMalformed(MalformedBehaviours):
    @pytest.fixture(params={**MALFORMED, **ON_SQLITE}.items(), ids=lambda item: item[0])
    def damage(self, request):
        return request.param


class TestRestoredDatabase(RestoredDatabaseBehaviours):
    pass


class TestWritability(WritabilityBehaviours):
    @pytest.fixture(params=["read-only file", "query only", "trigger"])
    def read_only(self, request, database):
        file = database.engine.url.database
        if request.param == "read-only file":
            engine, match = create_engine(f"sqlite:///file:{file}?mode=ro&uri=true"), "it is read-only here"
        elif request.param == "query only":
            engine, match = create_engine(f"sqlite:///{file}"), "it is read-only here"
            event.listen(
                engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON")
            )
        else:
            engine, match = create_engine(f"sqlite:///{file}"), "IntegrityError: not yours"
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    "CREATE TRIGGER refusal BEFORE UPDATE ON melange_outbox WHEN new.state = 'sent' "
                    "BEGIN SELECT RAISE(ABORT, 'not yours'); END"
                )
        yield ReadOnly(engine, match)
        engine.dispose()

    def test_nothing_is_published_from_a_database_that_is_full(self, database, driver):
        database.write(*(f"-{number}" for number in range(500)))
        full = create_engine(database.engine.url)
        event.listen(full, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))

        for _ in range(2):
            with pytest.raises(OutboxError, match="full"):
                OutboxRelay(full, driver, batch_size=500).relay_pending()

        full.dispose()
        assert driver.calls == []
