"""Answering a request."""

from __future__ import annotations

from melange.drivers.base import MessagingDriver
from melange.drivers.sqs_rules import check_queue_name
from melange.errors import ConfigurationError, QueueNotFoundError
from melange.messages import message_being_handled
from melange.publishing import Event, QueueMessagePublisher

REPLY_QUEUE_PREFIX = "melange-reply-"
"""Replies are sent to queues of such names only: a request may come from a stranger."""
REPLY_TO_HEADER = "reply-to"
"""The name of the queue that receives the reply to a request."""
IN_REPLY_TO_HEADER = "in-reply-to"
"""The message id of the request that is answered."""


def reply(event: Event, driver: MessagingDriver | None = None) -> bool:
    """Answer the request that the current listener works on; return False if the asker does not wait any more.

    Blocks for one call. If the listener runs again, it answers again: the asker takes the first reply. The driver is the
    one given, or else the one in use.

    Raises:
        ConfigurationError: no message is being handled, or it is not a request.
        EncodeError, InvalidMessageError, DriverError: as ``QueueMessagePublisher.send``.
    """
    request = message_being_handled()
    queue_name = "" if request is None else request.headers.get(REPLY_TO_HEADER, "")
    if request is None or not queue_name:
        raise ConfigurationError(
            "no request is being handled: call it in a listener, for a message that Requester.ask has sent"
        )
    if not queue_name.startswith(REPLY_QUEUE_PREFIX):
        raise ConfigurationError(
            f"the request names {queue_name!r:.140} for its reply, and replies go to queues named {REPLY_QUEUE_PREFIX}... "
            "only"
        )
    check_queue_name(queue_name)
    try:
        QueueMessagePublisher(queue_name, driver).send(
            event, headers={IN_REPLY_TO_HEADER: request.message_id}
        )
    except QueueNotFoundError:
        return False
    return True
