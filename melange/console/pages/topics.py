"""A topic and its subscriptions."""

from __future__ import annotations

import json

from melange.console.backend import NotFoundError
from melange.console.charts import chart_of
from melange.console.model import Overview, Topic
from melange.console.reading import indented
from melange.console.visits import Page, Redirect, Visit, confirmation


def show(visit: Visit) -> Page:
    overview, topic = find(visit)
    bindings = overview.bindings_of(topic.arn)
    samples = visit.history.of(topic.arn)
    return Page(
        "topic.html",
        {
            "overview": overview,
            "topic": topic,
            "bindings": bindings,
            "filters": {
                one.arn: indented(one.filter_policy) or one.filter_policy
                for one in bindings
                if one.filter_policy
            },
            "statements": {
                one.arn: _allowing(one.topic_arn, one.endpoint) for one in bindings if one.lacks_permission
            },
            "rate_chart": chart_of(published=[one.arriving for one in samples]),
        },
    )


def _allowing(topic_arn: str, queue_arn: str) -> str:
    """Return a queue policy that lets the topic send, as JSON text."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=2)


def ask_delete(visit: Visit) -> Page:
    _, topic = find(visit)
    return confirmation(
        f"Delete {topic.name}?",
        "This deletes the topic and its subscriptions. Queues keep their messages.",
        "Delete",
        f"topics/{topic.arn}",
    )


def delete(visit: Visit) -> Redirect:
    _, topic = find(visit)
    visit.backend.delete_topic(topic.arn)
    return Redirect("", f"{topic.name} is deleted.")


def find(visit: Visit) -> tuple[Overview, Topic]:
    """Return what the broker has, and the topic of the address."""
    overview = visit.backend.overview()
    topic = overview.topic(visit.arguments[0])
    if topic is None:
        raise NotFoundError(f"The topic {visit.arguments[0]} does not exist.")
    return overview, topic
