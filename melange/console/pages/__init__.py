"""The addresses of the console, each with its handler. Braces stand for the ARN of a topic or queue, or a message's key."""

from __future__ import annotations

from melange.console.pages import controls, dead_letters, log, messages, overview, queues, sending, topics
from melange.console.visits import Handler

ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "", overview.show),
    ("GET", "topics/{}", topics.show),
    ("GET", "topics/{}/publish", sending.show_publish),
    ("POST", "topics/{}/publish", sending.publish),
    ("GET", "topics/{}/delete", topics.ask_delete),
    ("POST", "topics/{}/delete", topics.delete),
    ("GET", "queues/{}", queues.show),
    ("GET", "queues/{}/send", sending.show_send),
    ("POST", "queues/{}/send", sending.send),
    ("GET", "queues/{}/purge", queues.ask_purge),
    ("POST", "queues/{}/purge", queues.purge),
    ("GET", "queues/{}/delete", queues.ask_delete),
    ("POST", "queues/{}/delete", queues.delete),
    ("POST", "queues/{}/look", queues.look),
    ("POST", "queues/{}/retry", dead_letters.retry),
    ("POST", "queues/{}/selected", messages.change_selected),
    ("GET", "queues/{}/messages/{}", messages.show),
    ("POST", "queues/{}/messages/{}/release", messages.release),
    ("GET", "dead-letters", dead_letters.show),
    ("GET", "log", log.search),
    ("GET", "log/{}", log.show),
    ("GET", "faults", controls.show),
    ("POST", "faults", controls.add_fault),
    ("POST", "faults/{}/remove", controls.remove_fault),
    ("POST", "disorder", controls.set_disorder),
    ("POST", "clock", controls.advance),
    ("POST", "snapshots", controls.take_snapshot),
    ("GET", "snapshots/{}/restore", controls.ask_restore),
    ("POST", "snapshots/{}/restore", controls.restore_snapshot),
    ("POST", "snapshots/{}/remove", controls.remove_snapshot),
    ("GET", "reset", controls.ask_reset),
    ("POST", "reset", controls.reset),
]
