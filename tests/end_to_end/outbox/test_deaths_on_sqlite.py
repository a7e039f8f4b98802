"""A relay on SQLite that dies at each of its steps."""

from outbox_behaviours.deaths import DeathBehaviours


class TestDeaths(DeathBehaviours):
    pass
