"""Where the time goes: by layer, and the functions that take most.

cProfile makes calls dearer than they are, so the shares of layers with many small functions come out too
large: they say where to look, the ratios say what it costs.
"""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import events, sns_sqs
from benchmarks.in_memory import publisher_and_consumer
from benchmarks.outlets import outbox, sqlite
from melange.drivers.memory import InMemoryDriver

MESSAGES = 20_000
MESSAGES_OVER_HTTP = 2_000
ROUNDS_OF_OUTBOX = 5
FUNCTIONS = 15
MODULES = 12

# The first that occurs in a function's path is its layer.
LAYERS = {
    "melange/publishing": "publishing",
    "melange/serialization": "events to JSON and back",
    "melange/drivers/sqs_rules": "checks of limits",
    "melange/drivers/memory": "in-memory driver",
    "melange/engine": "in-memory driver",
    "melange/drivers": "aws driver",
    "melange/consuming": "consuming",
    "melange/deduplication": "deduplication",
    "melange/outbox": "outbox and relay",
    "sqlalchemy/orm": "SQLAlchemy: unit of work",
    "sqlalchemy/": "SQLAlchemy: statements, and SQLite",
    "melange/": "the rest of melange",
    "botocore/signers": "botocore: signing",
    "botocore/auth": "botocore: signing",
    "botocore/parsers": "botocore: reading answers",
    "botocore/serialize": "botocore: writing requests",
    "botocore/": "botocore: the rest",
    "boto3/": "botocore: the rest",
    "urllib3/": "HTTP",
    "http/": "HTTP",
    "email/": "HTTP",
    "socket": "HTTP",
    "json/": "events to JSON and back",
    "benchmarks/": "the benchmark",
}

Function = tuple[str, int, str]


def print_in_memory() -> None:
    """Profile publishing and consuming on the in-memory driver."""
    publish, consume = publisher_and_consumer(InMemoryDriver())

    def run() -> None:
        for _ in range(MESSAGES):
            publish(events.ORDER)
        consume(MESSAGES)

    _print("publish + consume in memory", run)


def print_sns_sqs(endpoint_url: str) -> None:
    """Profile publishing and consuming over SNS+SQS."""
    loop = sns_sqs.melange_loop(sns_sqs.session(), endpoint_url)
    loop.measure_both()  # opens connections, loads models

    def run() -> None:
        loop.publish(MESSAGES_OVER_HTTP)
        loop.consume(MESSAGES_OVER_HTTP)

    _print("publish + consume over SNS+SQS", run)


def print_outbox() -> None:
    """Profile writing into an outbox on SQLite and relaying it to the in-memory driver."""
    with sqlite(journal="WAL") as engine:
        outlet = outbox(engine)
        outlet.measure_both()  # compiles the statements

        def run() -> None:
            for _ in range(ROUNDS_OF_OUTBOX):
                outlet.write()
                outlet.relay()

        _print("write, relay and mark, 10 in a transaction", run)


def print_import() -> None:
    """Print the modules whose own code takes longest when melange is imported."""
    command = [sys.executable, "-I", "-X", "importtime", "-c", "import melange"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    timings = [line.removeprefix("import time:").split("|") for line in answer.stderr.splitlines()[1:]]
    slowest = sorted(timings, key=lambda timing: -int(timing[0]))[:MODULES]
    print("What `import melange` loads, each module without those that it imports:\n")
    print("| module | µs |\n|---|---:|")
    for own_microseconds, _, name in slowest:
        print(f"| `{name.strip()}` | {int(own_microseconds):,} |")


def _print(title: str, run: Callable[[], None]) -> None:
    profile = cProfile.Profile(time.process_time)
    profile.runcall(run)
    stats: Mapping[Function, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own = {function: entry[2] for function, entry in stats.items()}
    total = sum(own.values())
    print(f"Where the CPU time of *{title}* goes, under cProfile:\n")
    print("| layer | share |\n|---|---:|")
    for layer, seconds in sorted(_by_layer(stats).items(), key=lambda item: -item[1]):
        print(f"| {layer} | {seconds / total:.0%} |")
    print("\n| function | its own share |\n|---|---:|")
    for function in sorted(own, key=lambda function: -own[function])[:FUNCTIONS]:
        print(f"| `{_name(function)}` | {own[function] / total:.0%} |")
    print()


def _by_layer(stats: Mapping[Function, Any]) -> dict[str, float]:
    """Add up own times; what is written in C counts for the layer that calls it."""
    layers: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in stats.items():
        layer = _layer(function)
        if layer is not None:
            layers[layer] += own
            continue
        for caller, (_, _, own_for_caller, _) in callers.items():
            layers[_layer(caller) or "Python's standard library"] += own_for_caller
    return layers


def _layer(function: Function) -> str | None:
    path = Path(function[0]).as_posix()
    return next((layer for part, layer in LAYERS.items() if f"/{part}" in path), None)


def _name(function: Function) -> str:
    path, _, name = function
    return name if path == "~" else f"{Path(path).stem}.{name}"
