"""A topic and its subscriptions."""

from __future__ import annotations

import json

from melange.console.charts import chart_of
from melange.console.pages import Page, Redirect, Visit, confirmation
from melange.console.reading import indented


def show(visit: Visit) -> Page:
    overview, topic = visit.find_topic()
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
    _, topic = visit.find_topic()
    return confirmation(
        f"Delete {topic.name}?",
        "This deletes the topic and its subscriptions. Queues keep their messages.",
        "Delete",
        f"topics/{topic.arn}",
    )


def delete(visit: Visit) -> Redirect:
    _, topic = visit.find_topic()
    visit.backend.delete_topic(topic.arn)
    return Redirect("", f"{topic.name} is deleted.")
