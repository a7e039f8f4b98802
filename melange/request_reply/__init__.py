"""Request and reply over queues: ask another service, and wait for its answer.

Use it rarely. The asker waits for a service that may be stopped, slow or behind a backlog: most questions are better
answered by HTTP, and most work is better done by events.
"""

from melange.request_reply.replying import reply
from melange.request_reply.requester import Requester, remove_abandoned_reply_queues

__all__ = ["Requester", "remove_abandoned_reply_queues", "reply"]
