"""Attempts are runs: outages of the store, busy claims, deployments and slow neighbours use none."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from functools import partial

from chaos.checker import check
from chaos.inside.load import busy_machine
from chaos.inside.simulation import (
    ALWAYS,
    BATCH,
    FIFO,
    LONGEST_OUTAGE_SECONDS,
    LONGEST_RUN,
    STANDARD,
    Planned,
    Simulation,
)
from chaos.rows.result import RowResult
from chaos.scene import Services

WORKERS = 2
SLOW, FAILING, POISON = 0.02, 0.25, 0.01
"""The shares of messages that outlast the visibility timeout, that fail some runs, and that fail all."""


def attempts(
    services: Services,
    seed: int,
    *,
    minutes: int,
    messages: int,
    speed: float,
    visibility_timeout_seconds: int,
    busy_processes: int,
    sabotage: str = "",
) -> RowResult:
    """Work off ``messages`` on each of three queues during simulated minutes, with an outage or deployment in each."""
    simulation = Simulation(
        seed, speed=speed, visibility_timeout_seconds=visibility_timeout_seconds, sabotage=sabotage
    )
    with busy_machine(busy_processes):
        simulation.start(WORKERS)
        for at, happen in _in_order(_events(simulation, minutes, messages, visibility_timeout_seconds)):
            services.tell(f"attempts: minute {at / 60:.0f} of {minutes}")
            simulation.clock.sleep(at - simulation.clock.monotonic())
            happen()
        simulation.finish()
    evidence = simulation.evidence()
    wrong = []
    if simulation.left_behind:
        wrong.append(f"{simulation.left_behind} stops left something behind")
    return RowResult(
        load=f"{minutes} simulated minutes, {len(evidence.expected):,} messages, {minutes} outages of the store, "
        f"{minutes} deployments of {WORKERS} workers, {busy_processes} busy processes",
        findings=check(evidence),
        measured={
            "busy claims": simulation.store.busy_claims,
            "most receives of a healthy message": simulation.most_receives,
            "dead letters, as planned": len(evidence.dead_letters),
            "leases lost": simulation.leases_lost,
        },
        wrong=wrong,
    )


def _events(
    simulation: Simulation, minutes: int, messages: int, visibility_timeout_seconds: int
) -> Iterator[tuple[float, Callable[[], None]]]:
    chance = simulation.random
    for planned in _plan(simulation, messages, visibility_timeout_seconds):
        # The first of a group comes first: the order of publishing is the order of the group.
        at = 60 * minutes * (planned.number / messages if planned.group else chance.random())
        yield at, partial(simulation.publish, planned)
    for minute in range(minutes):
        yield (
            60 * (minute + chance.uniform(0, 0.5)),
            partial(simulation.outage, chance.uniform(2, LONGEST_OUTAGE_SECONDS)),
        )
        yield 60 * (minute + chance.random()), partial(simulation.deploy, minute % WORKERS)


def _plan(simulation: Simulation, messages: int, visibility_timeout_seconds: int) -> Iterator[Planned]:
    chance = simulation.random

    def failures() -> int:
        luck = chance.random()
        return ALWAYS if luck < POISON else chance.randint(1, 3) if luck < POISON + FAILING else 0

    for _ in range(messages):
        is_slow = chance.random() < SLOW
        seconds = (
            visibility_timeout_seconds * chance.uniform(1, LONGEST_RUN) if is_slow else chance.uniform(0, 2)
        )
        yield Planned(STANDARD, seconds, failures())
    groups = max(2, messages // 100)
    for number in range(messages):
        yield Planned(FIFO, chance.uniform(0, 2), failures(), f"group-{number % groups}", number)
    # Ten of these in one batch take four visibility timeouts.
    for _ in range(messages // 20):
        yield Planned(BATCH, 0.4 * visibility_timeout_seconds, failures())


def _in_order(
    events: Iterator[tuple[float, Callable[[], None]]],
) -> Iterator[tuple[float, Callable[[], None]]]:
    numbers = itertools.count()
    queue = [(at, next(numbers), happen) for at, happen in events]
    heapq.heapify(queue)
    while queue:
        at, _, happen = heapq.heappop(queue)
        yield at, happen
