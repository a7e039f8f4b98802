"""Nanoseconds per publish and per command inside one process, beside other buses: ``tox -e bus-benchmarks``.

The limit of what can be done is a loop over a list of functions, written where the event is published, and for
commands a dictionary of functions. Contenders take turns; the figure of each is its best round, because whatever
else the machine does can only add to it.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from timeit import Timer

import blinker
import psygnal
import pydispatch.dispatcher
import zope.event
from diator.events import DomainEvent as DiatorEvent
from diator.events import EventEmitter as DiatorEmitter
from diator.events import EventHandler as DiatorHandler
from diator.events import EventMap as DiatorMap
from django.dispatch import Signal
from events import Events
from kerux import Mediator as KeruxMediator
from kerux import Notification as KeruxNotification
from kerux import Request as KeruxRequest
from kerux import SyncMediator as KeruxSyncMediator
from mediatpy import Mediator as MediatpyMediator
from mediatpy import Notification as MediatpyNotification
from mediatpy import NotificationHandler as MediatpyHandler
from mediatr import Mediator as MediatrMediator
from pubsub import pub
from pyee import EventEmitter as PyeeEmitter
from pymitter import EventEmitter as PymitterEmitter

from melange import DomainEventBus
from melange.cqrs import Command, CommandBus

ROUNDS = 60
PER_ROUND = 2_000

Run = Callable[[int], float]
"""Publishes so many times and returns the seconds that it took."""


class Happened:
    pass


class Unrelated:
    pass


EVENT = Happened()


def functions(count: int) -> list[Callable[..., None]]:
    """Return so many different functions that do nothing."""

    def make() -> Callable[..., None]:
        def handle(event: object) -> None: ...

        return handle

    return [make() for _ in range(count)]


def timed(statement: str, **names: object) -> Run:
    return Timer(statement, globals={"event": EVENT, **names}).timeit


def publishing(count: int) -> dict[str, Run]:
    """Return the buses that call so many functions for an event."""
    handlers = functions(count)
    held = DomainEventBus()
    shared = DomainEventBus.instance()
    shared.reset()
    crowded = DomainEventBus()
    for _ in range(10_000):
        crowded.on(Unrelated)(lambda event: None)
    signal, django_signal, pyee, pymitter = blinker.Signal(), Signal(), PyeeEmitter(), PymitterEmitter()
    events, emitter = Events(), WithSignal()
    zope.event.subscribers.clear()
    topic = pub.getDefaultTopicMgr().getOrCreateTopic(f"happened{count}")
    for handler in handlers:
        for bus in (held, shared, crowded):
            bus.on(Happened)(handler)
        signal.connect(handler, weak=False)
        django_signal.connect(receiver(), weak=False)
        pyee.add_listener("happened", handler)
        pymitter.on("happened", handler)
        events.on_happened += handler
        emitter.happened.connect(handler, check_nargs=False)
        zope.event.subscribers.append(handler)
        pydispatch.dispatcher.connect(handler, signal=f"happened{count}", weak=False)
        pub.subscribe(handler, topic.getName())
    # PyPubSub holds its listeners weakly.
    keep_alive = tuple(handlers)
    return {
        "loop over a list": timed("for handle in handlers: handle(event)", handlers=handlers),
        "**melange**, bus in a variable": timed("bus.publish(event)", bus=held),
        "**melange**, `instance()`": timed("Bus.instance().publish(event)", Bus=DomainEventBus),
        "**melange**, 10,000 more for other types": timed("bus.publish(event)", bus=crowded),
        "zope.event": timed("notify(event)", notify=zope.event.notify),
        "Events": timed("events.on_happened(event)", events=events),
        "psygnal": timed("emitter.happened.emit(event)", emitter=emitter),
        "pyee": timed("emitter.emit('happened', event)", emitter=pyee),
        "pymitter": timed("emitter.emit('happened', event)", emitter=pymitter),
        "Django signals": timed("signal.send(None, event=event)", signal=django_signal),
        "blinker": timed("signal.send(event)", signal=signal),
        "PyDispatcher": timed(
            "send(name, event=event)", send=pydispatch.dispatcher.send, name=f"happened{count}"
        ),
        "PyPubSub": timed(
            "send(name, event=event)", send=pub.sendMessage, name=topic.getName(), keep=keep_alive
        ),
    }


def receiver() -> Callable[..., None]:
    """Return what Django's signals call: a function that takes whatever else there is."""

    def receive(event: object, **more: object) -> None: ...

    return receive


class WithSignal:
    happened = psygnal.Signal(object)


def awaiting(count: int) -> dict[str, Run]:
    """Return the buses that await so many coroutine functions for an event."""

    def make() -> Callable[[object], Awaitable[None]]:
        async def handle(event: object) -> None: ...

        return handle

    handlers = [make() for _ in range(count)]
    bus, kerux, pymitter = DomainEventBus(), KeruxMediator(), PymitterEmitter()
    for handler in handlers:
        bus.on(Happened)(handler)
        kerux.register_notification_handler(KeruxHappened, handler)
        pymitter.on("happened", handler)

    async def loop(repetitions: int) -> float:
        begin = time.perf_counter()
        for _ in range(repetitions):
            for handle in handlers:
                await handle(EVENT)
        return time.perf_counter() - begin

    return {
        "loop that awaits": lambda repetitions: asyncio.run(loop(repetitions)),
        "**melange**, `publish_async`": awaited(bus.publish_async, EVENT),
        "kerux": awaited(kerux.publish, KeruxHappened()),
        "pymitter": awaited(pymitter.emit_async, "happened", EVENT),
        "mediatpy": awaited(mediatpy_mediator(count).publish, MediatpyHappened()),
        "diator": awaited(diator_emitter(count).emit, DiatorHappened()),
    }


def awaited(call: Callable[..., Awaitable[object]], *arguments: object) -> Run:
    async def run(repetitions: int) -> float:
        begin = time.perf_counter()
        for _ in range(repetitions):
            await call(*arguments)
        return time.perf_counter() - begin

    return lambda repetitions: asyncio.run(run(repetitions))


class KeruxHappened(KeruxNotification):
    pass


class MediatpyHappened(MediatpyNotification):
    pass


def mediatpy_mediator(count: int) -> MediatpyMediator:
    mediator = MediatpyMediator()
    for _ in range(count):

        class Handler(MediatpyHandler[MediatpyHappened]):
            async def handle(self, notification: MediatpyHappened) -> None: ...

        mediator.register_notification_handler(Handler)
    return mediator


@dataclass(frozen=True, kw_only=True)
class DiatorHappened(DiatorEvent):
    pass


class DiatorContainer:
    async def resolve(self, handler_type: type) -> object:
        return handler_type()


def diator_emitter(count: int) -> DiatorEmitter:
    handlers = DiatorMap()
    for _ in range(count):

        class Handler(DiatorHandler[DiatorHappened]):
            async def handle(self, event: DiatorHappened) -> None: ...

        handlers.bind(DiatorHappened, Handler)
    return DiatorEmitter(handlers, DiatorContainer())


@dataclass(frozen=True, slots=True)
class Add(Command[int]):
    number: int


class KeruxAdd(KeruxRequest[int]):
    pass


class MediatrAdd:
    pass


def commands() -> dict[str, Run]:
    """Return the buses that call the one function for a command."""

    def add(command: object) -> int:
        return 1

    bus, kerux = CommandBus(), KeruxSyncMediator()
    bus.register(add, Add)
    kerux.register(KeruxAdd, add)
    MediatrMediator.register_handler(add_for_mediatr)
    return {
        "dictionary of functions": timed(
            "handlers[type(command)](command)", handlers={Add: add}, command=Add(1)
        ),
        "**melange**, `CommandBus`": timed("bus.send(command)", bus=bus, command=Add(1)),
        "kerux": timed("mediator.send(command)", mediator=kerux, command=KeruxAdd()),
        "mediatr": timed("mediator.send(command)", mediator=MediatrMediator(), command=MediatrAdd()),
    }


def add_for_mediatr(command: MediatrAdd) -> int:
    return 1


def measured(contenders: Mapping[str, Run]) -> dict[str, float]:
    """Return nanoseconds per call."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            best[name] = min(best[name], run(PER_ROUND) / PER_ROUND * 1e9)
    return best


def print_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print nanoseconds and, in brackets, how many times the first row they are."""
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name in next(iter(columns.values())):
        cells = [
            f"{column[name]:,.0f} ({column[name] / next(iter(column.values())):.1f})"
            for column in columns.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    print(f"Python {platform.python_version()}, nanoseconds, in brackets times the first row")
    print_table("`publish`", {f"subscribers: {n}": measured(publishing(n)) for n in (1, 10)})
    print_table("`publish_async`", {f"subscribers: {n}": measured(awaiting(n)) for n in (1, 10)})
    print_table("`send`", {"one handler": measured(commands())})


if __name__ == "__main__":
    main()
