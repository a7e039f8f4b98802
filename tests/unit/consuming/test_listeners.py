"""What a listener may look like, and what is refused when it is subscribed."""

from dataclasses import dataclass, replace

import pytest

from melange import (
    ConfigurationError,
    DuplicateHandlerError,
    EventMessage,
    ExchangeListener,
    HandlerNotFoundError,
    MemoryDeduplicationStore,
)
from melange.consuming.listener import subscription_for
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication import Claimed


@dataclass(frozen=True)
class ProductAdded(EventMessage):
    product_id: int


EVENT = {"event_type_name": "ProductAdded", "product_id": 1}


class EventOnly(ExchangeListener):
    def process(self, event):
        self.seen = event


class SomeKeywords(ExchangeListener):
    def process(self, event, receive_count, *, message_id):
        self.seen = {"receive_count": receive_count, "message_id": message_id}


class AllKeywords(ExchangeListener):
    def __init__(self):
        pass  # does not call super().__init__()

    def process(self, event, **kwargs):
        self.seen = kwargs


class OptionalParameter(ExchangeListener):
    def process(self, event, greeting="hello", headers=None):
        self.seen = (greeting, headers["trace"])


def test_process_may_take_the_event_alone(make_consumer, publisher):
    consumer, listener = make_consumer(), EventOnly()
    consumer.subscribe(listener)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert listener.seen == EVENT


def test_process_may_take_some_of_the_keywords(make_consumer, publisher):
    consumer, listener = make_consumer(), SomeKeywords()
    consumer.subscribe(listener)
    message_id = publisher.publish(EVENT)

    consumer.consume_event()

    assert listener.seen == {"receive_count": 1, "message_id": message_id}


def test_process_may_take_all_keywords(make_consumer, publisher):
    consumer, listener = make_consumer(), AllKeywords()
    consumer.subscribe(listener)
    message_id = publisher.publish(EVENT, headers={"trace": "t-1"})

    consumer.consume_event()

    assert callable(listener.seen.pop("lease_lost"))
    assert listener.seen == {
        "message_id": message_id,
        "event_type_name": "ProductAdded",
        "headers": {"trace": "t-1"},
        "receive_count": 1,
        "attempt": 1,
        "queue_name": "stock",
    }


def test_parameters_of_its_own_keep_their_defaults(make_consumer, publisher):
    consumer, listener = make_consumer(), OptionalParameter()
    consumer.subscribe(listener)
    publisher.publish(EVENT, headers={"trace": "t-1"})

    consumer.consume_event()

    assert listener.seen == ("hello", "t-1")


def test_headers_cannot_be_changed_by_a_listener(make_consumer, publisher):
    consumer, listener = make_consumer(), AllKeywords()
    consumer.subscribe(listener)
    publisher.publish(EVENT, headers={"trace": "t-1"})
    consumer.consume_event()

    with pytest.raises(TypeError):
        listener.seen["headers"]["trace"] = "changed"


def test_a_function_can_listen_and_stays_a_function(make_consumer, publisher):
    consumer = make_consumer()
    seen = []

    @consumer.listener("ProductAdded")
    def note(event, message_id):
        seen.append((event, message_id))

    message_id = publisher.publish(EVENT)

    consumer.consume_event()

    assert seen == [(EVENT, message_id)]
    note({}, "called directly")
    assert seen[-1] == ({}, "called directly")


def test_a_listener_to_a_class_is_given_objects(make_consumer, publisher):
    consumer = make_consumer()
    seen = []
    consumer.listener(ProductAdded)(seen.append)
    event = ProductAdded(1)
    publisher.publish(event)

    consumer.consume_event()

    assert seen == [event]
    assert seen[0].occurred_on == event.occurred_on


def test_one_consumers_classes_are_nothing_to_another(make_consumer, publisher):
    typed, untyped = make_consumer("typed"), make_consumer("untyped")
    seen = []
    typed.listener(ProductAdded)(lambda event: seen.append(type(event)))
    untyped.listener("ProductAdded", name="by name")(lambda event: seen.append(type(event)))
    publisher.publish(ProductAdded(1))

    typed.consume_event()
    untyped.consume_event()

    assert seen == [ProductAdded, dict]


def test_listeners_choose_their_events(make_consumer, publisher):
    consumer = make_consumer()
    seen = []
    consumer.listener("A", "B", name="a and b")(lambda event: seen.append(("ab", event["event_type_name"])))
    consumer.listener(name="all")(lambda event: seen.append(("all", event["event_type_name"])))
    for name in "ABC":
        publisher.publish({}, name)

    consumer.consume_event()

    assert seen == [("ab", "A"), ("all", "A"), ("ab", "B"), ("all", "B"), ("all", "C")]


def test_a_listener_can_be_taken_away(make_consumer, publisher):
    consumer = make_consumer()
    kept, removed = AllKeywords(), EventOnly()
    consumer.subscribe(kept)
    consumer.subscribe(removed)
    publisher.publish(EVENT)
    consumer.consume_event()
    del kept.seen, removed.seen

    consumer.unsubscribe(removed)
    publisher.publish(EVENT)
    consumer.consume_event()

    assert hasattr(kept, "seen")
    assert not hasattr(removed, "seen")


def test_only_what_is_subscribed_can_be_taken_away(make_consumer):
    with pytest.raises(HandlerNotFoundError, match="not subscribed to queue stock"):
        make_consumer().unsubscribe(EventOnly())


def test_two_listeners_of_one_class_need_names(make_consumer, publisher):
    consumer = make_consumer()
    consumer.subscribe(EventOnly())

    with pytest.raises(DuplicateHandlerError, match="give each its own"):
        consumer.subscribe(EventOnly())

    second = EventOnly()
    second.name = "second"
    consumer.subscribe(second)
    publisher.publish(EVENT)
    consumer.consume_event()
    assert second.seen == EVENT


def test_each_listener_gets_events_in_its_own_form(make_consumer, publisher):
    consumer = make_consumer()
    seen = []

    def define():
        @dataclass(frozen=True)
        class ProductAdded(EventMessage):
            product_id: int
            name: str = ""

        return ProductAdded

    other = define()
    for number, event_type in enumerate((ProductAdded, other, "ProductAdded")):
        consumer.listener(event_type, name=f"{number}")(seen.append)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen == [ProductAdded(1), other(1), EVENT]


def test_one_listener_knows_an_event_type_by_one_class(make_consumer):
    def define():
        @dataclass
        class ProductAdded(EventMessage):
            name: str

        return ProductAdded

    with pytest.raises(DuplicateHandlerError, match="'ProductAdded'"):
        make_consumer().listener(ProductAdded, define())(print)


class ReturnsString(EventOnly):
    def listens_to(self):
        return "ProductAdded"


class ReturnsClass(EventOnly):
    def listens_to(self):
        return ProductAdded


class ReturnsNumbers(EventOnly):
    def listens_to(self):
        return [1]


class ReturnsOtherClass(EventOnly):
    def listens_to(self):
        return [dict]


class TakesNothing(ExchangeListener):
    def process(self):
        pass


class AsksForUnknown(ExchangeListener):
    def process(self, event, mesage_id):
        pass


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        (EventOnly, r"subscribe an object, not the class: consumer.subscribe\(EventOnly\(\)\)"),
        (print, r"@consumer.listener"),
        (None, "not an ExchangeListener"),
        (ReturnsString(), "must be a sequence"),
        (ReturnsClass(), "must be a sequence"),
        (ReturnsNumbers(), "neither an event type name nor a class"),
        (ReturnsOtherClass(), "neither an event type name nor a class"),
        (TakesNothing(), "must take the event as its first argument"),
        (AsksForUnknown(), "asks for 'mesage_id'.*did you mean 'message_id'"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_cannot_listen_is_refused_when_it_is_subscribed(make_consumer, listener, message):
    with pytest.raises(ConfigurationError, match=message):
        make_consumer().subscribe(listener)


class Unreadable(EventMessage):
    """No dataclass, and no schema is registered for it."""


def test_an_event_class_that_nobody_could_read_is_refused_when_it_is_subscribed(make_consumer):
    with pytest.raises(ConfigurationError, match="Unreadable"):
        make_consumer().listener(Unreadable)(print)


def test_a_generator_is_refused_for_calling_it_runs_nothing(make_consumer):
    consumer = make_consumer()

    def generator(event):
        yield event

    async def asynchronous_generator(event):
        yield event

    for listener in (generator, asynchronous_generator):
        with pytest.raises(ConfigurationError, match="is a generator: calling it runs nothing"):
            consumer.listener()(listener)


class SubscribingMeanwhile(frozenset):
    """Event types that, when looked at, let another thread's subscription come between."""

    def __contains__(self, event_type_name):
        self.subscribe()
        return super().__contains__(event_type_name)


def test_a_listener_that_comes_while_others_are_looked_up_is_not_forgotten():
    subscriptions = Subscriptions()
    types = SubscribingMeanwhile({"ProductAdded"})
    first = subscription_for(lambda event: None, ["ProductAdded"], name="first")
    second = subscription_for(lambda event: None, ["ProductAdded"], name="second")
    comings = [second]
    types.subscribe = lambda: comings and subscriptions.add(comings.pop())
    subscriptions.add(replace(first, event_type_names=types))

    subscriptions.accepting("ProductAdded")

    assert [one.name for one in subscriptions.accepting("ProductAdded")] == ["first", "second"]


def test_the_decorator_needs_its_parentheses(make_consumer):
    with pytest.raises(ConfigurationError, match="with parentheses"):
        make_consumer().listener(lambda event: None)


def test_without_a_worker_an_asynchronous_listener_is_refused_and_nothing_is_received(
    driver, make_consumer, publisher
):
    consumer = make_consumer()

    @consumer.listener()
    async def work(event):
        pass

    publisher.publish(EVENT)

    with pytest.raises(ConfigurationError, match="asynchronous"):
        consumer.consume_event()

    assert driver.measure_queue(consumer.queue).visible == 1


def test_a_coroutine_that_nobody_awaits_is_a_failure_and_not_a_success(
    driver, make_consumer, publisher, caplog
):
    consumer = make_consumer()

    async def work():
        pass

    consumer.listener(name="hidden")(lambda event: work())
    publisher.publish(EVENT)

    consumer.consume_event()

    assert "is asynchronous: it needs the event loop" in caplog.text
    assert driver.measure_queue(consumer.queue).in_flight == 1


class Greeted(Claimed):
    @property
    def keywords(self):
        return {"greeting": f"hello {self.key.message_id}"}


class GreetingStore(MemoryDeduplicationStore):
    """A store that gives listeners something."""

    keyword_names = ("greeting",)

    def claim(self, key, token, lease_seconds):
        claimed = super().claim(key, token, lease_seconds)
        return Greeted(*claimed) if isinstance(claimed, Claimed) else claimed


def test_a_store_may_give_listeners_keywords(make_consumer, publisher):
    consumer, everything = make_consumer(deduplication=GreetingStore()), AllKeywords()
    seen = []
    consumer.subscribe(everything)
    consumer.listener(name="one")(lambda event, greeting: seen.append(greeting))
    consumer.listener(name="none")(lambda event: seen.append("no greeting"))
    publisher.publish(EVENT, message_id="m-1")

    consumer.consume_event()

    assert seen == ["hello m-1", "no greeting"]
    assert everything.seen["greeting"] == "hello m-1"


def test_a_session_is_told_to_come_from_an_inbox(make_consumer):
    with pytest.raises(ConfigurationError, match=r"asks for 'session', .*deduplication=Inbox\(...\)"):
        make_consumer().listener(name="write")(lambda event, session: None)


def test_a_store_that_gives_keywords_cannot_be_done_without(make_consumer):
    with pytest.raises(ConfigurationError, match="GreetingStore is a part of their work"):
        make_consumer(deduplication=GreetingStore(), on_unavailable="process")


@pytest.mark.parametrize("are_async", [True, False])
def test_a_store_may_say_which_listeners_it_works_for(make_consumer, are_async):
    store = GreetingStore()
    store.listeners_are_async = are_async
    consumer = make_consumer(deduplication=store)

    async def asynchronous(event):
        pass

    def synchronous(event):
        pass

    fitting, other = (asynchronous, synchronous) if are_async else (synchronous, asynchronous)
    consumer.listener()(fitting)

    with pytest.raises(ConfigurationError, match="be `async def`"):
        consumer.listener()(other)
