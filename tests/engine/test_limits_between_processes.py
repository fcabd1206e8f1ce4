"""Limits that several processes keep to: real ones, which are killed, stopped, and forked."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import pytest
from test_limits import Strike, tracing

import penstock._engine
from obedient import Process, start_processes, wait_until
from penstock import concurrency, rate_limit
from penstock._engine import clock as clocks
from penstock._engine import limits
from penstock.concurrency import set_limit
from penstock.exceptions import ConfigurationError
from penstock.settings import temporary_settings
from penstock.store import leases, owners
from penstock.store.leases import Leases
from penstock.testing.clock import ManualClock

PROLOGUE = """
from contextlib import ExitStack
from penstock import concurrency, rate_limit
from penstock._engine import limits
from penstock.concurrency import set_limit
held = ExitStack()

def enter(*names, **options):
    held.enter_context(concurrency(names, **options))
    return time.monotonic()

def leave():
    now = time.monotonic()
    held.close()
    return now

def tell(path, *words):
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + chr(10)).encode())
    os.close(file)

def come_and_go(path, times, *names, **options):
    for _ in range(times):
        with concurrency(names, **options):
            tell(path, "+", os.getpid())
            time.sleep(0.0005)
            tell(path, "-", os.getpid())
    return times

def passes(times, name, **options):
    found = []
    for _ in range(times):
        rate_limit(name, **options)
        found.append(time.monotonic())
    return found

def failure(action, *arguments, **options):
    try:
        action(*arguments, **options)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
"""


@pytest.fixture
def start(own_store: Path) -> Iterator[Callable[[], Process]]:
    with start_processes(PROLOGUE) as start:
        yield start


def in_line(home: Path, name: str = "db") -> int:
    """How many processes wait for a limit."""
    return sum(bool(row.ticket) for row in rows(home, name))


def rows(home: Path, name: str) -> list[leases.Row]:
    with suppress(FileNotFoundError):
        return list(leases._rows((home / "limits" / f"slots-{name}").read_bytes()))
    return []


def most_at_once(path: Path, ignored: frozenset[str] = frozenset()) -> int:
    """The largest number of processes that were inside; `x` says that one does not count from there on."""
    inside, most, gone = set[str](), 0, set[str]()
    for line in path.read_text().splitlines():
        what, pid = line.split()
        if what == "x":
            gone.add(pid)
        inside = (inside | {pid} if what == "+" else inside - {pid}) - gone
        most = max(most, len(inside))
    return most


# --- never too many, and in order ---


def test_never_more_than_the_limit(start: Callable[[], Process], tmp_path: Path) -> None:
    path = tmp_path / "log"
    processes = [start() for _ in range(4)]
    for process in processes:
        process.begin(f"come_and_go({str(path)!r}, 50, 'db', limit=2)")
    assert [process.answer() for process in processes] == [50] * 4
    assert most_at_once(path) <= 2
    assert len(path.read_text().splitlines()) == 400


def test_as_many_as_the_limit(start: Callable[[], Process]) -> None:
    first, second, third = start(), start(), start()
    first("enter('db', limit=2)")
    second("enter('db', timeout_seconds=0)")
    assert "(2 of 2 slots taken, held by thread" in third("failure(enter, 'db', timeout_seconds=0)")


def test_nobody_goes_on_while_another_process_looks(start: Callable[[], Process], own_store: Path) -> None:
    set_limit("db", 1)
    process = start()
    process("1")  # it is there, and has nothing else to do
    with open(own_store / "limits" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process.begin("enter('db')")
        threading.Event().wait(0.3)  # too short to see what is wrong, at worst
        assert rows(own_store, "db") == []
    process.answer()
    assert [row.held for row in rows(own_store, "db")] == [1]


def test_several_limits_at_once_in_any_order(start: Callable[[], Process], tmp_path: Path) -> None:
    """All or none: processes that want the same limits in different orders do not block each other."""
    path = tmp_path / "log"
    processes = [start() for _ in range(3)]
    for process, names in zip(processes, ("'a', 'b'", "'b', 'c'", "'c', 'a'"), strict=True):
        process.begin(f"come_and_go({str(path)!r}, 30, {names}, limit=1)")
    assert [process.answer() for process in processes] == [30] * 3
    assert most_at_once(path) == 1, "each two of them have a limit in common"


def test_who_came_first_is_first(start: Callable[[], Process], own_store: Path) -> None:
    holder, *waiters = [start() for _ in range(4)]
    holder("enter('db', limit=1)")
    for number, waiter in enumerate(waiters):
        waiter.begin("enter('db')")
        wait_until(lambda number=number: in_line(own_store) == number + 1)  # type: ignore[misc]
    left = [holder("leave()")]
    entered = []
    for waiter in waiters:
        entered.append(waiter.answer())
        left.append(waiter("leave()"))
    assert (
        sorted(left + entered) == [moment for pair in zip(left, entered, strict=False) for moment in pair] + left[-1:]
    )


def test_a_large_request_is_not_overtaken(start: Callable[[], Process], own_store: Path) -> None:
    holder, large, small = start(), start(), start()
    holder("enter('db', limit=2)")
    large.begin("enter('db', occupy=2)")
    wait_until(lambda: in_line(own_store) == 1)
    assert "TimeoutError" in small("failure(enter, 'db', timeout_seconds=0)")
    small.begin("enter('db')")
    wait_until(lambda: in_line(own_store) == 2)
    holder("leave()")
    large.answer()
    assert in_line(own_store) == 1
    large("leave()")
    small.answer()


def test_the_next_one_is_in_soon(start: Callable[[], Process], own_store: Path) -> None:
    one, other = start(), start()
    one("enter('db', limit=1)")
    took = []
    for _ in range(10):
        other.begin("enter('db')")
        wait_until(lambda: in_line(own_store) == 1)
        threading.Event().wait(0.05)  # so that it looks as rarely as it ever does
        left = one("leave()")
        took.append(other.answer() - left)
        one, other = other, one
    assert statistics.median(took) < 0.05, took
    assert max(took) < 0.5, took


# --- deaths ---


def test_a_death_gives_back(start: Callable[[], Process], own_store: Path) -> None:
    holder, waiter = start(), start()
    holder("enter('db', limit=1)")
    waiter.begin("enter('db')")
    wait_until(lambda: in_line(own_store) == 1)
    killed = monotonic()
    holder.kill()
    assert waiter.answer() - killed < 0.5
    waiter.kill()
    with concurrency("db", timeout_seconds=0):
        pass  # nobody is waited for, though nobody has been here since


def test_a_death_in_line_lets_the_next_one_pass(start: Callable[[], Process], own_store: Path) -> None:
    holder, first, second = start(), start(), start()
    holder("enter('db', limit=1)")
    for number, waiter in enumerate((first, second)):
        waiter.begin("enter('db')")
        wait_until(lambda number=number: in_line(own_store) == number + 1)  # type: ignore[misc]
    first.kill()
    left = holder("leave()")
    assert second.answer() - left < 0.5


def test_deaths_at_any_moment(start: Callable[[], Process], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    chance = random.Random(7)
    processes = [start() for _ in range(3)]
    for process in processes:
        process("1")
        process.begin(f"come_and_go({str(path)!r}, 10**9, 'db', limit=2)")
    for _ in range(12):
        threading.Event().wait(chance.uniform(0.005, 0.03))
        victim = processes.pop(0)
        with path.open("a") as file:
            file.write(f"x {victim.pid}\n")
        victim.kill()
        processes.append(start())
        processes[-1].begin(f"come_and_go({str(path)!r}, 10**9, 'db', limit=2)")
    size = path.stat().st_size
    wait_until(lambda: path.stat().st_size > size + 2000)  # they still come and go
    assert most_at_once(path) == 2  # before they are killed: their deaths are not in the log
    for process in processes:
        process.kill()
    with concurrency("db", 2, timeout_seconds=0):
        pass


def test_a_stopped_holder_keeps_what_it_has(start: Callable[[], Process], own_store: Path) -> None:
    holder = start()
    holder("enter('db', limit=1)")
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError), concurrency("db", timeout_seconds=0.2):
        pass
    os.kill(holder.pid, signal.SIGCONT)
    holder("leave()")
    with concurrency("db", timeout_seconds=5):
        pass


def is_stopped(pid: int) -> bool:
    """Every thread of it."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def test_who_is_stopped_in_line_is_passed_over_and_has_its_turn_later(
    start: Callable[[], Process], own_store: Path
) -> None:
    holder, sleeper = start(), start()
    holder("enter('db', limit=1)")
    sleeper.begin("enter('db')")
    wait_until(lambda: in_line(own_store) == 1)
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(sleeper.pid))  # it might have its turn before the signal arrives
    holder("leave()")
    with concurrency("db", timeout_seconds=20):
        os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.answer()


def test_a_forked_child_keeps_nothing(start: Callable[[], Process], own_store: Path) -> None:
    holder = start()
    holder("enter('db', limit=1)")
    child = holder("os.fork() or threading.Event().wait()")
    try:
        holder.kill()
        with concurrency("db", timeout_seconds=5):
            pass
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_of_a_process_that_dies_while_it_looks_blocks_nobody(start: Callable[[], Process]) -> None:
    looking, other = start(), start()
    looking("enter('db', limit=1)")
    child = looking("(limits.of()._ledger.lock(), os.fork() or threading.Event().wait())[1]")
    try:
        looking.kill()
        other("enter('db', timeout_seconds=5)")
    finally:
        os.kill(child, signal.SIGKILL)


# --- definitions ---


def test_what_one_process_defines_holds_for_all(start: Callable[[], Process], own_store: Path) -> None:
    one, other = start(), start()
    assert "No concurrency limit is defined for 'db'" in one("failure(enter, 'db', strict=True)")
    other("set_limit('db', 1)")
    one("enter('db', strict=True)")
    other.begin("enter('db')")
    wait_until(lambda: in_line(own_store) == 1)
    one("set_limit('db', 2)")
    other.answer()
    other("set_limit('db', None)")
    assert "No concurrency limit is defined for 'db'" in one("failure(enter, 'db', strict=True)")


def test_who_waits_for_more_than_there_is_now_hears_of_it(start: Callable[[], Process], own_store: Path) -> None:
    one, other = start(), start()
    one("enter('db', limit=2)")
    other.begin("failure(enter, 'db', occupy=2)")
    wait_until(lambda: in_line(own_store) == 1)
    one("set_limit('db', 1)")
    assert "ValueError: occupy=2 is more than the limit 'db' allows (1)" in other.answer()


def test_whoever_waits_in_vain_hears_who_has_it(start: Callable[[], Process], own_store: Path) -> None:
    holder = start()
    holder("enter('db', limit=1)")
    with pytest.raises(TimeoutError) as caught, concurrency("db", timeout_seconds=0.05):
        pass
    assert f"'db' (1 of 1 slots taken, held by thread 'MainThread' in process {holder.pid})" in str(caught.value)


@pytest.mark.parametrize("name", ["tag:x", "a/b", "..", "A", "ä\0", "x" * 5000, "\udc80"])
def test_any_name_will_do(name: str, start: Callable[[], Process], own_store: Path) -> None:
    process = start()
    process(f"enter({name!r}, limit=1)")
    with pytest.raises(TimeoutError), concurrency(name, timeout_seconds=0, strict=True):
        pass
    assert {path.parent for path in own_store.rglob("*") if path.is_file()} == {
        own_store / "limits",
        own_store / "owners",
    }


def test_a_store_is_one_whatever_it_is_called(own_store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own_store)
    with concurrency("db", limit=1):
        for name in (f"{own_store}/", f"{tmp_path}/./{own_store.name}", str(tmp_path / "link")):
            with temporary_settings({"home": name}), pytest.raises(TimeoutError), concurrency("db", timeout_seconds=0):
                pass


def test_stores_have_limits_of_their_own(tmp_path: Path) -> None:
    with concurrency("db", limit=1), temporary_settings({"home": tmp_path / "another"}):
        with concurrency("db", limit=1, timeout_seconds=0):
            pass
        with pytest.raises(ConfigurationError), concurrency("other", strict=True):
            pass


def test_names_that_differ_in_case_are_different(own_store: Path) -> None:
    with concurrency("db", limit=1), concurrency("DB", limit=1, timeout_seconds=0):
        pass


def test_files_are_private(own_store: Path) -> None:
    set_limit("db", 1)
    (own_store / "limits").stat()
    assert (own_store / "limits").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (own_store / "limits").iterdir()} == {0o600}


# --- rates ---


def test_a_rate_holds_for_all_together(start: Callable[[], Process]) -> None:
    processes = [start() for _ in range(3)]
    for process in processes:
        process.begin("passes(6, 'api', per_second=50)")
    moments = sorted(moment for process in processes for moment in process.answer())
    assert len(moments) == 18
    assert moments[-1] - moments[0] >= 17 / 50 - 0.02
    assert moments[-1] - moments[0] < 3


def test_a_rate_of_before_the_machine_was_started_is_forgotten(own_store: Path) -> None:
    rate_limit("api", per_second=0.001)
    penstock._engine.shutdown()
    book = Leases(str(own_store))
    sheet = book.sheet("rate", "api", create=False)
    assert sheet is not None
    book.lock()
    sheet.load()
    sheet.pay(monotonic() + 10_000, monotonic() + 9000)
    book.unlock()
    book.rest()
    limits._tables.clear()
    rate_limit("api", per_second=0.001, timeout_seconds=0)


# --- runs ---

SCRIPT = """
import os, sys, time
from penstock import concurrency, flow, task
from penstock.concurrency import set_limit
from penstock.task_runners import ProcessPoolTaskRunner

def inside(path):
    for sign in "+-":
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{sign} {os.getpid()}\\n".encode())
        os.close(file)
        time.sleep(0.003)

@task(tags=["db"])
def tagged(path):
    inside(path)

@task
def within(path):
    with concurrency("inner", limit=1):
        inside(path)

@flow
def tags(path):
    set_limit("tag:db", 1)
    tagged.map([path] * 10).result()

@flow(task_runner=ProcessPoolTaskRunner(3))
def bodies(path):
    within.map([path] * 12).result()

globals()[sys.argv[1]](sys.argv[2])
"""


@pytest.mark.parametrize(("what", "programs"), [("tags", 2), ("bodies", 1), ("bodies", 2)])
def test_runs_keep_to_limits_wherever_they_are_executed(what: str, programs: int, tmp_path: Path) -> None:
    path, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with ExitStack() as stack:
        command = [sys.executable, str(script), what, str(path)]
        started = [stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE)) for _ in range(programs)]
        for program in started:
            _, said = program.communicate(timeout=50)
            assert program.returncode == 0, said.decode()[-2000:]
    lines = path.read_text().splitlines()
    assert len(lines) == programs * (20 if what == "tags" else 24)
    assert most_at_once(path) == 1
    assert len({line.split()[1] for line in lines}) > (1 if programs > 1 else 0)


# --- trouble ---


def test_limits_hold_here_if_the_files_cannot_be_had(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_store.mkdir()
    (own_store / "limits").write_text("a file in the place of the directory")
    for _ in range(2):
        with concurrency("db", limit=1), pytest.raises(TimeoutError), concurrency("db", timeout_seconds=0):
            pass
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage().startswith("Limits hold in this process only")


def test_files_that_are_deleted_are_made_again(start: Callable[[], Process], own_store: Path) -> None:
    other = start()
    other("enter('db', limit=1)")
    shutil.rmtree(own_store)
    other("(time.sleep(0.06), leave(), enter('db'))[0]")
    with pytest.raises(TimeoutError), concurrency("db", timeout_seconds=0, strict=True):
        pass
    other("leave()")
    with concurrency("db", timeout_seconds=0, strict=True):
        pass


@pytest.mark.parametrize("seed", range(30))
def test_damage_blocks_nobody_for_ever(seed: int, own_store: Path) -> None:
    with concurrency("db", limit=1):
        pass
    path = own_store / "limits" / "slots-db"
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for place in range(256 * (seed % 2), len(content)):
        content[place] = chance.randrange(256)
    content[:8] = content[:8] if seed % 3 else b"limit 1\n"
    path.write_bytes(content[: chance.randrange(len(content) + 1)])
    with concurrency("db", limit=1, timeout_seconds=5):
        pass


def test_interrupts_leave_nothing_locked_and_nothing_held(own_store: Path) -> None:
    set_limit("db", 1)
    lock = os.open(own_store / "limits" / "lock", os.O_RDWR)
    clock = ManualClock()

    def scenario() -> None:
        with concurrency("db"):
            pass

    with clocks.use(clock):
        for line in range(1, 3000):
            strike = Strike(line)
            with suppress(KeyboardInterrupt), tracing(strike):
                scenario()
            if strike.where is None:
                break
            clock.advance(0)  # where a dropped lease gives back what it holds
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert sum(row.held + row.ticket for row in rows(own_store, "db")) == 0, strike.where
        else:
            pytest.fail("the scenario does not come to an end")
    os.close(lock)
    assert line > 100  # the interrupts did strike


def test_a_process_that_rests_and_comes_back_is_another_one(own_store: Path, start: Callable[[], Process]) -> None:
    held = ExitStack()
    held.enter_context(concurrency("db", limit=1))
    penstock._engine.shutdown()
    assert owners.tokens(own_store) == []
    other = start()
    other("enter('db', timeout_seconds=0)")  # who is shut down holds nothing
    other("leave()")
    held.close()
    with concurrency("db", timeout_seconds=0):
        assert "TimeoutError" in other("failure(enter, 'db', timeout_seconds=0)")
