"""Dashboard, alert rules and page name metrics and labels that melange really reports, through the exporter of Prometheus."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import promql_parser
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from documentation.pages import DOCS
from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    InvalidMessageError,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Outbox, OutboxMessage
from melange.telemetry import Metrics, gauges, metrics

DASHBOARD = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text())
ALERTS = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())
PAGE = (DOCS / "telemetry.md").read_text()

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
FROM_PROMETHEUS = {"job", "instance"}
EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture(scope="module")
def reported() -> Iterator[dict[str, set[str]]]:
    """What Prometheus reads from a program in which everything happens once: the labels of each name."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    OutboxMessage.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        Outbox(session).publish("orders", EVENT)
    with InMemoryDriver() as driver:
        measuring = Metrics(provider)
        measuring.observe_outbox(engine)
        driver.middleware = [measuring]
        publisher = ExchangeMessagePublisher("products", driver)
        finished, failed = threading.Event(), threading.Event()
        consumer = ExchangeMessageConsumer(
            "stock",
            "products",
            driver=driver,
            queue=QueueOptions(wait_seconds=1),
            retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0),
        )

        @consumer.listener("ProductAdded", name="shelve")
        def shelve(event):
            finished.set()

        @consumer.listener("ProductLost", name="search")
        def search(event, attempt):
            if attempt == 2:
                failed.set()
            raise ValueError

        worker = Worker(consumer, grace_seconds=10)
        worker.start()
        publisher.publish(EVENT)
        publisher.publish({"event_type_name": "ProductLost"})
        with pytest.raises(InvalidMessageError):
            publisher.publish(EVENT, message_id="")
        assert finished.wait(30)
        assert failed.wait(30)
        names = _read_until(lambda names: "melange_dead_letters_total" in names)
        assert worker.stop(30)
    yield names
    provider.shutdown()
    engine.dispose()


def _read_until(is_enough) -> dict[str, set[str]]:
    deadline = threading.Event()
    for _ in range(300):
        names: dict[str, set[str]] = {}
        for family in REGISTRY.collect():
            for sample in family.samples:
                names.setdefault(sample.name, set()).update(sample.labels)
        if is_enough(names):
            return names
        deadline.wait(0.1)
    raise AssertionError(f"not reported within 30 s: {sorted(names)}")


def selectors_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Return each metric of an expression with the labels that it selects by."""
    plain = expression.replace("$__rate_interval", "5m").replace("$queue", ".*")

    def visit(node) -> Iterator[promql_parser.VectorSelector]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            child = getattr(node, name, None)
            if child is not None and not isinstance(child, str):
                yield from visit(child)
        for argument in getattr(node, "args", None) or ():
            yield from visit(argument)

    for selector in visit(promql_parser.parse(plain)):
        yield selector.name, {matcher.name for matcher in selector.matchers.matchers}


def grouped_by(expression: str) -> set[str]:
    return {
        label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")
    }


EXPRESSIONS = [
    *(
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ),
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_is_reported(expression, reported) -> None:
    selectors = list(selectors_in(expression))

    assert selectors
    for name, labels in selectors:
        assert name in reported, f"{name} is not among {sorted(reported)}"
        assert labels | grouped_by(expression) <= reported[name] | FROM_PROMETHEUS | {"le"}


def test_the_labels_of_texts_are_those_of_their_expressions() -> None:
    for rule in RULES:
        text = " ".join(rule["annotations"].values())

        assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped_by(rule["expr"])
    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped_by(target["expr"])


def test_the_dashboard_and_the_rules_ask_for_every_metric(reported) -> None:
    asked = {name for expression in EXPRESSIONS for name, _ in selectors_in(expression.values[0])}

    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in reported if is_ours(name)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} == families


def test_the_page_lists_every_metric_with_its_name_in_prometheus(reported) -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([a-z_]+)` \|", PAGE, re.MULTILINE)

    names = {
        value
        for module in (metrics, gauges)
        for name, value in vars(module).items()
        if name.isupper()
        and isinstance(value, str)
        and value.startswith(("messaging.", "melange."))
        and name not in ("DESTINATION_NAME", "ERROR_TYPE", "LISTENER_NAME", "OUTCOME", "OUTBOX_STATE")
    }
    assert {name for name, _ in rows} == names
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in reported if is_ours(name)}
    assert {name for _, name in rows} == families


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def is_ours(name: str) -> bool:
    return name.startswith(("messaging_", "melange_"))
