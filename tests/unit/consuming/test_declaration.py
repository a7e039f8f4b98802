"""What a consumer declares when it is built, and what it leaves alone."""

import pytest

from melange import (
    NO_DEAD_LETTER_QUEUE,
    ConfigurationError,
    DriverManager,
    EventMessage,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    InvalidNameError,
    NoDriverError,
    QueueNotFoundError,
    QueueOptions,
    TopicNotFoundError,
)
from melange.drivers.declarations import collecting
from melange.drivers.memory import InMemoryDriver


def test_what_is_published_after_building_is_not_missed(driver, make_consumer, publisher):
    consumer = make_consumer()

    publisher.publish({}, "ProductAdded")

    assert driver.measure_queue(consumer.queue).visible == 1


def test_a_consumer_may_have_any_number_of_topics(driver, make_consumer):
    consumer = make_consumer("stock", "products", "orders")

    for topic in ("products", "orders"):
        ExchangeMessagePublisher(topic, driver).publish({}, "Happened")

    assert driver.measure_queue(consumer.queue).visible == 2


@pytest.mark.parametrize(
    ("queue_name", "dead_letter_name", "receives"),
    [("stock", "stock-dlq", 100), ("stock.fifo", "stock-dlq.fifo", 100)],
)
def test_by_default_a_queue_gets_a_dead_letter_queue(make_consumer, queue_name, dead_letter_name, receives):
    consumer = make_consumer(queue_name, "products.fifo")

    assert consumer.queue.dead_letter_queue.name == dead_letter_name
    assert consumer.queue.max_receive_count == receives


def test_a_dead_letter_queue_can_be_named(make_consumer):
    consumer = make_consumer(dead_letter_queue_name="failures", max_attempts=2)

    assert consumer.queue.dead_letter_queue.name == "failures"


def test_where_rejected_messages_stay_the_broker_keeps_them_as_long_as_it_can(make_consumer):
    consumer = make_consumer("stock.fifo", "products.fifo", on_reject="block")

    assert consumer.queue.max_receive_count == 1_000


def test_a_dead_letter_queue_can_be_turned_off(driver, make_consumer):
    make_consumer()

    consumer = make_consumer(dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)

    assert consumer.queue.dead_letter_queue is None
    assert driver.get_queue("stock").dead_letter_queue is None


@pytest.mark.parametrize("name", ["stock-dlq", "stock-dlq.fifo"])
def test_a_dead_letter_queue_gets_none_itself(make_consumer, name):
    assert make_consumer(name, "products.fifo").queue.dead_letter_queue is None


def test_the_default_leaves_an_existing_queue_as_it_is_and_warns(driver, make_consumer, caplog):
    driver.declare_queue("stock")

    consumer = make_consumer()

    assert consumer.queue.dead_letter_queue is None
    assert "exists without a dead-letter queue" in caplog.text


def test_the_default_keeps_another_dead_letter_queue(driver, make_consumer):
    other = driver.declare_queue("failures")
    driver.declare_queue("stock", dead_letter_queue=other, max_receive_count=50)

    consumer = make_consumer()

    assert consumer.queue.dead_letter_queue.name == "failures"


@pytest.mark.parametrize(
    ("existing", "max_attempts", "wanted"), [(20, 30, 120), (500, 30, 500), (10, 1_000, 1_000)]
)
def test_the_brokers_limit_of_an_existing_queue_is_raised_and_never_lowered(
    driver, make_consumer, existing, max_attempts, wanted
):
    driver.declare_queue(
        "stock", dead_letter_queue=driver.declare_queue("failures"), max_receive_count=existing
    )

    assert make_consumer(max_attempts=max_attempts).queue.max_receive_count == wanted


def test_where_attempts_outlive_the_process_the_brokers_limit_is_as_high_as_can_be(make_consumer, store):
    store.outlives_process = True

    assert make_consumer().queue.max_receive_count == 1_000


def test_a_broker_limit_below_our_own_is_warned_of(driver, make_consumer, caplog):
    driver.declare_queue("stock", dead_letter_queue=driver.declare_queue("failures"), max_receive_count=3)

    driver.declare_topic("products")

    make_consumer(declare=False)

    assert "after 3 receives, before max_attempts=25 are made" in caplog.text


def test_building_twice_changes_nothing(make_consumer, publisher):
    first, second = make_consumer(), make_consumer()

    assert first.queue == second.queue


class ProductAdded(EventMessage):
    pass


@pytest.mark.parametrize("event_type", ["ProductAdded", ProductAdded], ids=["name", "class"])
def test_a_filter_keeps_other_events_from_the_queue(driver, make_consumer, publisher, event_type):
    consumer = make_consumer(filter_events=[event_type])

    publisher.publish({}, "ProductAdded")
    publisher.publish({}, "ProductRemoved")

    assert driver.measure_queue(consumer.queue).visible == 1


def test_without_declaring_everything_must_exist(driver, make_consumer):
    with pytest.raises(TopicNotFoundError):
        make_consumer(declare=False)
    driver.declare_topic("products")
    with pytest.raises(QueueNotFoundError):
        make_consumer(declare=False)

    with pytest.raises(QueueNotFoundError):
        driver.get_queue("stock")


def test_without_declaring_an_existing_queue_is_used(driver, make_consumer, publisher):
    declared = make_consumer()

    consumer = make_consumer(declare=False)

    assert consumer.queue == declared.queue


def test_without_declaring_addresses_are_taken_too(driver, make_consumer):
    declared = make_consumer()
    topic = driver.get_topic("products")

    consumer = make_consumer(declared.queue.address, topic.address, declare=False)

    assert consumer.queue == declared.queue


def test_without_declaring_a_dead_letter_queue_is_looked_up(driver, make_consumer):
    make_consumer()
    driver.declare_queue("failures")

    assert (
        make_consumer(declare=False, dead_letter_queue_name="failures").queue.dead_letter_queue.name
        == "failures"
    )
    assert (
        make_consumer(declare=False, dead_letter_queue_name=NO_DEAD_LETTER_QUEUE).queue.dead_letter_queue
        is None
    )
    assert driver.get_queue("stock").dead_letter_queue.name == "stock-dlq"


@pytest.mark.parametrize("options", [{"filter_events": ["A"]}, {"tags": {"team": "stock"}}])
def test_without_declaring_filters_and_tags_are_left_to_what_creates_the_queue(
    driver, make_consumer, options
):
    make_consumer()

    queue = make_consumer(declare=False, **options).queue

    assert [binding.event_filter for binding in driver.list_bindings(queue)] == [None]


@pytest.mark.parametrize(
    "options", [{"filter_events": ["A"]}, {"queue": QueueOptions(tags={"team": "stock"})}]
)
def test_what_changes_a_queue_is_refused_for_one_given_by_its_address(driver, options):
    address = driver.declare_queue("stock").address

    with pytest.raises(ConfigurationError, match="give its name"):
        ExchangeMessageConsumer(address, driver=driver, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"max_attempts": True}, "max_attempts must be"),
        ({"visibility_timeout_seconds": 0}, "visibility_timeout_seconds must be"),
        ({"visibility_timeout_seconds": 43_201}, "visibility_timeout_seconds must be"),
        ({"visibility_timeout_seconds": 1.5}, "whole number"),
        ({"wait_seconds": 21}, "wait_seconds must be"),
        ({"wait_seconds": -1}, "wait_seconds must be"),
        ({"on_unhandled": "ignore"}, "on_unhandled must be"),
        ({"filter_scope": "attributes"}, "filter_scope must be"),
        ({"filter_events": "ProductAdded"}, "must be a sequence"),
        ({"filter_events": [5]}, "neither an event type name"),
        ({"dead_letter_queue_name": False}, "NO_DEAD_LETTER_QUEUE, not False"),
        ({"dead_letter_queue_name": ""}, "NO_DEAD_LETTER_QUEUE, not ''"),
        ({"ordered_by": 5}, "the name of an event field, not 5"),
        ({"declare": "no"}, "True or False, not 'no'"),
    ],
)
def test_options_out_of_bounds_are_refused_and_nothing_is_declared(driver, make_consumer, options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_consumer(**options)

    with pytest.raises(QueueNotFoundError):
        driver.get_queue("stock")


def test_a_mistyped_keyword_is_refused(make_consumer):
    with pytest.raises(TypeError, match="dead_leter_queue_name"):
        make_consumer(dead_leter_queue_name="failures")


@pytest.mark.parametrize("name", ["", "with space", "x" * 81, "a.b", ".fifo", "stock\n", None])
def test_a_queue_name_that_the_broker_would_refuse_is_refused(make_consumer, name):
    with pytest.raises(InvalidNameError):
        make_consumer(name)


@pytest.mark.parametrize("name", ["", "with space", "x" * 257, "a.b", "products\n", None])
def test_a_topic_name_that_the_broker_would_refuse_is_refused(make_consumer, name):
    with pytest.raises(InvalidNameError):
        make_consumer("stock", name)


def test_the_driver_in_use_when_it_was_built_is_the_consumers(driver, monkeypatch):
    manager = DriverManager()
    monkeypatch.setattr(DriverManager, "instance", lambda: manager)
    with pytest.raises(NoDriverError):
        ExchangeMessageConsumer("stock", "products")

    manager.use_driver(driver)
    ExchangeMessageConsumer("stock", "products")
    manager.use_driver(driver_name="memory")

    assert driver.get_queue("stock")
    with pytest.raises(QueueNotFoundError):
        manager.get_driver().get_queue("stock")


def test_a_topic_that_left_the_code_is_reported_and_stays(driver, make_consumer, caplog):
    make_consumer("stock", "products", "returns")
    caplog.clear()

    make_consumer("stock", "products")

    assert "topic returns still feeds queue stock" in caplog.text
    assert {binding.topic.name for binding in driver.list_bindings(driver.get_queue("stock"))} == {
        "products",
        "returns",
    }


def test_a_filter_that_left_the_code_is_reported_until_it_is_taken_off(make_consumer, caplog):
    make_consumer(filter_events=["ProductAdded"])

    make_consumer()
    assert "only events of the types ProductAdded on to queue stock" in caplog.text
    make_consumer(filter_events=())
    caplog.clear()
    make_consumer()

    assert caplog.text == ""


def test_what_the_code_names_is_not_reported(make_consumer, caplog):
    for _ in range(2):
        make_consumer(filter_events=["ProductAdded"])

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("driver", "memory"),
        ("retry", 3),
        ("queue", {"wait_seconds": 0}),
        ("middleware", 5),
        ("middleware", ["tracing"]),
    ],
)
def test_an_option_of_another_kind_is_refused_by_its_name(driver, option, value):
    with pytest.raises(ConfigurationError, match=f"{option}= takes"):
        ExchangeMessageConsumer("stock", **{"driver": driver, option: value})


def test_while_declarations_are_collected_a_consumer_calls_no_broker(driver, make_consumer):
    with collecting() as collected:
        consumer = make_consumer("stock", "products")

    assert collected == [consumer]
    with pytest.raises(QueueNotFoundError):
        driver.get_queue("stock")


def test_while_declarations_are_collected_nothing_can_be_published(driver):
    publisher = ExchangeMessagePublisher("products", driver)

    with collecting(), pytest.raises(ConfigurationError, match="only creates publishers and consumers"):
        publisher.publish({}, "ProductAdded")


def test_the_prefix_of_a_driver_is_in_addresses_and_not_in_names():
    with InMemoryDriver(prefix="staging-") as driver:
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver)

        assert consumer.queue.name == "stock"
        assert consumer.queue.address.endswith(":staging-stock")
        assert consumer.queue.dead_letter_queue.name == "stock-dlq"
        assert driver.get_queue(consumer.queue.address) == driver.get_queue("stock") == consumer.queue


@pytest.mark.parametrize("prefix", ["staging.", "x" * 41, None])
def test_a_prefix_that_names_cannot_have_is_refused(prefix):
    with pytest.raises(ConfigurationError, match="prefix must be"):
        InMemoryDriver(prefix=prefix)
