"""The commands `melange topology ...` on programs with the in-memory driver: output, JSON and exit codes."""

import json

import pytest

SHOP = """
from melange import DriverManager, ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.topology import apply_plan, make_plan, of

driver = DriverManager.instance().use_driver(driver_name="memory")

def consumers(filter_events=None):
    ExchangeMessagePublisher("orders")
    billing = ExchangeMessageConsumer("billing", "orders", filter_events=filter_events)
    billing.listener("OrderPlaced", name="bill")(print)
    return billing

def renamed():
    return ExchangeMessageConsumer("invoices", "orders")
"""

APPLIED = SHOP + "\napply_plan(make_plan(of('shop', consumers()).topology, driver))\n"

OLD_QUEUE = (
    SHOP
    + "\ndriver.declare_queue('billing', driver.declare_topic('orders'), tags={'melange-topology': 'shop'})\n"
)


OLD_QUEUE_WITH_DEAD_LETTERS = (
    SHOP
    + """
from melange.messages import Message

marked = {"melange-topology": "shop"}
dead_letters = driver.declare_queue("billing-dlq", tags=marked)
driver.declare_queue("billing", dead_letter_queue=dead_letters, max_receive_count=100, tags=marked)
driver.send(dead_letters, [Message("dead", "{}")])
"""
)


@pytest.fixture(autouse=True)
def shop(write):
    write("full.py", OLD_QUEUE_WITH_DEAD_LETTERS)
    write("shop.py", SHOP)
    write("old.py", OLD_QUEUE)
    write("applied.py", APPLIED)


def test_a_plan_with_drift_ends_with_2_and_says_how_to_apply_it(run) -> None:
    result = run("topology", "plan", "shop:consumers")

    assert result.exit_code == 2
    assert "  + binding orders -> billing\n" in result.stdout
    assert result.stdout.endswith("to make it so: melange topology apply shop:consumers\n")


def test_a_plan_without_drift_ends_with_0(run) -> None:
    result = run("topology", "plan", "applied:consumers", "--name", "shop")

    assert (result.exit_code, result.stdout) == (0, "topology shop\nno drift\n")


def test_applying_ends_with_0_and_what_is_left_without_prune_with_2(run) -> None:
    assert run("topology", "apply", "shop:consumers").exit_code == 0

    result = run("topology", "apply", "old:renamed", "--name", "shop")

    assert result.exit_code == 2
    assert (
        "left: queue billing (the name is free again after 60 seconds on AWS): removed with --prune"
        in result.stdout
    )


def test_a_removal_is_confirmed(run) -> None:
    refused = run("topology", "apply", "old:renamed", "--name", "shop", "--prune", typed="n\n")
    confirmed = run("topology", "apply", "old:renamed", "--name", "shop", "--prune", "--yes")

    assert refused.exit_code == 1
    assert confirmed.exit_code == 0


def test_a_rename_is_confirmed_because_it_removes_the_old_queue(run) -> None:
    arguments = ["topology", "apply", "full:renamed", "--name", "shop", "--renamed", "billing=invoices"]

    refused = run(*arguments, typed="")
    confirmed = run(*arguments, "--yes")

    assert refused.exit_code == 1
    assert "Move the messages billing-dlq -> invoices-dlq, billing -> invoices" in refused.stderr
    assert confirmed.exit_code == 0


def test_after_a_rename_the_next_step_for_dead_letters_is_named(run) -> None:
    result = run(
        "topology", "apply", "full:renamed", "--name", "shop", "--renamed", "billing=invoices", "--yes"
    )

    assert result.stdout.endswith(
        "dead letters wait in invoices-dlq (about 1 message): "
        "melange dead-letters list invoices --app full:renamed\n"
    )


def test_a_plan_that_finds_an_old_queue_with_messages_offers_the_rename_first(run) -> None:
    result = run("topology", "plan", "full:renamed", "--name", "shop", "--prune")

    assert result.stdout.endswith(
        "if billing was renamed: melange topology apply full:renamed --name shop --renamed billing=NEW_NAME\n"
        "if nothing needs its messages: melange topology apply full:renamed --name shop --prune --delete-messages\n"
    )


def test_without_prune_an_old_queue_with_messages_is_left_and_the_rename_named(run) -> None:
    result = run("topology", "apply", "full:renamed", "--name", "shop")

    assert (
        "If billing was renamed: --renamed billing=NEW_NAME; if nothing needs them: --prune" in result.stdout
    )


def test_only_what_is_named_is_changed(run) -> None:
    result = run(
        "topology", "apply", "old:renamed", "--name", "shop", "--prune", "--yes", "--only", "billing"
    )

    assert "  - queue billing" in result.stdout
    assert result.stdout.endswith("1 done, 0 left\n")


def test_the_doctor_ends_with_2_for_errors_and_0_without(run) -> None:
    sick = run("topology", "doctor", "shop:consumers")
    healthy = run("topology", "doctor", "applied:consumers", "--name", "shop")

    assert sick.exit_code == 2
    assert "    fix: melange topology apply shop:consumers\n" in sick.stdout
    assert (healthy.exit_code, healthy.stdout) == (0, "0 errors, 0 warnings\n")


def test_the_doctor_counts_notes_apart_from_faults(run) -> None:
    result = run("topology", "doctor", "full:consumers", "--name", "shop")

    assert "note [dead-letters] queue billing-dlq: it holds about 1 message\n" in result.stdout
    assert result.stdout.endswith(", 1 note\n")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["plan", "shop:consumers"], "changes"),
        (["apply", "shop:consumers"], "done"),
        (["doctor", "shop:consumers"], "findings"),
        (["export", "--format", "json", "shop:consumers"], "queues"),
        (["graph", "shop:consumers"], "queues"),
    ],
)
def test_every_command_writes_json(run, arguments, key) -> None:
    assert json.loads(run("topology", *arguments, "--json").stdout)[key]


@pytest.mark.parametrize("export_format", ["json", "terraform", "cloudformation", "iam"])
def test_every_export_is_json(run, export_format) -> None:
    result = run("topology", "export", "shop:consumers", "--format", export_format)

    assert result.exit_code == 0
    assert json.loads(result.stdout)


def test_an_export_is_a_target_like_a_program(run, write) -> None:
    write("shop.json", run("topology", "export", "shop:consumers", "--format", "json").stdout)

    drawn = run("topology", "graph", "shop.json").stdout

    assert drawn == run("topology", "graph", "shop:consumers").stdout


def test_several_targets_are_one_topology(run) -> None:
    drawn = run("topology", "graph", "shop:consumers", "shop:renamed").stdout

    assert "queue billing" in drawn
    assert "queue invoices" in drawn


def test_a_graph_goes_into_a_file(run, tmp_path) -> None:
    result = run("topology", "graph", "shop:consumers", "--format", "svg", "--output", "shop.svg")

    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "shop.svg").read_text().lstrip().startswith("<svg")


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["plan", "shop"],
        ["plan", "shop:nothing"],
        ["plan", "nowhere.json"],
        ["plan", "shop:consumers", "--delete-messages"],
        ["apply", "shop:consumers", "--only", "unknown"],
        ["export", "shop:consumers"],
        ["export", "shop:consumers", "--format", "xml"],
        ["graph", "shop:consumers", "--output", "no/such/directory/graph"],
        ["blueprint"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_1_because_2_means_drift(run, arguments) -> None:
    result = run("topology", *arguments)

    assert result.exit_code == 1
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr


def test_names_cannot_move_the_cursor(run, write) -> None:
    write("broken.json", json.dumps({"melange_topology": 1, "name": "a\x1b[2J", "prefix": "", "topics": [{"name": "\x1b[2J", "event_types": None}], "queues": [], "publishers": []}))  # fmt: skip

    result = run("topology", "plan", "shop:consumers", "broken.json")

    assert "\x1b" not in result.stdout + result.stderr
