"""From the transaction that writes a row to the listener in another service."""

from contextlib import suppress

import pytest
from opentelemetry.trace import SpanKind
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from melange import DriverManager, MessageTooLargeError, Middleware
from melange.outbox import Outbox, OutboxMessage, OutboxRelay
from melange.telemetry import Tracing

EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def engine():
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    OutboxMessage.metadata.create_all(engine)
    yield engine
    engine.dispose()


def linked(span):
    return [link.context.span_id for link in span.links]


def test_a_message_of_a_transaction_is_linked_to_it_in_the_relay_and_in_the_listener(
    engine, driver, spans, make_consumer
):
    tracing = Tracing(spans.provider)
    driver.middleware = [tracing]
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    tracer = spans.provider.get_tracer("test")

    with (
        tracer.start_as_current_span("POST /products") as request,
        Session(engine) as session,
        session.begin(),
    ):
        outbox = Outbox(session, middleware=[tracing])
        outbox.publish("products", EVENT)
        outbox.publish("products", EVENT)
    OutboxRelay(engine, driver).relay_pending()
    consumer.consume_event()

    created = spans.named("create products")
    assert [span.parent.span_id for span in created] == [request.get_span_context().span_id] * 2
    assert created[0].attributes["messaging.system"] == "melange.outbox"
    send = spans.one("send products")
    assert send.kind == SpanKind.CLIENT
    assert linked(send) == [span.context.span_id for span in created]
    assert [linked(span) for span in spans.named("process stock")] == [
        [span.context.span_id] for span in created
    ]


def test_a_retry_of_the_relay_keeps_the_context_of_the_transaction(engine, driver, spans, make_consumer):
    tracing = Tracing(spans.provider)
    driver.middleware = [tracing]
    with Session(engine) as session, session.begin():
        Outbox(session, middleware=[tracing]).publish("missing", EVENT)
    relay = OutboxRelay(engine, driver, declare=False)
    with pytest.raises(Exception, match="missing"):
        relay.relay_pending()
    consumer = make_consumer(topic_name="missing")
    consumer.listener(name="shelve")(lambda event: None)

    relay.relay_pending()
    consumer.consume_event()

    assert linked(spans.one("process stock")) == [spans.one("create missing").context.span_id]


def test_an_outbox_uses_the_hooks_of_the_driver_in_use(engine, driver, spans):
    manager = DriverManager.instance()
    before = manager._driver
    manager.use_driver(driver, middleware=[Tracing(spans.provider)])
    try:
        with Session(engine) as session, session.begin():
            Outbox(session).publish("products", EVENT)
            (row,) = session.new
            assert "traceparent" in row.headers
    finally:
        manager._driver = before


def test_a_row_that_is_too_large_with_the_context_is_written_without_it(engine, spans):
    with Session(engine) as session, session.begin():
        tracing = Tracing(spans.provider)
        for limit in range(300, 500):  # at some limit it fits without the context, and not with it
            outbox = Outbox(session, max_message_bytes=limit, middleware=[tracing])
            with suppress(MessageTooLargeError):
                outbox.publish("products", {**EVENT, "text": "x" * 200})
        headers = [row.headers for row in session.new]

        assert None in headers
        assert any(one and "traceparent" in one for one in headers)


class Changing(Middleware):
    def prepare(self, destination_name, message):
        return message._replace(message_id="another")


def test_a_hook_must_not_change_the_id_of_a_row(engine):
    with Session(engine) as session, session.begin():
        outbox = Outbox(session, middleware=[Changing()])

        with pytest.raises(Exception, match="prepare of Changing must return the message"):
            outbox.publish("products", EVENT)
