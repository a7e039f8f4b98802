"""A relay that is run until nothing is pending, beside others that are at work."""

from __future__ import annotations

from sqlalchemy import Connection, event, update

from melange.outbox import OutboxMessage, OutboxRelay
from melange.outbox.tables import MessageState


def test_what_another_relay_sends_in_the_meantime_does_not_end_the_work(database, driver) -> None:
    """The other one sends all that this one has chosen, just before its keys are locked."""
    database.write("a0", "b0", "c0")
    first = database.ids_of("pending")[0]
    sent_by_the_other: list[int] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def send_the_first(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "pg_try_advisory_xact_lock" in statement and not sent_by_the_other:
            sent_by_the_other.append(first)
            with database.engine.begin() as other:
                other.execute(
                    update(OutboxMessage).where(OutboxMessage.id == first).values(state=MessageState.SENT)
                )

    count = OutboxRelay(database.engine, driver, batch_size=1).relay_pending()

    assert count == 2
    assert driver.accepted == ["b0", "c0"]
    assert database.states == ["sent"] * 3
