"""Which message this code is being run for."""

from __future__ import annotations

from contextvars import ContextVar

from melange.messages import Message

handled_message: ContextVar[Message | None] = ContextVar("melange.handled_message", default=None)
"""Set around each listener by what consumes."""


def message_being_handled() -> Message | None:
    """Return the message whose listener is calling, directly or not, in this thread or task; None outside of one."""
    return handled_message.get()
