"""The rows of the table: who does what, how often, and beside whom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.aws.processes import Contestant, Stub, environment_of, running_stub, start_up
from benchmarks.child import resident_bytes
from benchmarks.measuring import Cost, Progress, Row, cpu_of, interleaved, table_of_rows, wall_of

MESSAGES = 2_000
WAITING_MESSAGES = 640
WAIT_SECONDS, AT_A_TIME = 0.02, 32
DISTANT_MESSAGES = 1_000
NETWORK_SECONDS = 0.01

PLAIN = "boto3"
WORKER, WORKER_32 = "melange 20", "melange 32"
WAITING = ("melange 32 20ms", "melange 32 20ms asynchronous")
COROUTINES = "coroutines 32"
BOTOCORE = ("melange botocore", "melange 20 botocore")
RIVALS_PYTHONS = ("3.13", "3.12")

Costs = Mapping[str, Sequence[Cost]]


def measure(repetitions: int, python: str | None, progress: Progress) -> str:
    """Return the tables. ``python`` runs all contestants in an environment of that version."""
    interpreter = environment_of(python) if python else Path(sys.executable)
    if interpreter is None:
        return f"No environment with Python {python} could be made."
    rivals = next(filter(None, map(environment_of, [python] if python else RIVALS_PYTHONS)), None)
    with running_stub() as stub, ExitStack() as stack:
        contestants = _Contestants(interpreter, rivals, stub, stack, repetitions, progress)
        rows = [
            *_rows(contestants.publishing(), contestants.consuming(), has_rival=rivals is not None),
            *_distant_rows("publish in batches", "melange", contestants.distant_publishing()),
            *_distant_rows("`Worker`, 20 at a time", WORKER, contestants.distant_consuming()),
            *_waiting_rows(contestants.waiting()),
        ]
        memory = contestants.memory()
        rows += _cold_rows(contestants.cold_starts())
    version = [f"All contestants on Python {python}.", ""] if python else []
    words = [] if rivals else ["", "fanferro is left out: no environment with it could be made."]
    return "\n".join([*version, table_of_rows(rows), "", *memory, *words])


class _Contestants:
    """The contestants, each in a process of its own until the end of the stack. fanferro needs an interpreter of its own."""

    def __init__(
        self,
        interpreter: Path,
        rivals: Path | None,
        stub: Stub,
        stack: ExitStack,
        repetitions: int,
        progress: Progress,
    ) -> None:
        self._interpreters = {"fanferro": rivals} if rivals else {}
        self._rival = list(self._interpreters)
        self._waiting_rival = [f"{name} 32 20ms" for name in self._rival]
        self._interpreter = interpreter
        self._stub = stub
        self._stack = stack
        self._repetitions = repetitions
        self._progress = progress
        names = [PLAIN, "melange", WORKER, WORKER_32, *BOTOCORE, *WAITING, COROUTINES, "kombu"]
        self._running = {name: self._start(name) for name in (*names, *self._rival, *self._waiting_rival)}

    def publishing(self) -> Costs:
        names = [PLAIN, "melange", "melange botocore", *self._rival]
        contenders = {name: partial(self._running[name].publish, MESSAGES) for name in names}
        return interleaved("publish", contenders, self._repetitions, self._progress)

    def consuming(self) -> Costs:
        names = [PLAIN, "melange", WORKER, *BOTOCORE, "kombu", *self._rival]
        contenders = {name: partial(self._running[name].consume, MESSAGES) for name in names}
        return interleaved("consume", contenders, self._repetitions, self._progress)

    def distant_publishing(self) -> Costs:
        return self._distant("publish over a network", "melange", lambda one: one.publish_from_afar)

    def distant_consuming(self) -> Costs:
        return self._distant("consume over a network", WORKER, lambda one: one.consume_from_afar)

    def _distant(
        self, title: str, ours: str, work: Callable[[Contestant], Callable[[int, float], Cost]]
    ) -> Costs:
        contenders = {
            name: partial(work(self._running[name]), DISTANT_MESSAGES, NETWORK_SECONDS)
            for name in (ours, PLAIN, *self._rival)
        }
        return interleaved(title, contenders, max(self._repetitions // 3, 3), self._progress)

    def waiting(self) -> Costs:
        names = [*WAITING, *self._waiting_rival]
        contenders = {name: partial(self._running[name].consume, WAITING_MESSAGES) for name in names}
        contenders[COROUTINES] = partial(self._running[COROUTINES].publish, WAITING_MESSAGES)
        repetitions = max(self._repetitions // 3, 3)
        return interleaved("listeners that wait", contenders, repetitions, self._progress)

    def memory(self) -> list[str]:
        """Return the lines of the table of memory: of new processes that poll, and of those that have worked."""
        titles = {
            "melange": "`consume_event`",
            WORKER_32: "`Worker`, 32 at a time",
            PLAIN: "plain boto3 loop",
            **dict.fromkeys(self._rival, "fanferro, 20 at a time"),
        }
        self._running[WORKER_32].consume(MESSAGES)
        idle = {name: self._start(name) for name in titles}
        for contestant in idle.values():
            contestant.begin()
        lines = ["| memory, MB | before the first message | after the work |", "|---|---:|---:|"]
        for name, title in titles.items():
            before, after = (resident_bytes(of[name].process.pid) / 1e6 for of in (idle, self._running))
            lines.append(f"| {title} | {before:.1f} | {after:.1f} |")
        return lines

    def cold_starts(self) -> Costs:
        contenders = {
            name: partial(start_up, name, self._interpreter_of(name), self._stub)
            for name in (PLAIN, "melange", *self._rival)
        }
        return interleaved("cold start", contenders, min(self._repetitions, 9), self._progress)

    def _start(self, name: str) -> Contestant:
        started = Contestant(name, self._interpreter_of(name), self._stub)
        self._stack.callback(started.stop)
        return started

    def _interpreter_of(self, name: str) -> Path:
        return self._interpreters.get(name.split(maxsplit=1)[0], self._interpreter)


def _rows(publishing: Costs, consuming: Costs, *, has_rival: bool) -> list[Row]:
    plain = "plain boto3 loop"
    rows = [
        _row("publish in batches", publishing, "melange", PLAIN, plain, "at most 0.33"),
        _row('publish, `transport="botocore"`', publishing, "melange botocore", PLAIN, plain),
        _row("`consume_event`", consuming, "melange", PLAIN, plain, "at most 0.20"),
        _row('`consume_event`, `transport="botocore"`', consuming, BOTOCORE[0], PLAIN, plain),
        _row("`Worker`, 20 at a time", consuming, WORKER, PLAIN, plain, "at most 0.29"),
        _row('`Worker`, 20 at a time, `transport="botocore"`', consuming, BOTOCORE[1], PLAIN, plain),
    ]
    rows.append(_row("`Worker`, 20 at a time", consuming, WORKER, "kombu", "kombu over SQS"))
    if has_rival:
        rows += [
            _row("publish in batches", publishing, "melange", "fanferro", "fanferro", "at most 1"),
            _row("`Worker`, 20 at a time", consuming, WORKER, "fanferro", "fanferro", "at most 1"),
            _row(
                "`Worker`, 20 at a time, wall time",
                consuming,
                WORKER,
                "fanferro",
                "fanferro",
                "at most 1",
                wall_of,
            ),
        ]
    return rows


def _distant_rows(work: str, ours: str, distant: Costs) -> list[Row]:
    work = f"{work}, each call takes 10 ms, wall time"
    rows = [_row(work, distant, ours, PLAIN, "plain boto3 loop", of=wall_of)]
    if "fanferro" in distant:
        rows.append(_row(work, distant, ours, "fanferro", "fanferro", "at most 1", wall_of))
    return rows


def _waiting_rows(waiting: Costs) -> list[Row]:
    names = {
        WAITING[0]: "`Worker`, 32 at a time, plain listener waits 20 ms",
        WAITING[1]: "`Worker`, 32 at a time, asynchronous listener waits 20 ms",
        "fanferro 32 20ms": "fanferro, 32 at a time, listener waits 20 ms",
        COROUTINES: "32 coroutines that wait 20 ms, nothing else",
    }
    rows = []
    for name, costs in waiting.items():
        ideal = [WAIT_SECONDS / AT_A_TIME] * len(costs)
        ours = wall_of(costs)
        aim = "" if name == COROUTINES else "at most 1.05"
        rows.append(Row(names[name], ours, "20 ms / 32", ideal, aim))
    return rows


def _cold_rows(cold: Costs) -> list[Row]:
    rows = []
    for rival in [name for name in cold if name != "melange"]:
        for kind, of in (("CPU time", cpu_of), ("wall time", wall_of)):
            ours, theirs = of(cold["melange"]), of(cold[rival])
            rows.append(
                Row(
                    f"import, build, publish ten: {kind}",
                    ours,
                    rival,
                    theirs,
                    unit="ms",
                )
            )
    return rows


def _row(
    work: str,
    costs: Costs,
    ours: str,
    theirs: str,
    rival: str,
    aim: str = "",
    of: Callable[[Sequence[Cost]], list[float]] = cpu_of,
) -> Row:
    our, their = of(costs[ours]), of(costs[theirs])
    return Row(work, our, rival, their, aim)
