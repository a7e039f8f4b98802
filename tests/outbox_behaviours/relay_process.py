"""A relay in a process of its own, to be signalled and killed: it prints the name of each event that it publishes.

python relay_process.py URL [batch size]
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from sqlalchemy import create_engine

from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.messages import Message, Topic
from melange.outbox import OutboxRelay


class PrintingDriver(InMemoryDriver):
    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        failures = super().publish(topic, messages)
        for message in messages:
            sys.stdout.write(json.loads(message.body)["name"] + "\n")
        sys.stdout.flush()
        return failures


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    url, batch_size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    relay = OutboxRelay(create_engine(url), PrintingDriver(), poll_seconds=0.02, batch_size=batch_size)
    sys.exit(relay.run())
