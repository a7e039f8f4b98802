"""Outbox and relay on PostgreSQL keep every behaviour."""

import pytest
from sqlalchemy import create_engine

from outbox_behaviours.administration import AdministrationBehaviours, administration
from outbox_behaviours.deaths import DeathBehaviours
from outbox_behaviours.lifecycle import LifecycleBehaviours, LoggingBehaviours, PendingBehaviours
from outbox_behaviours.malformed import (
    MALFORMED,
    ON_POSTGRESQL,
    MalformedBehaviours,
    RestoredDatabaseBehaviours,
)
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
    @pytest.fixture(params=["postgresql+psycopg", "postgresql+asyncpg"])
    def async_driver(self, request):
        return request.param


class TestOrder(OrderBehaviours):
    pass


class TestDeaths(DeathBehaviours):
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
    @pytest.fixture(params={**MALFORMED, **ON_POSTGRESQL}.items(), ids=lambda item: item[0])
    def damage(self, request):
        return request.param


class TestRestoredDatabase(RestoredDatabaseBehaviours):
    pass


class TestWritability(WritabilityBehaviours):
    @pytest.fixture(params=["read-only transactions", "no permission"])
    def read_only(self, request, database):
        url = database.engine.url
        if request.param == "read-only transactions":  # as all are on a standby server
            options, match = "-c default_transaction_read_only=on", "it is read-only here"
        else:
            options, match = "-c role=reader", "grant this user SELECT, UPDATE and DELETE"
            with database.engine.begin() as connection:
                connection.exec_driver_sql(
                    "DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
                )
                connection.exec_driver_sql("GRANT SELECT ON melange_outbox TO reader")
        engine = create_engine(url, connect_args={"options": options})
        yield ReadOnly(engine, match)
        engine.dispose()
