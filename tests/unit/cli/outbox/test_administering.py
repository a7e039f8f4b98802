"""Looking into an outbox from the shell, and deciding about what was refused."""

import json
import sqlite3
from contextlib import closing

import pytest

from melange.outbox.tables import MessageState


class TestStatus:
    def test_it_counts_by_topic_and_says_how_old_the_oldest_is(self, run, add) -> None:
        add("orders", seconds=200)
        add("orders", seconds=20)
        add("stock", state=MessageState.FAILED, seconds=7200)
        add("stock", state=MessageState.HELD)
        add("stock", state=MessageState.SENT, seconds=999_999)

        result = run("outbox", "status")

        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (
            "TOPIC   PENDING  FAILED  HELD  OLDEST\n"
            "orders  2        0       0     3m\n"
            "stock   0        1       1     2h\n"
        )

    def test_it_says_so_when_nothing_waits(self, run, add) -> None:
        add(state=MessageState.SENT)

        assert run("outbox", "status").stdout == "nothing waits\n"
        assert json.loads(run("outbox", "status", "--json").stdout) == []

    def test_json_has_the_names_of_the_class(self, run, add) -> None:
        add("orders")

        (topic,) = json.loads(run("outbox", "status", "--json").stdout)

        assert topic.pop("oldest_published_at").endswith("+00:00")
        assert topic == {"topic": "orders", "pending": 1, "failed": 0, "held": 0}

    @pytest.mark.parametrize(
        ("state", "seconds", "complaint"),
        [
            (MessageState.PENDING, 30, None),
            (MessageState.PENDING, 90, "orders: the oldest message waits for 1m"),
            (MessageState.FAILED, 0, "orders: 1 message failed"),
            (MessageState.SENT, 90, None),
        ],
    )
    def test_it_ends_with_1_when_something_waits_too_long_or_has_failed(
        self, run, add, state, seconds, complaint
    ) -> None:
        add(state=state, seconds=seconds)

        result = run("outbox", "status", "--fail-older-than", "1m")

        assert result.exit_code == (0 if complaint is None else 1)
        assert result.stderr == ("" if complaint is None else f"Error: {complaint}\n")

    def test_a_message_without_a_time_that_can_be_read_is_shown_all_the_same(self, run, engine, add) -> None:
        add(state=MessageState.FAILED)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE melange_outbox SET published_at = 'yesterday'")

        table, failed, in_json = (
            run("outbox", *arguments).stdout for arguments in (["status"], ["failed"], ["status", "--json"])
        )

        assert table.splitlines()[1].split() == ["orders", "0", "1", "0", "-"]
        assert "m-1         -    0" in failed
        assert json.loads(in_json)[0]["oldest_published_at"] is None

    def test_without_that_option_it_ends_with_0_whatever_has_failed(self, run, add) -> None:
        add(state=MessageState.FAILED, seconds=999_999)

        assert run("outbox", "status").exit_code == 0


class TestFailed:
    def test_it_shows_what_was_refused_and_why_and_what_it_holds(self, run, add) -> None:
        columns = {"key": "17", "lock_key": 5}
        id_ = add(state=MessageState.FAILED, error="InvalidMessageError: no", seconds=60, **columns)
        add(state=MessageState.HELD, **columns)
        without_key = add(state=MessageState.FAILED, error="no", message_id="m-2")
        add(state=MessageState.PENDING)

        result = run("outbox", "failed")

        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (
            "ID  TOPIC   KEY  TYPE         MESSAGE ID  AGE  HELD  ERROR\n"
            f"{id_}   orders  17   OrderPlaced  m-1         1m   1     InvalidMessageError: no\n"
            f"{without_key}   orders  -    OrderPlaced  m-2         0s   0     no\n"
        )

    def test_json_has_the_names_of_the_class_and_no_body(self, run, add) -> None:
        id_ = add(state=MessageState.FAILED, error="no", key="17")

        output = run("outbox", "failed", "--json").stdout

        (message,) = json.loads(output)
        assert message.pop("published_at").endswith("+00:00")
        assert message == {
            "id": id_,
            "topic": "orders",
            "key": "17",
            "message_id": "m-1",
            "event_type_name": "OrderPlaced",
            "error": "no",
            "held": 0,
        }

    def test_it_says_when_there_are_more_than_it_shows(self, run, add) -> None:
        ids = [add(state=MessageState.FAILED) for _ in range(3)]

        result = run("outbox", "failed", "--limit", "2", "--json")
        all_of_them = run("outbox", "failed", "--limit", "3", "--json")

        assert [message["id"] for message in json.loads(result.stdout)] == ids[:2]
        assert "there are more than these 2" in result.stderr
        assert all_of_them.stderr == ""

    def test_it_says_so_when_nothing_has_failed(self, run, add) -> None:
        add()

        assert run("outbox", "failed").stdout == "nothing has failed\n"

    @pytest.mark.parametrize(
        "command", [["failed"], ["failed", "--json"], ["status"], ["status", "--json"]], ids=" ".join
    )
    def test_nothing_from_the_database_can_control_the_terminal(self, run, add, command) -> None:
        nasty = "\x1b[2J\x9b1A\r\n\u202eforged"
        columns = dict.fromkeys(("key", "event_type_name", "message_id", "error"), nasty)
        add(nasty, state=MessageState.FAILED, **columns)

        output = run("outbox", *command).stdout

        assert "forged" in output
        assert all(line.isprintable() for line in output.splitlines())
        assert len(output.splitlines()) == 2 or "--json" in command


class TestRetry:
    def test_failed_messages_and_what_they_hold_are_pending_again(self, run, add, states) -> None:
        first = add(state=MessageState.FAILED, key="17")
        held = add(state=MessageState.HELD, key="17")
        other = add(state=MessageState.FAILED, key="18")

        result = run("outbox", "retry", str(first))

        assert (result.exit_code, result.stdout) == (0, "1 message to be tried again\n")
        assert states() == {
            first: MessageState.PENDING,
            held: MessageState.PENDING,
            other: MessageState.FAILED,
        }

    def test_they_can_be_named_by_message_id(self, run, add, states) -> None:
        first = add(state=MessageState.FAILED, message_id="m-1")
        other = add(state=MessageState.FAILED, message_id="m-2")

        result = run("outbox", "retry", "m-1", "m-3")

        assert (result.exit_code, result.stdout) == (1, "1 message to be tried again\n")
        assert result.stderr == "Error: there is no failed message with the id m-3\n"
        assert states() == {first: MessageState.PENDING, other: MessageState.FAILED}

    def test_all_of_them_can_be(self, run, add, states) -> None:
        ids = [add(state=MessageState.FAILED) for _ in range(2)]

        result = run("outbox", "retry", "--all")

        assert (result.exit_code, result.stdout) == (0, "2 messages to be tried again\n")
        assert states() == dict.fromkeys(ids, MessageState.PENDING)

    def test_an_id_that_is_not_failed_makes_it_end_with_1_after_the_others(self, run, add, states) -> None:
        failed, pending = add(state=MessageState.FAILED), add()

        result = run("outbox", "retry", str(pending), "4711", str(failed), str(failed))

        assert (result.exit_code, result.stdout) == (1, "1 message to be tried again\n")
        assert result.stderr == f"Error: there is no failed message with the id {pending}, 4711\n"
        assert states() == {failed: MessageState.PENDING, pending: MessageState.PENDING}

    @pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["0"], [str(2**63)]], ids=" ".join)
    def test_it_wants_either_ids_or_all(self, run, engine, arguments) -> None:
        result = run("outbox", "retry", *arguments)

        assert result.exit_code == 2
        assert result.stderr.count("Error: ") == 1


class TestSkip:
    @pytest.mark.parametrize(("options", "typed"), [(["--yes"], ""), ([], "y\n")], ids=["--yes", "answered"])
    def test_failed_messages_are_left_out_and_what_they_hold_goes_on(
        self, run, add, states, options, typed
    ) -> None:
        failed, held = add(state=MessageState.FAILED, key="17"), add(state=MessageState.HELD, key="17")

        result = run("outbox", "skip", str(failed), *options, typed=typed)

        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "1 message skipped")
        assert states() == {failed: MessageState.SKIPPED, held: MessageState.PENDING}

    @pytest.mark.parametrize("typed", ["", "n\n", "\n"], ids=["nothing", "no", "enter"])
    def test_without_a_yes_nothing_happens(self, run, add, states, typed) -> None:
        failed = add(state=MessageState.FAILED)

        result = run("outbox", "skip", str(failed), typed=typed)

        assert result.exit_code == 1
        assert f"Never publish {failed}?" in result.stderr
        assert states() == {failed: MessageState.FAILED}

    def test_an_id_that_is_not_failed_makes_it_end_with_1(self, run, add, states) -> None:
        sent = add(state=MessageState.SENT)

        result = run("outbox", "skip", "--yes", str(sent))

        assert (result.exit_code, result.stdout) == (1, "0 messages skipped\n")
        assert states() == {sent: MessageState.SENT}


class TestPurge:
    def test_it_deletes_what_was_sent_or_skipped_longer_ago(self, run, add, states) -> None:
        add(state=MessageState.SENT, seconds=100_000)
        add(state=MessageState.SKIPPED, seconds=100_000)
        kept = [
            add(state=MessageState.SENT, seconds=80_000),
            *(
                add(state=state, seconds=100_000)
                for state in (MessageState.PENDING, MessageState.FAILED, MessageState.HELD)
            ),
        ]

        result = run("outbox", "purge", "--older-than", "1d")

        assert (result.exit_code, result.stdout, result.stderr) == (0, "2 messages deleted\n", "")
        assert list(states()) == kept

    def test_nothing_to_delete_is_no_error(self, run, engine) -> None:
        result = run("outbox", "purge", "--older-than", "0s")

        assert (result.exit_code, result.stdout) == (0, "0 messages deleted\n")

    @pytest.mark.parametrize(
        "duration",
        ["", "7", "-1d", "1.5h", "7 d", "7w", "1d2h", "\u0667d", "99999999d", "9" * 4_000 + "s"],
        ids=ascii,
    )
    def test_what_is_no_duration_is_refused(self, run, add, states, duration) -> None:
        id_ = add(state=MessageState.SENT, seconds=999_999)

        result = run("outbox", "purge", "--older-than", duration)

        assert result.exit_code == 2
        assert "--older-than" in result.stderr
        assert list(states()) == [id_]

    def test_there_is_no_default(self, run, engine) -> None:
        result = run("outbox", "purge")

        assert result.exit_code == 2
        assert "Missing option '--older-than'" in result.stderr


class TestSchema:
    def test_what_it_prints_for_sqlite_creates_the_tables(self, run) -> None:
        script = run("outbox", "schema", "sqlite").stdout

        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(script)
            tables = {
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
        assert {"melange_outbox", "melange_inbox"} <= tables

    def test_postgresql_has_its_own(self, run) -> None:
        assert "TIMESTAMP WITH TIME ZONE" in run("outbox", "schema", "postgresql").stdout

    def test_another_database_is_refused(self, run) -> None:
        assert run("outbox", "schema", "mysql").exit_code == 2

    def test_the_url_of_a_database_says_which_one_without_a_connection(self, run) -> None:
        result = run("outbox", "schema", "--database-url", "postgresql+psycopg://shop:secret@nowhere/shop")

        assert result.stdout == run("outbox", "schema", "postgresql").stdout

    def test_without_a_database_it_says_what_to_give(self, run, monkeypatch) -> None:
        monkeypatch.delenv("DATABASE_URL", raising=False)

        result = run("outbox", "schema")

        assert result.exit_code == 2
        assert "postgresql or sqlite, or --database-url" in result.stderr


class TestSkippingATopic:
    def test_all_that_waits_for_it_is_left_out(self, run, add, states) -> None:
        gone, failed, other = add("gone"), add("gone", state=MessageState.FAILED), add("orders")

        result = run("outbox", "skip", "--topic", "gone", "--yes")

        assert (result.exit_code, result.stdout) == (0, "2 messages skipped\n")
        assert states() == {
            gone: MessageState.SKIPPED,
            failed: MessageState.SKIPPED,
            other: MessageState.PENDING,
        }

    @pytest.mark.parametrize("arguments", [[], ["1", "--topic", "gone"]])
    def test_it_wants_to_know_what_to_skip(self, run, engine, arguments) -> None:
        result = run("outbox", "skip", "--yes", *arguments)

        assert result.exit_code == 2
        assert "either IDs" in result.stderr
