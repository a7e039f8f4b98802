"""What may subscribe, to what, and what is refused."""

from __future__ import annotations

import functools
import gc
from dataclasses import dataclass
from typing import Any

import pytest

from melange import ConfigurationError, DomainEvent, DomainEventBus, DomainSubscriber, HandlerNotFoundError
from melange.domain import Subscribers


@dataclass(frozen=True)
class ProductEvent(DomainEvent):
    product_id: int = 1


class ProductAdded(ProductEvent):
    pass


class ProductRemoved(ProductEvent):
    pass


class NoDomainEvent:
    pass


class Listener(DomainSubscriber):
    def __init__(self, seen: list[object], *event_types: type) -> None:
        self.seen = seen
        self.event_types = event_types

    def process(self, event: Any) -> None:
        self.seen.append(event)

    def listens_to(self) -> Any:
        return list(self.event_types)


class SilentListener(DomainSubscriber):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def process(self, event: Any) -> None: ...

    def listens_to(self) -> Any:
        return self.answer


def test_the_example_of_the_documentation() -> None:
    printed = []

    @dataclass(frozen=True)
    class ProductAddedDomainEvent(DomainEvent):
        product_id: int
        name: str

    class MySubscriber(DomainSubscriber):
        def process(self, event):
            printed.append(f"{event.product_id}{event.name}")

        def listens_to(self):
            return [ProductAddedDomainEvent]

    DomainEventBus.instance().reset()
    DomainEventBus.instance().subscribe(MySubscriber())
    DomainEventBus.instance().publish(ProductAddedDomainEvent(1, "Cooler"))
    DomainEventBus.instance().reset()

    assert printed == ["1Cooler"]


@pytest.mark.parametrize(
    ("event_types", "heard"),
    [
        ((ProductAdded,), [ProductAdded]),
        ((ProductEvent,), [ProductEvent, ProductAdded, ProductRemoved]),
        ((ProductAdded, ProductRemoved), [ProductAdded, ProductRemoved]),
        ((object,), [ProductEvent, ProductAdded, ProductRemoved, NoDomainEvent]),
        ((), [ProductEvent, ProductAdded, ProductRemoved, NoDomainEvent]),
    ],
)
def test_a_subscriber_hears_its_classes_and_those_that_inherit_from_them(
    bus, seen, event_types, heard
) -> None:
    bus.subscribe(Listener(seen, *event_types))

    for event_type in (ProductEvent, ProductAdded, ProductRemoved, NoDomainEvent):
        bus.publish(event_type())

    assert [type(event) for event in seen] == heard


def test_a_subscriber_without_listens_to_hears_every_event(bus, seen) -> None:
    class Everything(DomainSubscriber):
        def process(self, event):
            seen.append(event)

    bus.subscribe(Everything())

    bus.publish("any object")

    assert seen == ["any object"]


def test_listens_to_may_return_a_set(bus) -> None:
    bus.subscribe(SilentListener({ProductAdded}))

    assert [name.rpartition(".")[2] for name in bus.describe()] == ["ProductAdded"]


def test_a_function_says_by_its_annotation_what_it_hears(bus, seen) -> None:
    @bus.on
    def one(event: ProductAdded) -> None:
        seen.append(("one", event))

    @bus.on()
    def either(event: ProductAdded | ProductRemoved) -> None:
        seen.append(("either", event))

    def everything(event: Any, *, marked: str = "everything") -> None:
        seen.append((marked, event))

    bus.subscribe(everything)
    added, removed = ProductAdded(), ProductRemoved()

    bus.publish(added)
    bus.publish(removed)

    assert seen == [
        ("one", added),
        ("either", added),
        ("everything", added),
        ("either", removed),
        ("everything", removed),
    ]


def test_a_decorated_function_stays_what_it_was(bus) -> None:
    def double(event: ProductEvent) -> int:
        return event.product_id * 2

    assert bus.on(ProductAdded)(double) is double
    assert bus.on(double) is double


def test_methods_lambdas_partials_and_callable_objects_are_functions_too(bus, seen) -> None:
    class Listening:
        def __call__(self, event: ProductAdded) -> None:
            seen.append("object")

        def method(self, event: ProductAdded) -> None:
            seen.append("method")

    def partly(label: str, event: ProductAdded) -> None:
        seen.append(label)

    bus.subscribe(Listening())
    bus.subscribe(Listening().method)
    bus.subscribe(functools.partial(partly, "partial"))
    bus.on(ProductAdded)(lambda event: seen.append("lambda"))

    bus.publish(ProductAdded())

    assert seen == ["object", "method", "partial", "lambda"]


def test_a_subscriber_that_is_there_several_times_is_called_once_where_it_came_first(bus, seen) -> None:
    first, second = Listener(seen, ProductAdded), Listener([], ProductAdded)
    second.process = lambda event: seen.append("second")  # type: ignore[method-assign]
    bus.subscribe(first)
    bus.subscribe(second)
    bus.subscribe(first)
    event = ProductAdded()

    bus.publish(event)

    assert seen == [event, "second"]


def test_a_function_on_a_class_and_on_its_base_is_called_once(bus, seen) -> None:
    bus.on(ProductEvent)(seen.append)
    bus.on(ProductAdded)(seen.append)

    bus.publish(ProductAdded())

    assert len(seen) == 1


def test_equal_subscribers_are_still_two(bus, seen) -> None:
    @dataclass
    class Equal(DomainSubscriber):
        number: int

        def process(self, event):
            seen.append(self.number)

    bus.subscribe(Equal(1))
    bus.subscribe(Equal(1))

    bus.publish(ProductAdded())

    assert seen == [1, 1]


def test_a_bus_keeps_its_subscribers_alive(bus, seen) -> None:
    bus.on(ProductAdded)(lambda event: seen.append([event]))
    gc.collect()

    bus.publish(ProductAdded())

    assert len(seen) == 1


def test_who_was_unsubscribed_hears_nothing(bus, seen) -> None:
    subscriber = Listener(seen, ProductAdded)
    bus.subscribe(subscriber)
    bus.on(ProductAdded)(subscriber.process)
    bus.publish(ProductAdded())
    seen.clear()

    bus.unsubscribe(subscriber)
    bus.unsubscribe(subscriber.process)
    bus.publish(ProductAdded())

    assert seen == []


def test_unsubscribing_a_stranger_is_an_error(bus) -> None:
    with pytest.raises(HandlerNotFoundError, match="Listener is not subscribed in this thread or task"):
        bus.unsubscribe(Listener([]))


def test_reset_takes_all_subscribers_away(bus, seen) -> None:
    bus.subscribe(Listener(seen))

    bus.reset()
    bus.publish(ProductAdded())

    assert seen == []
    assert bus.subscriptions == ()


def without_annotation(event): ...


def with_text(event: "Unknown"): ...  # type: ignore[name-defined]  # noqa: F821, UP037


def with_a_list(event: list[ProductAdded]) -> None: ...


def without_parameter() -> None: ...


def with_a_keyword(*, event: ProductAdded) -> None: ...


def generator(event: ProductAdded):
    yield event


async def async_generator(event: ProductAdded):
    yield event


@pytest.mark.parametrize(
    ("not_a_subscriber", "says"),
    [
        (5, "5 is neither a DomainSubscriber nor a function"),
        (None, "None is neither"),
        (SilentListener, r"subscribe an object, not the class: subscribe\(SilentListener\(\)\)"),
        (without_annotation, "without_annotation .* has no annotation: annotate it with the event's class"),
        (with_text, "'Unknown'.* of .*with_text .* cannot be resolved"),
        (with_a_list, "list.* is no class or union of classes"),
        (without_parameter, "without_parameter .* must take one positional argument"),
        (with_a_keyword, "with_a_keyword .* must take one positional argument"),
        (generator, "generator .* is a generator: calling it runs nothing"),
        (async_generator, "async_generator .* is a generator"),
        (print, "print has no annotation|parameters of builtins.print cannot be read|annotation"),
        (
            SilentListener("ProductAdded"),
            r"listens_to of .*SilentListener must return a list of classes.*'ProductAdded'",
        ),
        (SilentListener(ProductAdded), "listens_to of .*SilentListener must return a list of classes"),
        (
            SilentListener(["ProductAdded"]),
            "listens_to of .*SilentListener names 'ProductAdded', which is no class",
        ),
        (SilentListener([ProductAdded()]), "which is no class"),
        (SilentListener(5), "must return a list of classes, such as .*, not 5"),
    ],
    ids=range(16),
)
def test_what_cannot_be_a_subscriber_is_refused(bus, not_a_subscriber, says) -> None:
    with pytest.raises(ConfigurationError, match=says):
        bus.subscribe(not_a_subscriber)

    assert bus.subscriptions == ()


def test_on_names_classes(bus) -> None:
    with pytest.raises(ConfigurationError, match="names 'ProductAdded', which is no class"):
        bus.on("ProductAdded")(lambda event: None)


class TestGroups:
    def test_nobody_in_a_group_hears_anything_until_it_is_opened(self, bus, seen) -> None:
        group = Subscribers()
        group.on(ProductAdded)(seen.append)

        bus.publish(ProductAdded())
        with bus.scope(group):
            bus.publish(inside := ProductAdded())
        bus.publish(ProductAdded())

        assert seen == [inside]

    def test_groups_are_heard_in_order_after_those_who_are_there(self, bus, seen) -> None:
        first, second = Subscribers(), Subscribers()
        second.subscribe(lambda_("second", seen))
        first.subscribe(lambda_("first", seen))
        bus.subscribe(lambda_("bus", seen))

        with bus.scope(first, second):
            bus.publish(ProductAdded())

        assert seen == ["bus", "first", "second"]

    def test_scopes_in_scopes_add_up_and_one_group_is_heard_once(self, bus, seen) -> None:
        first, second = Subscribers(), Subscribers()
        first.subscribe(lambda_("first", seen))
        second.subscribe(lambda_("second", seen))

        with bus.scope(first), bus.scope(second, first):
            bus.publish(ProductAdded())

        assert seen == ["first", "second"]

    def test_what_was_changed_in_a_scope_ends_with_it(self, bus, seen) -> None:
        bus.subscribe(lambda_("before", seen))

        with bus.scope():
            bus.reset()
            bus.subscribe(lambda_("inside", seen))
            bus.publish(ProductAdded())
        bus.publish(ProductAdded())

        assert seen == ["inside", "before"]

    def test_a_scope_ends_when_its_block_raises(self, bus, seen) -> None:
        group = Subscribers()
        group.subscribe(lambda_("inside", seen))

        with pytest.raises(LookupError), bus.scope(group):
            raise LookupError
        bus.publish(ProductAdded())

        assert seen == []

    def test_what_is_added_to_an_open_group_is_heard_in_the_next_scope(self, bus, seen) -> None:
        group = Subscribers()

        with bus.scope(group):
            group.subscribe(lambda_("late", seen))
            bus.publish(ProductAdded())
        heard_at_once = list(seen)
        with bus.scope(group):
            bus.publish(ProductAdded())

        assert (heard_at_once, seen) == ([], ["late"])

    def test_routes_of_a_group_are_compiled_once_for_all_scopes(self, bus) -> None:
        group = Subscribers()
        asked = []

        class Meta(type):
            def __subclasscheck__(cls, other):
                asked.append(other)
                return super().__subclasscheck__(other)

        class Watched(metaclass=Meta):
            pass

        group.on(Watched)(lambda event: None)

        for _ in range(3):
            with bus.scope(group):
                bus.publish(ProductAdded())

        assert asked == [ProductAdded]

    def test_a_scope_opens_groups_only(self, bus) -> None:
        with (
            pytest.raises(ConfigurationError, match=r"scope\(\) opens groups, which are Subscribers"),
            bus.scope(Listener([])),
        ):
            pass


def lambda_(label: str, seen: list[object]):
    def listen(event: ProductAdded) -> None:
        seen.append(label)

    return listen
