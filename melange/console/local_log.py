"""The event log of ``melange server`` for the console."""

from __future__ import annotations

from collections.abc import Sequence

from melange.console.backend import NotFoundError
from melange.server.broker import Broker
from melange.server.stories import Story, find_stories, find_story


class LocalLog:
    """Reads the log of a server in this process. Thread-safe."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def forgotten(self) -> int:
        return self._broker.journal.forgotten

    def find(
        self, *, message_id: str = "", event_type: str = "", text: str = "", limit: int = 100
    ) -> Sequence[Story]:
        return find_stories(
            self._broker, message_id=message_id, event_type=event_type, text=text, limit=limit
        )

    def story(self, message_id: str) -> Story:
        story = find_story(self._broker, message_id)
        if story is None:
            raise NotFoundError(
                f"The event log has nothing about message {message_id!r:.60}: it begins with the server, and forgets its "
                "oldest events."
            )
        return story
