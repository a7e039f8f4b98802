"""A local SNS and SQS, over HTTP, for any SDK.

How the parts fit, from the outside in:

- ``socket_listener`` accepts connections, a thread for each; ``http`` reads requests and writes answers.
- ``gateway`` finds the operation of a request, checks that it may be sent, and has the answer written.
- ``protocols`` turns requests into parameters and results into answers, by botocore's models of the services.
- ``authentication`` keeps out the pages of other sites and verifies signatures; ``policies`` decides what SNS may send
  to a queue.
- ``operation_table`` lists the operations, which are in ``sqs`` and ``sns``: functions from a ``Call`` to its result.
- ``broker`` is the state: one ``Broker`` with its lock, its clock, its topics, queues, subscriptions and move tasks.
  Queues keep their messages in ``melange.engine``.
- ``state`` is all of that as plain values: ``storage`` keeps them in a file, ``snapshots`` under names.
- ``event_log`` holds what happened to messages; ``stories`` reads it and finds what belongs together.
- ``faults`` disturb calls on request; ``control`` is the HTTP interface to them, to the clock and to the state.

``Server`` puts them together. Code that shows or changes the state takes ``broker.lock``; a queue's messages are
``queue.stored.copies``, each with its number of receives, its times and its ``SentMessage``.
"""

from melange.server.broker import Broker
from melange.server.server import Server
from melange.server.stories import Event, Story, find_stories, find_story

__all__ = ["Broker", "Event", "Server", "Story", "find_stories", "find_story"]
