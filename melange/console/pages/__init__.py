"""The addresses of the console, each with its handler. Braces stand for the ARN of a topic or queue, or a message's key."""

from __future__ import annotations

from melange.console.pages import overview, queues
from melange.console.visits import Handler

ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "", overview.show),
    ("GET", "queues/{}", queues.show),
    ("GET", "queues/{}/purge", queues.ask_purge),
    ("POST", "queues/{}/purge", queues.purge),
]
