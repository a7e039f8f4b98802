"""The ids that say which message caused which."""

import logging

import pytest

from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
    QueueOptions,
    RetryPolicy,
)
from melange.drivers.memory import InMemoryDriver
from melange.messages import CorrelationFilter, Message, log_fields

EVENT = {"event_type_name": "OrderPlaced"}


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


def consumer_of(queue_name, topic_name, driver):
    return ExchangeMessageConsumer(queue_name, topic_name, driver=driver, queue=QueueOptions(wait_seconds=0))


def headers_in(consumer):
    seen = []
    consumer.listener(name="see")(lambda event, headers: seen.append(dict(headers)))
    consumer.consume_event()
    return seen


def test_a_message_that_is_published_while_another_is_handled_names_it(driver):
    orders, invoices = consumer_of("billing", "orders", driver), consumer_of("mail", "invoices", driver)
    invoice_publisher = ExchangeMessagePublisher("invoices", driver)

    @orders.listener("OrderPlaced")
    def bill(event):
        invoice_publisher.publish({"event_type_name": "InvoiceWritten"}, headers={"own": "1"})
        invoice_publisher.publish_batch([{"event_type_name": "InvoiceSent"}])
        QueueMessagePublisher("mail", driver).send({"event_type_name": "SendMail"})

    ExchangeMessagePublisher("orders", driver).publish(EVENT, message_id="order-7")
    orders.consume_event()

    named = {"correlation-id": "order-7", "causation-id": "order-7"}
    assert headers_in(invoices) == [{**named, "own": "1"}, named, named]


def test_the_correlation_id_stays_the_same_along_a_chain_and_the_causation_id_does_not(driver):
    first, second = consumer_of("first", "orders", driver), consumer_of("second", "steps", driver)
    third = consumer_of("third", "more-steps", driver)
    first.listener()(lambda event: ExchangeMessagePublisher("steps", driver).publish(EVENT, message_id="2"))
    second.listener()(
        lambda event: ExchangeMessagePublisher("more-steps", driver).publish(EVENT, message_id="3")
    )
    ExchangeMessagePublisher("orders", driver).publish(
        EVENT, message_id="1", headers={"correlation-id": "web-42"}
    )

    first.consume_event()
    second.consume_event()

    assert headers_in(third) == [{"correlation-id": "web-42", "causation-id": "2"}]


def test_headers_of_the_caller_win(driver):
    first, second = consumer_of("first", "orders", driver), consumer_of("second", "steps", driver)
    publisher = ExchangeMessagePublisher("steps", driver)
    first.listener()(lambda event: publisher.publish(EVENT, headers={"correlation-id": "mine"}))
    ExchangeMessagePublisher("orders", driver).publish(EVENT, message_id="1")

    first.consume_event()

    assert headers_in(second) == [{"correlation-id": "mine", "causation-id": "1"}]


def test_outside_of_a_listener_nothing_is_added(driver):
    consumer = consumer_of("first", "orders", driver)

    ExchangeMessagePublisher("orders", driver).publish(EVENT)

    assert headers_in(consumer) == [{}]


def test_the_ids_of_a_message_are_fields_of_a_log_record():
    first = Message("1", "{}")
    caused = Message("2", "{}", headers={"correlation-id": "web-42", "causation-id": "1"})

    assert log_fields(first) == {"message_id": "1", "correlation_id": "1"}
    assert log_fields(caused) == {"message_id": "2", "correlation_id": "web-42", "causation_id": "1"}


def test_each_record_that_is_logged_in_a_listener_has_the_ids_of_its_message(driver, caplog):
    consumer = consumer_of("first", "orders", driver)
    consumer.listener()(lambda event: logging.getLogger("shop").warning("told"))
    caplog.handler.addFilter(CorrelationFilter())
    ExchangeMessagePublisher("orders", driver).publish(
        EVENT, message_id="2", headers={"correlation-id": "web-42", "causation-id": "1"}
    )

    consumer.consume_event()
    logging.getLogger("shop").warning("afterwards")

    told, afterwards = caplog.records
    assert (told.message_id, told.correlation_id, told.causation_id) == ("2", "web-42", "1")
    assert not hasattr(afterwards, "correlation_id")


def test_a_record_keeps_the_ids_that_it_has(driver, caplog):
    consumer = consumer_of("first", "orders", driver)
    about_another = {"message_id": "another"}
    consumer.listener()(lambda event: logging.getLogger("shop").warning("told", extra=about_another))
    caplog.handler.addFilter(CorrelationFilter())
    ExchangeMessagePublisher("orders", driver).publish(EVENT, message_id="2")

    consumer.consume_event()

    assert caplog.records[0].message_id == "another"


def test_the_log_of_a_failed_listener_and_of_a_dead_letter_has_the_ids(driver, caplog):
    consumer = ExchangeMessageConsumer(
        "first",
        "orders",
        driver=driver,
        queue=QueueOptions(wait_seconds=0),
        retry=RetryPolicy(max_attempts=1),
    )

    @consumer.listener()
    def fail(event):
        raise ValueError

    ExchangeMessagePublisher("orders", driver).publish(
        EVENT, message_id="2", headers={"correlation-id": "web-42", "causation-id": "1"}
    )

    consumer.consume_event()

    assert {record.name for record in caplog.records} == {
        "melange.consuming.outcomes",
        "melange.consuming.settling",
    }
    for record in caplog.records:
        assert (record.message_id, record.correlation_id, record.causation_id) == ("2", "web-42", "1")


@pytest.mark.parametrize(
    "given",
    ["x" * 257, "x" * 100_000, "web\n42", "web\u202e42"],
    ids=["257", "100,000", "line break", "reversed"],
)
def test_an_id_that_strangers_made_long_or_illegible_is_neither_copied_nor_logged(driver, given):
    orders, invoices = consumer_of("billing", "orders", driver), consumer_of("mail", "invoices", driver)
    orders.listener("OrderPlaced")(lambda event: ExchangeMessagePublisher("invoices", driver).publish(EVENT))
    headers = {"correlation-id": given, "causation-id": given}
    ExchangeMessagePublisher("orders", driver).publish(EVENT, message_id="order-7", headers=headers)

    orders.consume_event()

    assert headers_in(invoices) == [{"correlation-id": "order-7", "causation-id": "order-7"}]
    message = Message("order-7", "{}", headers=headers)
    assert log_fields(message) == {"message_id": "order-7", "correlation_id": "order-7"}
