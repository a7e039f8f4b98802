"""Many workers on one Redis, and how often each has to ask it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
    RedisDeduplicationStore,
)
from melange.drivers.memory import InMemoryDriver
from services.redis import RedisServer

PROCESSES, KEYS = 4, 200

CLAIMS_EVERYTHING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from melange import RedisDeduplicationStore
from melange.deduplication import Claimed, DeduplicationKey
from melange.messages import new_uuid

url, namespace, keys = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = RedisDeduplicationStore(url, namespace=namespace)
store.check()
print("ready", flush=True)
sys.stdin.readline()

def claim(number):
    return store.claim(DeduplicationKey("orders", "listener", str(number), ("content",)), new_uuid(), 60)

with ThreadPoolExecutor(8) as threads:
    for number, answer in zip(range(keys), threads.map(claim, range(keys))):
        if isinstance(answer, Claimed):
            print(number)
"""


def test_of_many_processes_and_threads_that_claim_one_succeeds_for_each_key(
    redis_url: str, namespace: str
) -> None:
    command = [sys.executable, "-c", CLAIMS_EVERYTHING, redis_url, namespace, str(KEYS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]

    for process in processes:
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(PROCESSES) as pool:  # starts all of them at once
        outputs = list(pool.map(lambda process: process.communicate("go\n", timeout=60)[0], processes))

    claimed = sorted(int(line) for output in outputs for line in output.split())
    assert claimed == list(range(KEYS))


def test_each_listener_costs_two_round_trips_for_each_message(redis_server: RedisServer) -> None:
    driver = InMemoryDriver()
    store = RedisDeduplicationStore(redis_server.url)
    consumer = ExchangeMessageConsumer(
        "orders", "shop", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=0)
    )
    for name in ("stock", "invoices"):
        consumer.listener(name=name)(lambda event: None)
    publisher = ExchangeMessagePublisher("shop", driver)
    publisher.publish({"event_type_name": "warm-up"})  # makes the scripts known
    consumer.consume_event()

    with redis_server.client() as client, redis_server.client() as watching, watching.monitor() as monitor:
        client.echo("the beginning")
        for number in range(5):
            publisher.publish({"event_type_name": "OrderPlaced", "number": number})
        while consumer.consume_event():
            pass
        client.echo("the end")
        commands = list(between("the beginning", "the end", sent(monitor)))

    assert [command.split()[0] for command in commands] == ["EVALSHA"] * 5 * 2 * 2


def between(first, last, commands):
    """Yield the commands after that which says ``first`` and before that which says ``last``."""
    after = itertools.dropwhile(lambda command: first not in command, commands)
    next(after)
    return itertools.takewhile(lambda command: last not in command, after)


def sent(monitor):
    """Yield what clients send, without the commands that scripts give."""
    while True:
        command = monitor.next_command()
        if command["client_type"] != "lua":
            yield command["command"]
