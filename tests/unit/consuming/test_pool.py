"""The threads of a worker."""

import threading
import time

import pytest

from melange.consuming.pool import Pool

DEADLINE_SECONDS = 30


@pytest.fixture
def pool():
    pool = Pool(4, "test")
    yield pool
    pool.close()
    assert pool.join(time.monotonic() + DEADLINE_SECONDS)


def run_one_and_leave_its_thread_idle(pool):
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(DEADLINE_SECONDS)
    while not pool._idle:
        threading.Event().wait(0.001)


def test_tasks_that_come_together_run_beside_each_other_though_a_thread_is_idle(pool):
    run_one_and_leave_its_thread_idle(pool)
    all_at_work = threading.Barrier(4)

    for _ in range(3):
        pool.submit(lambda: all_at_work.wait(DEADLINE_SECONDS))

    all_at_work.wait(DEADLINE_SECONDS)  # breaks unless the three run at once


def test_a_task_that_is_due_runs_though_the_idle_thread_waited_for_it_and_got_another(pool):
    run_one_and_leave_its_thread_idle(pool)
    gate, later = threading.Event(), threading.Event()

    pool.submit(later.set, delay_seconds=0.05)
    pool.submit(lambda: gate.wait(DEADLINE_SECONDS))

    assert later.wait(DEADLINE_SECONDS / 2)
    gate.set()


def test_a_task_due_in_centuries_stops_no_thread(pool):
    pool.submit(lambda: None, delay_seconds=1e12)
    done = threading.Event()

    pool.submit(done.set)

    assert done.wait(DEADLINE_SECONDS)
    assert all(thread.is_alive() for thread in pool._threads)


def test_a_task_that_raises_costs_no_thread(pool, caplog):
    single = Pool(1, "single")
    done = threading.Event()

    single.submit(lambda: 1 / 0)
    single.submit(done.set)

    assert done.wait(DEADLINE_SECONDS)
    assert "a task of the worker failed" in caplog.text
    single.close()


def test_it_goes_on_with_the_threads_it_has_when_the_system_has_no_more(pool, monkeypatch, caplog):
    run_one_and_leave_its_thread_idle(pool)
    gate, done = threading.Event(), threading.Event()

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert pool.submit(lambda: gate.wait(DEADLINE_SECONDS))
    assert pool.submit(done.set)
    gate.set()

    assert done.wait(DEADLINE_SECONDS)
    assert "goes on with 1 threads" in caplog.text


def test_without_any_thread_a_task_is_refused(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = Pool(4, "test")

    assert not pool.submit(print)
    assert pool.close() == []
    assert pool.join(time.monotonic())


def test_what_has_not_begun_is_handed_back_in_order():
    pool = Pool(1, "test")
    tasks = [lambda number=number: number for number in range(3)]
    for task in tasks:
        pool.submit(task, delay_seconds=100)

    assert pool.close() == tasks
    assert not pool.submit(tasks[0])
