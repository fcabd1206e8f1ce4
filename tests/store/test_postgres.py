"""The store in Postgres, on a real server."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest
from recorder_doubles import child_doing, python

from penstock import recovery
from penstock.exceptions import StoreUnavailable
from penstock.store import base, owners, postgres, postgres_link
from penstock.store.base import LogRow, OwnerDeclaredDead, StoreLocked, StoreMissing
from penstock.store.postgres import PostgresReader, PostgresStore
from penstock.testing.store_suite import CHECKS, Check, batch, child_row, result_row, run_row
from postgres_server import Server

TOKEN = "0123456789abcdef" * 2

WRITER = """
    import os, sys
    from penstock.store import owners
    from penstock.store.postgres import PostgresStore
    from penstock.testing.store_suite import batch, run_row
    url, home = sys.argv[1:3]
    store = PostgresStore(url)
    store.write(batch(run_row(1, kind="flow", owner=owners.own(home))))
"""


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(url)) as store:
        yield store


@pytest.fixture
def other(url: str) -> Iterator[PostgresStore]:
    """The same store as another machine has it."""
    with closing(PostgresStore(url)) as store:
        yield store


def psql(server: Server, url: str, statement: str) -> str:
    return server.ask(url.split("/")[3].partition("?")[0], f"SET search_path TO penstock; {statement}")


def hang_up(server: Server, url: str) -> None:
    """Let every connection to the database be lost."""
    database = url.split("/")[3].partition("?")[0]
    server.ask("postgres", f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(store: PostgresStore, check: Check) -> None:
    check(store)


def test_tables_have_the_columns_of_the_rows(server: Server, url: str, store: PostgresStore) -> None:
    store.write(batch(run_row(1)))
    for table, row in (
        ("runs", base.RunRow),
        ("earlier_attempts", base.AttemptRow),
        ("attempts", base.AttemptRow),
        ("edges", base.EdgeRow),
        ("results", base.ResultRow),
    ):
        columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute"
        assert psql(server, url, f"{columns} WHERE attrelid = '{table}'::regclass AND attnum > 0").split(",") == [
            *row._fields
        ]


def _write_when(ready: int, go: int, url: str, number: int) -> None:
    os.close(go)
    os.read(ready, 1)
    with closing(PostgresStore(url)) as store:
        store.write(batch(run_row(number)), patience=20)


class TestOpening:
    def test_reading_makes_nothing(self, server: Server, url: str) -> None:
        with closing(PostgresReader(url)) as reader, pytest.raises(StoreMissing, match="there is no run store in"):
            reader.runs()
        assert server.ask(url.split("/")[3].partition("?")[0], "SELECT to_regnamespace('penstock')") == ""

    def test_many_may_make_it_at_once(self, url: str) -> None:
        stores = [PostgresStore(url) for _ in range(6)]
        failures: list[Exception] = []

        def write(number: int) -> None:
            try:
                stores[number].write(batch(run_row(number)), patience=20)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(stores[0].runs()) == 6
        for store in stores:
            store.close()

    @pytest.mark.parametrize("round_", range(3))
    def test_many_processes_may_make_it_at_once(self, round_: int, server: Server, url: str) -> None:
        ready, go = os.pipe()
        children = [child_doing(lambda number=number: _write_when(ready, go, url, number)) for number in range(8)]
        os.close(ready)
        os.close(go)  # all begin now
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
        assert psql(server, url, "SELECT COUNT(*) FROM store, runs") == "8"

    def test_whoever_waited_for_somebody_who_made_it_uses_it(self, server: Server, url: str) -> None:
        maker = postgres_link.Link(url, writing=True)
        maker.run(f"SELECT pg_advisory_lock({postgres_link._MAKING})")
        with closing(PostgresStore(url)) as store:
            writing = threading.Thread(target=store.write, args=(batch(run_row(1)),))
            writing.start()
            while server.ask("postgres", "SELECT COUNT(*) FROM pg_locks WHERE NOT granted") == "0":
                pass
            maker.make_store("x")
            maker.close()
            writing.join()
            assert store.runs() == [run_row(1)]

    def test_what_is_newer_is_left_alone(self, server: Server, url: str, store: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        psql(server, url, "UPDATE store SET version = 99")
        for write in (store.write, PostgresStore(url).write):
            with pytest.raises(StoreUnavailable, match="newer penstock: its schema is version 99"):
                write(batch(run_row(2)))
        with closing(PostgresReader(url)) as reader, pytest.raises(StoreUnavailable, match="newer penstock"):
            reader.runs()
        assert psql(server, url, "SELECT COUNT(*) FROM runs") == "1"

    def test_a_store_that_was_dropped_is_made_again(self, server: Server, url: str, store: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        assert store.runs() and store.generation == 0
        psql(server, url, "DROP SCHEMA penstock CASCADE")
        with pytest.raises(StoreMissing):
            store.runs()
        with pytest.raises(StoreMissing):
            store.write(batch(run_row(2)))
        store.write(batch(run_row(2)))
        assert store.generation == 1
        assert store.runs() == [run_row(2)]

    def test_without_a_server(self) -> None:
        with closing(PostgresStore("postgresql://me:S3cret@localhost:1/x")) as store:
            for use in (store.runs, lambda: store.write(batch(run_row(1)))):
                with pytest.raises(StoreUnavailable, match="postgresql://me@localhost:1/x: ") as caught:
                    use()
                assert "S3cret" not in str(caught.value)

    def test_a_password_that_makes_the_url_wrong_is_not_shown(self) -> None:
        for wrong in ("S3c%ret", "S3cret@x/y", "S3:cret"):
            with closing(PostgresStore(f"postgresql://me:{wrong}@localhost:1/x")) as store:
                with pytest.raises(StoreUnavailable) as caught:
                    store.runs()
                assert "3c" not in str(caught.value)

    def test_without_psycopg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        install = r'Type: pip install "penstock\[postgres\]"'
        with closing(PostgresStore("postgresql://me@localhost:1/x")) as store, pytest.raises(Exception, match=install):
            store.write(batch(run_row(1)))


class TestAsSomebodyElse:
    """A user of the database who may only look."""

    @pytest.fixture
    def guest(self, server: Server, url: str, store: PostgresStore) -> str:
        store.write(batch(run_row(1, kind="flow", owner=TOKEN)))
        role = f"guest_{url.split('/')[3].partition('?')[0]}"
        psql(server, url, f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA penstock TO {role}")
        psql(server, url, f"GRANT SELECT ON ALL TABLES IN SCHEMA penstock TO {role}")
        return url.replace("penstock@", f"{role}@")

    def test_reads(self, guest: str, tmp_path: Path) -> None:
        with closing(recovery.open_reader(tmp_path, guest)) as reader:
            assert reader.runs() == [run_row(1, kind="flow", owner=TOKEN)]
            assert reader.line_numbers() == (0, 0)

    def test_sees_the_dead_as_crashed(
        self, guest: str, store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.close()
        monkeypatch.setattr(postgres, "ABSENCE", 0.0)
        with closing(recovery.open_reader(tmp_path, guest)) as reader:
            assert [row.status for row in reader.runs()] == ["CRASHED"]

    def test_is_told_that_nothing_can_be_written(self, guest: str) -> None:
        with closing(PostgresStore(guest)) as store, pytest.raises(StoreUnavailable, match="permission denied"):
            store.write(batch(run_row(2)))

    def test_is_told_that_nothing_can_be_read(self, server: Server, url: str, guest: str) -> None:
        psql(
            server, url, "REVOKE ALL ON runs FROM PUBLIC; REVOKE ALL ON runs FROM " + guest.split("//")[1].split("@")[0]
        )
        with closing(PostgresReader(guest)) as reader, pytest.raises(StoreUnavailable, match="permission denied"):
            reader.runs()


class TestWriting:
    def test_waits_no_longer_than_it_may(self, store: PostgresStore, other: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        with store._transaction(1.0):
            started = monotonic()
            with pytest.raises(StoreLocked):
                other.write(batch(run_row(2)), patience=0.2)
            assert 0.1 < monotonic() - started < 5
        other.write(batch(run_row(2)))
        assert store.runs() == [run_row(2), run_row(1)]

    def test_all_of_a_batch_or_nothing(self, server: Server, url: str, store: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        psql(server, url, "ALTER TABLE logs ADD CHECK (message <> 'no')")
        with pytest.raises(StoreUnavailable, match="violates check"):
            store.write(batch(run_row(2), LogRow(run_row(2).id, 1.0, 20, "x", "no")))
        store.write(batch(run_row(3)))
        assert [row.id for row in store.runs()] == [run_row(3).id, run_row(1).id]

    def test_what_does_not_fit_into_its_column_is_left_out(self, store: PostgresStore) -> None:
        odd = run_row(1, created="yesterday", map_index=2.5, name=object, message=7, attempts=True)
        store.write(batch(odd, run_row(2), result_row(1, sealed="text", expires="soon")))
        found = store.get(odd.id)
        assert found is not None
        assert (found.created, found.map_index, found.name, found.message) == (None, 2, "<type>", "7")
        assert store.get(run_row(2).id) == run_row(2)
        assert store.result(odd.id) == result_row(1, sealed=None)

    def test_names_of_any_length_can_be_looked_for(self, store: PostgresStore) -> None:
        long = os.urandom(200_000).hex()
        flow = run_row(1, kind="flow", name=long, run_name=long, state_name=long, key=long)
        result = result_row(1, cache_key=long, task_key=long)
        store.write(batch(flow, child_row(2, flow, name=long, state_name=long, result_key=long), result))
        assert store.find(long) == [flow]
        assert store.cached(long) == result
        assert store.results_of(long) == [result]
        assert store.results_of(long[:-1]) == []

    def test_large_values_are_in_the_database(self, store: PostgresStore, other: PostgresStore) -> None:
        value = os.urandom(20_000_000)
        store.write(batch(result_row(1, sealed=value, size=len(value))), patience=20)
        found = other.result(result_row(1).address)
        assert found is not None and found.sealed == value

    def test_power_waits_for_the_disk_even_where_others_need_not(self, server: Server, url: str) -> None:
        with closing(PostgresStore(f"{url}&options=-csynchronous_commit%3Doff")) as store:
            seen = []
            for power in (False, True):
                with store._transaction(1.0, power=power) as (link, orders):
                    for statement, values in orders:
                        link._connection.execute(statement.encode(), values)
                    seen += link.execute("SELECT current_setting('synchronous_commit')", {})
            assert seen == [("off",), ("on",)]

    def test_of_two_that_claim_a_run_one_gets_it(self, url: str, store: PostgresStore) -> None:
        first = run_row(1, kind="flow", status="FAILED", ended=2.0)
        store.write(batch(first))
        stores = [PostgresStore(url) for _ in range(6)]
        answers: dict[str, object] = {}

        def claim(number: int) -> None:
            row = run_row(number, kind="flow", resumed_from=first.id)
            answers[row.id] = stores[number].claim(row, [first.id], patience=20)

        threads = [threading.Thread(target=claim, args=(number,)) for number in range(2, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [run_id for run_id, answer in answers.items() if answer is None]
        others = {run_id for run_id, answer in answers.items() if isinstance(answer, base.RunRow)}
        assert {answers[run_id].id for run_id in others} == {winner}  # type: ignore[attr-defined]
        for each in stores:
            each.close()

    def test_a_claim_whose_answer_was_lost_is_still_its_own(self, store: PostgresStore) -> None:
        first = run_row(1, kind="flow", status="FAILED", ended=2.0)
        store.write(batch(first))
        mine = run_row(2, kind="flow", resumed_from=first.id)
        assert store.claim(mine, [first.id]) is None
        assert store.claim(mine, [first.id]) is None

    def test_requests_are_taken_once(self, store: PostgresStore, other: PostgresStore) -> None:
        assert store.requests() == [] and not store.take("a")
        other.post("a")
        other.post("a")
        assert store.requests() == ["a"]
        assert [store.take("a"), other.take("a")] == [True, False]


@pytest.mark.parametrize("query", ["counts", "tally", "inside", "failures", "logs"])
def test_trees_are_walked_along_the_index(query: str, store: PostgresStore) -> None:
    flow, other = run_row(0, kind="flow"), run_row(900_000, kind="flow")
    store.write(batch(flow, other, *(child_row(n, flow) for n in range(1, 3000))), patience=20)
    facts = {"run_id": other.id, "text": "x", "prefix": "", "limit": 10}
    plan = " ".join(line for (line,) in store.ask(f"EXPLAIN {postgres_link.dialect(query)}", facts))
    assert "Nested Loop" in plan and "runs_by_parent" in plan
    assert "Hash Join" not in plan and "Merge Join" not in plan and "JIT" not in plan


class TestConnections:
    def test_one_that_was_lost_is_made_again(self, server: Server, url: str, store: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        assert store.runs() == [run_row(1)]
        hang_up(server, url)
        assert store.runs() == [run_row(1)]
        with pytest.raises(postgres_link.Lost):
            store.write(batch(run_row(2)))
        store.write(batch(run_row(2)))
        assert store.runs() == [run_row(2), run_row(1)]

    def test_closing_ends_both(self, server: Server, url: str) -> None:
        store = PostgresStore(url)
        store.write(batch(run_row(1, owner=TOKEN)))
        store.runs()
        count = (
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"
        )
        assert psql(server, url, count) == "2"
        store.close()
        store.close()
        assert psql(server, url, "SELECT COUNT(*) FROM owners") == "0"

    def test_a_child_opens_its_own_and_leaves_the_parents_alone(self, store: PostgresStore) -> None:
        store.write(batch(run_row(1)))
        assert store.runs() == [run_row(1)]
        child = os.fork()
        if not child:
            status = 1
            try:
                store.write(batch(run_row(2)))
                status = 0 if len(store.runs()) == 2 else 2
                store.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        store.write(batch(run_row(3)))
        assert len(store.runs()) == 3


class TestLife:
    """Who is dead, as several machines see it. `ABSENCE` is nothing where nobody is to be waited for."""

    @pytest.fixture
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "ABSENCE", 0.0)

    def test_the_living_are_alive_elsewhere(
        self, at_once: None, store: PostgresStore, other: PostgresStore, tmp_path: Path
    ) -> None:
        flow = run_row(1, kind="flow", owner=TOKEN)
        store.write(batch(flow))
        assert other.vouches_for(TOKEN)
        assert recovery.recover(tmp_path, other) == []
        assert recovery.Truthful(other, tmp_path).runs() == [flow]
        assert not other.vouches_for("f" * 32)

    def test_without_a_connection_they_are_missed_before_they_are_dead(
        self, server: Server, url: str, store: PostgresStore, other: PostgresStore, tmp_path: Path
    ) -> None:
        store.write(batch(run_row(1, kind="flow", owner=TOKEN)))
        hang_up(server, url)
        assert recovery.recover(tmp_path, other) == []
        psql(server, url, "UPDATE owners SET seen = now() - interval '1 hour'")
        # The server has been there for less than that: nobody could say anything before.
        assert recovery.recover(tmp_path, other) == []

    def test_the_dead_are_declared_dead_and_their_rows_refused(
        self, at_once: None, server: Server, url: str, store: PostgresStore, other: PostgresStore, tmp_path: Path
    ) -> None:
        flow = run_row(1, kind="flow", owner=TOKEN)
        store.write(batch(flow))
        hang_up(server, url)
        (loss,) = recovery.recover(tmp_path, other)
        assert loss.runs == [flow.id]
        assert [row.status for row in other.runs()] == ["CRASHED"]
        with pytest.raises(postgres_link.Lost):
            store.write(batch(child_row(2, flow)))
        with pytest.raises(OwnerDeclaredDead):
            store.write(batch(child_row(2, flow)))
        assert other.tree(flow.id) == []
        assert psql(server, url, "SELECT COUNT(*) FROM owners") == "0"

    def test_whoever_comes_back_in_time_is_alive_again(
        self, server: Server, url: str, store: PostgresStore, other: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write(batch(run_row(1, kind="flow", owner=TOKEN)))
        hang_up(server, url)
        monkeypatch.setattr(postgres, "BEAT", 0.0)
        store.beat()  # finds out
        store.beat()
        monkeypatch.setattr(postgres, "ABSENCE", 0.0)
        assert other.vouches_for(TOKEN)

    def test_whoever_says_goodbye_is_not_waited_for(self, url: str, other: PostgresStore, tmp_path: Path) -> None:
        with closing(PostgresStore(url)) as store:
            store.write(batch(run_row(1, kind="flow", owner=TOKEN)))
        assert len(recovery.recover(tmp_path, other)) == 1

    def test_on_its_own_machine_the_dead_are_dead_at_once(self, url: str, store: PostgresStore, tmp_path: Path) -> None:
        writer = python(WRITER + "    os.kill(os.getpid(), 9)\n", url, tmp_path / "home")
        writer.communicate()
        elsewhere = tmp_path / "elsewhere"
        assert recovery.recover(elsewhere, store) == []
        (loss,) = recovery.recover(tmp_path / "home", store)
        assert (loss.runs, loss.pid) == ([run_row(1).id], writer.pid)

    def test_a_child_does_not_keep_its_parent_alive(
        self, at_once: None, url: str, store: PostgresStore, tmp_path: Path
    ) -> None:
        fork = """
    if os.fork():
        os.kill(os.getpid(), 9)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""
        writer = python(WRITER + fork, url, tmp_path / "home")
        assert writer.stdout is not None
        child = int(writer.stdout.readline())
        os.kill(child, 0)
        assert len(recovery.recover(tmp_path / "elsewhere", store)) == 1
        os.kill(child, signal.SIGKILL)
        writer.communicate()

    def test_owners_that_are_no_tokens_are_nobodys_business(self, store: PostgresStore, tmp_path: Path) -> None:
        store.write(batch(run_row(1, owner="\udc80\0")))
        assert recovery.recover(tmp_path, store) == []
        assert owners.tokens(tmp_path) == []
