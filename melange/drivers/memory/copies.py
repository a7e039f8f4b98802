"""What a queue keeps of a message."""

from __future__ import annotations

import math

from melange.messages import Message

VISIBLE = -math.inf
"""The ``visible_at`` of a copy that stands in line."""


class Copy:
    """A queue's own copy of a message."""

    __slots__ = (
        "message",
        "number",
        "receipt_handle",
        "receive_count",
        "received_at",
        "sent_at",
        "visible_at",
    )

    def __init__(self, message: Message, number: int, sent_at: float) -> None:
        self.message = message
        self.number = number
        self.sent_at = sent_at
        self.receive_count = 0
        self.receipt_handle = ""
        self.received_at = 0.0
        self.visible_at = VISIBLE
