"""The rows of the table: who does what, how often, and beside whom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.aws.processes import Contestant, environment_of, running_stub, start_up
from benchmarks.measuring import Cost, Progress, cpu_of, interleaved, ratio, wall_of
from benchmarks.report import Row, table_of_rows

MESSAGES = 2_000
WAITING_MESSAGES = 640
WAIT_SECONDS, AT_A_TIME = 0.02, 32

PLAIN = "boto3"
WORKER, WORKER_32 = "melange 20", "melange 32"
WAITING = ("melange 32 20ms", "melange 32 20ms asynchronous")
COROUTINES = "coroutines 32"
BOTOCORE = ("melange botocore", "melange 20 botocore")
RIVALS_PYTHONS = ("3.13", "3.12")

Costs = Mapping[str, Sequence[Cost]]


def measure(repetitions: int, python: str | None, progress: Progress) -> str:
    """Return the tables. ``python`` runs all contestants in an environment of that version."""
    with running_stub() as stub, ExitStack() as stack:
        interpreter = Path(sys.executable)
        if python:
            found = environment_of(python)
            if found is None:
                return f"No environment with Python {python} could be made."
            interpreter = found
        rivals = next(filter(None, map(environment_of, [python] if python else RIVALS_PYTHONS)), None)

        def start(name: str) -> Contestant:
            of_rival = name.startswith("fanferro")
            assert rivals or not of_rival
            started = Contestant(name, rivals if of_rival and rivals else interpreter, stub)
            stack.callback(started.stop)
            return started

        rival = ["fanferro"] if rivals else []
        names = [
            PLAIN,
            "melange",
            WORKER,
            WORKER_32,
            *BOTOCORE,
            *WAITING,
            COROUTINES,
            "kombu",
            *rival,
            *(["fanferro 32 20ms"] if rival else []),
        ]
        running = {name: start(name) for name in names}
        publishing = _interleaved(
            "publish",
            running,
            [PLAIN, "melange", "melange botocore", *rival],
            "publish",
            MESSAGES,
            repetitions,
            progress,
        )
        consuming = _interleaved(
            "consume",
            running,
            [PLAIN, "melange", WORKER, *BOTOCORE, "kombu", *rival],
            "consume",
            MESSAGES,
            repetitions,
            progress,
        )
        names = [*WAITING, *(["fanferro 32 20ms"] if rival else [])]
        waiting = interleaved(
            "listeners that wait",
            {
                **{name: partial(running[name].consume, WAITING_MESSAGES) for name in names},
                COROUTINES: partial(running[COROUTINES].publish, WAITING_MESSAGES),
            },
            max(repetitions // 3, 3),
            progress,
        )
        running[WORKER_32].consume(MESSAGES)
        idle = {name: start(name) for name in ("melange", WORKER_32, PLAIN, *rival)}
        for contestant in idle.values():
            contestant.begin()
        memory = [
            (title, idle[name].resident_bytes(), running[name].resident_bytes())
            for name, title in (
                ("melange", "`consume_event`"),
                (WORKER_32, "`Worker`, 32 at a time"),
                (PLAIN, "plain boto3 loop"),
                *[(name, "fanferro, 20 at a time") for name in rival],
            )
        ]
        cold = interleaved(
            "cold start",
            {
                name: partial(start_up, name, rivals if name == "fanferro" and rivals else interpreter, stub)
                for name in (PLAIN, "melange", *rival)
            },
            min(repetitions, 9),
            progress,
        )
        words = [] if rivals else ["", "fanferro is left out: no environment with it could be made."]
    rows = [*_rows(publishing, consuming, has_rival=bool(rivals)), *_waiting_rows(waiting), *_cold_rows(cold)]
    table = [
        table_of_rows(rows),
        "",
        "| memory, MB | before the first message | after the work |",
        "|---|---:|---:|",
    ]
    table += [f"| {what} | {idle / 1e6:.1f} | {used / 1e6:.1f} |" for what, idle, used in memory]
    version = [f"All contestants on Python {python}.", ""] if python else []
    return "\n".join(version + table + words)


def _interleaved(
    title: str,
    running: Mapping[str, Contestant],
    names: Sequence[str],
    method: str,
    count: int,
    repetitions: int,
    progress: Progress,
) -> Costs:
    def run_of(name: str) -> Callable[[], Cost]:
        return partial(getattr(running[name], method), count)

    return interleaved(title, {name: run_of(name) for name in names}, repetitions, progress)


def _rows(publishing: Costs, consuming: Costs, *, has_rival: bool) -> list[Row]:
    plain = "plain boto3 loop"
    rows = [
        _row("publish in batches", publishing, "melange", PLAIN, plain, "at most 0.33"),
        _row('publish, `transport="botocore"`', publishing, "melange botocore", PLAIN, plain, ""),
        _row("`consume_event`", consuming, "melange", PLAIN, plain, "at most 0.20"),
        _row('`consume_event`, `transport="botocore"`', consuming, BOTOCORE[0], PLAIN, plain, ""),
        _row("`Worker`, 20 at a time", consuming, WORKER, PLAIN, plain, "at most 0.29"),
        _row('`Worker`, 20 at a time, `transport="botocore"`', consuming, BOTOCORE[1], PLAIN, plain, ""),
    ]
    rows.append(_row("`Worker`, 20 at a time", consuming, WORKER, "kombu", "kombu over SQS", ""))
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
        rows.append(Row(names[name], ours, "20 ms / 32", ideal, ratio(ours, ideal), aim))
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
                    ratio(ours, theirs),
                    "",
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
    aim: str,
    of: Callable[[Sequence[Cost]], list[float]] = cpu_of,
) -> Row:
    our, their = of(costs[ours]), of(costs[theirs])
    return Row(work, our, rival, their, ratio(our, their), aim)
