"""Outbox and relay on SQLite keep every behaviour."""

import pytest

from outbox_behaviours.administration import AdministrationBehaviours, administration
from outbox_behaviours.lifecycle import LifecycleBehaviours, LoggingBehaviours, PendingBehaviours
from outbox_behaviours.ordering import OrderBehaviours
from outbox_behaviours.publishing import AsyncPublishingBehaviours, PublishingBehaviours
from outbox_behaviours.refusals import RefusalBehaviours
from outbox_behaviours.schema import PlanBehaviours, SchemaBehaviours
from outbox_behaviours.troubles import TroubleBehaviours

__all__ = ["administration"]


class TestPublishing(PublishingBehaviours):
    pass


class TestAsyncPublishing(AsyncPublishingBehaviours):
    @pytest.fixture(params=["sqlite+aiosqlite"])
    def async_driver(self, request):
        return request.param


class TestOrder(OrderBehaviours):
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
