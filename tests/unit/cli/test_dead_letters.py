"""``melange dead-letters`` from the shell, on a program with an in-memory broker."""

import json
import subprocess
import sys

import pytest

from melange.cli.dead_letters import actions

SHOP = """
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from melange import EventMessage, ExchangeMessageConsumer, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message


class KeptDriver(InMemoryDriver):
    def close(self):  # so that the test can look into it after the command
        pass


@dataclass
class CardDeclined(EventMessage):
    order: int
    card: str = field(metadata={"sensitive": True})


driver = KeptDriver()
consumer = ExchangeMessageConsumer("billing", "orders", driver=driver, queue=QueueOptions(wait_seconds=0))
consumer.listener("OrderPlaced")(print)
nothing = 5


def add(message_id, reason, body, minutes, **headers):
    rejected_at = datetime.now(UTC) - timedelta(minutes=minutes)
    note = {"reason": reason, "listener": "bill", "queue": "billing", "attempts": 3, "rejected_at": rejected_at.isoformat()}
    message = Message(message_id, json.dumps(body), headers={**headers, "melange-dead-letter": json.dumps(note)})
    driver.send(driver.get_queue("billing-dlq"), [message])


add("m-1", "no answer from 10.0.0.1", {"event_type_name": "OrderPlaced", "order": 1}, 5, tenant="north")
add("m-2", "no answer from 10.0.0.2", {"event_type_name": "OrderPlaced", "order": 2}, 125)
add("m-3", "[bold]declined[/bold]\\n\\x1b[31m", {"event_type_name": "CardDeclined", "order": 3, "card": "4111"}, 5)
"""


ENDLESS_MOVE = """
import signal
from melange.drivers.dead_letters import MoveTask


class EndlessMoves:
    looks = 0

    def start(self, queue, destination, *, messages_per_second=None):
        pass

    def recent(self, queue):
        self.looks += 1
        if self.looks == 1:
            signal.raise_signal(signal.SIGTERM)
        return [MoveTask("running", "billing", 1, 3, None, datetime.now(UTC))]


driver.dead_letter_access.moves = EndlessMoves()
"""


@pytest.fixture(autouse=True)
def shop(write):
    write("shop.py", SHOP)


@pytest.fixture
def letters(run):
    """Run a command for dead letters on the program; return its code, its output and its errors."""

    def invoke(
        command: str, *arguments: str, queue: str = "billing", app: str = "shop:driver", typed: str = ""
    ):
        result = run("dead-letters", command, queue, *arguments, "--app", app, typed=typed)
        return result.exit_code, result.stdout, result.stderr

    return invoke


def ids_in(queue_name: str) -> list[str]:
    driver = sys.modules["shop"].driver
    deliveries = driver.receive(driver.get_queue(queue_name), 10, 0)
    driver.defer(deliveries, 0)
    return sorted(delivery.message.message_id for delivery in deliveries)


class TestList:
    def test_it_says_what_happened_since_when_and_how_many_kinds(self, letters) -> None:
        code, printed, errors = letters("list")

        assert (code, errors) == (0, "")
        assert printed == (
            "billing-dlq: 3 dead letters\n"
            "billing: 0 messages, 0 in flight\n"
            "COUNT  REASON                           LISTENER  TYPE          OLDEST  NEWEST  EXAMPLE\n"
            "    2  no answer from ..                bill      OrderPlaced   2h      5m      m-1\n"
            "    1  [bold]declined[/bold]\\n\\x1b[..m  bill      CardDeclined  5m      5m      m-3\n"
        )

    def test_a_long_reason_does_not_widen_the_table(self, letters, write) -> None:
        write("long.py", SHOP + """\nadd("m-4", "x" * 500, {"event_type_name": "OrderPlaced"}, 5)\n""")

        _, printed, _ = letters("list", app="long:driver")

        assert max(map(len, printed.splitlines())) < 160
        assert "x" * 77 + "..." in printed
        assert "x" * 500 in letters("list", "--json", app="long:driver")[1]

    def test_each_message_can_have_its_line(self, letters) -> None:
        _, printed, _ = letters("list", "--messages", "--type", "CardDeclined")

        assert printed.splitlines()[2:] == [
            "MESSAGE ID  TYPE          LISTENER  ATTEMPTS  AGE  REASON",
            "m-3         CardDeclined  bill             3  5m   [bold]declined[/bold]\\n\\x1b[31m",
            "1 dead letter selected of 3 looked at",
        ]

    def test_json_has_the_same_and_no_bodies(self, letters) -> None:
        _, printed, _ = letters("list", "--json", "--group-by", "listener")

        found = json.loads(printed)
        (group,) = found.pop("groups")
        assert found == {
            "queue": "billing-dlq",
            "counts_are_estimates": False,
            "visible": 3,
            "in_flight": 0,
            "source": {"queue": "billing", "visible": 0, "in_flight": 0, "delayed": 0},
            "seen": 3,
            "selected": 3,
        }
        assert (group["count"], group["listener"], group["example_id"]) == (3, "bill", "m-1")
        assert "4111" not in letters("list", "--messages", "--json")[1]

    @pytest.mark.parametrize(
        ("arguments", "selected"),
        [
            (["--reason", "ANSWER"], 2),
            (["--listener", "mail"], 0),
            (["--older-than", "1h"], 1),
            (["--younger-than", "1h"], 2),
            (["--header", "tenant=north"], 1),
            (["--field", "order=2"], 1),
            (["--from-queue", "billing"], 3),
        ],
    )
    def test_filters_select(self, letters, arguments, selected) -> None:
        assert json.loads(letters("list", "--json", *arguments)[1])["selected"] == selected

    def test_it_takes_nothing(self, letters) -> None:
        letters("list")

        assert ids_in("billing-dlq") == ["m-1", "m-2", "m-3"]


class TestShow:
    def test_it_shows_all_with_sensitive_fields_masked(self, letters) -> None:
        code, printed, _ = letters("show", "m-3")

        assert code == 0
        lines = printed.splitlines()
        assert lines[0] == "message m-3"
        assert "  reason      [bold]declined[/bold]\\n\\x1b[31m" in lines
        assert '      "card": "***"' in lines
        assert "4111" not in printed

    def test_unmasked_shows_them(self, letters) -> None:
        assert "4111" in letters("show", "m-3", "--unmasked")[1]

    def test_json_has_the_parsed_body_masked(self, letters) -> None:
        (letter,) = json.loads(letters("show", "m-3", "--json")[1])

        assert letter["body"] == {"event_type_name": "CardDeclined", "order": 3, "card": "***"}

    def test_an_id_that_is_not_there_ends_with_1(self, letters) -> None:
        code, printed, errors = letters("show", "m-1", "m-9")

        assert code == 1
        assert printed.startswith("message m-1\n")
        assert "not seen in billing-dlq: m-9" in errors


class TestRetry:
    def test_the_selected_ones_go_back(self, letters) -> None:
        assert letters("retry", "--reason", "answer") == (0, "2 dead letters retried: 2 to billing\n", "")
        assert (ids_in("billing"), ids_in("billing-dlq")) == (["m-1", "m-2"], ["m-3"])

    def test_json_counts(self, letters) -> None:
        report = json.loads(letters("retry", "--all", "--json")[1])

        assert (report["retried"], report["sent_to"], report["not_done"]) == (3, {"billing": 3}, [])

    def test_all_must_be_asked_for(self, letters) -> None:
        code, _, errors = letters("retry")

        assert code == 2
        assert "say which: IDs or filters, or --all" in errors
        assert letters("retry", "m-1", "--all")[0] == 2

    def test_what_cannot_go_back_ends_with_1(self, letters) -> None:
        code, printed, errors = letters("retry", "m-9")

        assert (code, printed) == (1, "0 dead letters retried\n")
        assert "not seen in billing-dlq: m-9" in errors

    def test_a_body_can_be_replaced(self, letters) -> None:
        code, printed, _ = letters("retry", "m-1", "--body", "-", "--json", typed='{"order": 7}')

        new_id = json.loads(printed)["message_id"]
        assert code == 0
        assert ids_in("billing") == [new_id] != ["m-1"]

    def test_a_body_can_be_edited(self, letters, monkeypatch, write, tmp_path) -> None:
        write(
            "edit.py",
            "import sys\npath = sys.argv[1]\ntext = open(path).read()\nopen(path, 'w').write(text.replace('1', '7'))",
        )
        monkeypatch.setenv("VISUAL", f"{sys.executable} {tmp_path / 'edit.py'}")

        assert letters("retry", "m-1", "--edit")[0] == 0

        driver = sys.modules["shop"].driver
        (delivery,) = driver.receive(driver.get_queue("billing"), 10, 0)
        assert json.loads(delivery.message.body) == {"event_type_name": "OrderPlaced", "order": 7}

    @pytest.mark.parametrize(
        "options",
        [["--all"], ["--limit", "1"], ["--rate", "1"], ["--reason", "answer"]],
        ids=lambda one: one[0],
    )
    def test_a_new_body_takes_no_option_that_selects(self, letters, options) -> None:
        code, _, errors = letters("retry", "m-1", "--body", "-", *options, typed='{"order": 7}')

        assert code == 2
        assert "--edit and --body take no filter, --all, --limit or --rate" in errors

    def test_an_edited_body_without_a_change_does_nothing(self, letters, monkeypatch) -> None:
        monkeypatch.setenv("VISUAL", "true")

        code, _, errors = letters("retry", "m-1", "--edit")

        assert (code, errors) == (1, "Error: the body was not changed: nothing is done\n")


class TestRemove:
    def test_it_asks_first(self, letters) -> None:
        code, _, errors = letters("remove", "--all", typed="n\n")

        assert code == 1
        assert "That cannot be undone" in errors
        assert len(ids_in("billing-dlq")) == 3

    def test_only_the_selected_ones_are_removed(self, letters) -> None:
        assert letters("remove", "m-2", "--yes") == (0, "1 dead letter removed\n", "")
        assert ids_in("billing-dlq") == ["m-1", "m-3"]


class TestExportAndImport:
    def test_exported_messages_can_be_imported(self, letters) -> None:
        code, lines, errors = letters("export", "--reason", "answer")
        assert (code, errors) == (0, "2 dead letters exported\n")

        assert letters("import", typed=lines) == (0, "2 messages sent to billing\n", "")
        assert ids_in("billing") == ["m-1", "m-2"]
        assert len(ids_in("billing-dlq")) == 3

    def test_a_ticket_gets_masked_lines(self, letters) -> None:
        lines = letters("export", "--masked")[1]

        assert "4111" not in lines
        assert letters("import", typed=lines)[0] == 2

    def test_what_was_exported_is_removed_and_nothing_else(self, letters, write) -> None:
        write("letters.jsonl", letters("export", "--reason", "answer")[1])

        assert letters("remove", "--exported", "letters.jsonl", "--yes") == (
            0,
            "2 dead letters removed\n",
            "",
        )
        assert ids_in("billing-dlq") == ["m-3"]

    @pytest.mark.parametrize("arguments", [["--yes"], ["--reason", "answer", "--yes"]])
    def test_an_empty_export_selects_nothing(self, letters, write, arguments) -> None:
        write("letters.jsonl", "")

        assert letters("list")[0] == 0  # the program is loaded
        assert letters("remove", "--exported", "letters.jsonl", *arguments)[0] == 2
        assert len(ids_in("billing-dlq")) == 3


class TestMove:
    def test_the_broker_moves_all(self, letters) -> None:
        assert letters("move") == (0, "moving to billing: see --status and --cancel\n", "")
        assert ids_in("billing") == ["m-1", "m-2", "m-3"]
        assert "completed  billing  3      3" in letters("move", "--status")[1]

    def test_a_signal_while_it_waits_ends_with_1(self, letters, write, monkeypatch) -> None:
        monkeypatch.setattr(actions, "_POLL_SECONDS", 0)
        write("endless.py", SHOP + ENDLESS_MOVE)

        assert letters("move", "--wait", app="endless:driver")[0] == 1

    def test_nothing_to_cancel_ends_with_1(self, letters) -> None:
        assert letters("move", "--cancel") == (1, "", "Error: no move is running\n")


class TestUsage:
    @pytest.mark.parametrize("app", ["shop:driver", "shop:consumer"])
    def test_a_program_says_which_broker(self, letters, app) -> None:
        assert letters("list", app=app)[0] == 0

    def test_another_object_is_refused(self, letters) -> None:
        code, _, errors = letters("list", app="shop:nothing")

        assert code == 2
        assert "shop:nothing is of type int, and should be a driver" in errors

    def test_memory_without_a_program_is_refused(self, run) -> None:
        result = run("dead-letters", "list", "billing", "--driver", "memory")

        assert result.exit_code == 2
        assert "name a program with --app" in result.stderr

    def test_a_missing_queue_ends_with_1(self, letters) -> None:
        code, _, errors = letters("list", queue="biling")

        assert (code, errors) == (1, "Error: queue 'biling' does not exist (did you mean 'billing'?)\n")

    def test_without_rich_it_says_what_to_install(self) -> None:
        program = (
            "import sys; sys.modules['rich'] = None; sys.argv[1:] = ['dead-letters', 'list', 'billing'];"
            "from melange.cli.__main__ import main; sys.exit(main())"
        )

        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

        assert ended.returncode == 2
        assert (
            ended.stderr
            == "Error: melange dead-letters needs rich: pip install '.[cli]' in a checkout of melange\n"
        )


FIFO_SHOP = """
import json
from melange import ExchangeMessageConsumer, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message

driver = InMemoryDriver()
consumer = ExchangeMessageConsumer("pay.fifo", driver=driver)
for number in range(15):
    note = json.dumps({"reason": "even" if number % 2 == 0 else "odd", "queue": "pay.fifo"})
    message = Message(f"m-{number}", "{}", headers={"melange-dead-letter": note}, message_group_id="A")
    driver.send(driver.get_queue("pay-dlq.fifo"), [message._replace(message_deduplication_id=f"m-{number}")])
"""


class TestFifo:
    @pytest.fixture(autouse=True)
    def shop(self, write):
        write("shop.py", FIFO_SHOP)

    def test_list_says_how_many_wait_behind_the_first_ones(self, letters) -> None:
        _, printed, _ = letters("list", "--group-by", "group", queue="pay.fifo")

        assert printed.splitlines()[3].split()[:2] == ["10", "A"]
        assert "about 5 more wait behind these in their groups" in printed

    def test_retry_says_so_of_those_behind_others_that_are_not_selected(self, letters) -> None:
        _, printed, _ = letters("retry", "--reason", "even", queue="pay.fifo")

        assert printed.startswith("5 dead letters retried: 5 to pay.fifo\nabout ")
        assert "more wait behind others that are not selected" in printed
