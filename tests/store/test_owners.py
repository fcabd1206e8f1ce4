"""Who is alive: real processes that are killed, stopped, forked, and looked at by several others at once."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from obedient import Process, start_processes, wait_until
from penstock.store import owners

STRANGER = "0123456789abcdef" * 2


@pytest.fixture
def start() -> Iterator[Callable[[], Process]]:
    with start_processes("from penstock.store import owners") as start:
        yield start


def own(process: Process, home: Path) -> str:
    return str(process(f"owners.own({str(home)!r})"))


def work_for(process: Process, ties: tuple[owners.Tie, ...]) -> None:
    process(f"owners.join([owners.Tie(*tie) for tie in {[tuple(tie) for tie in ties]}])")


def ties_of(process: Process) -> tuple[owners.Tie, ...]:
    return tuple(owners.Tie(*tie) for tie in process("[tuple(tie) for tie in owners.ties()]"))


@pytest.fixture(autouse=True)
def nothing_owned(no_leaks: None) -> Iterator[None]:
    yield
    owners.disown_all()
    owners.leave([tie for tie, lock in list(owners._joined.items()) for _ in range(lock.users)])


def path_of(home: Path, token: str) -> Path:
    return home / "owners" / token


# --- owning ---


def test_the_file_is_private_and_tells_people_whose_it_is(tmp_path: Path) -> None:
    token = owners.own(tmp_path / "home")
    path = path_of(tmp_path / "home", token)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    noted = json.loads(path.read_text())
    assert (noted["host"], noted["pid"]) == (os.uname().nodename, os.getpid())
    assert owners.facts(tmp_path / "home", token) == (noted["host"], noted["pid"], noted["started"])


def test_a_process_has_one_token_for_each_store(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: owners.own(tmp_path / "a"), range(64)))
    assert len(tokens) == 1
    assert owners.own(str(tmp_path / "a")) in tokens
    assert owners.own(tmp_path / "b") not in tokens
    assert owners.tokens(tmp_path / "a") == [*tokens]


def test_disowning_removes_the_file_and_the_next_token_is_another(tmp_path: Path) -> None:
    token = owners.own(tmp_path)
    owners.disown(tmp_path)
    owners.disown(tmp_path)
    assert owners.tokens(tmp_path) == []
    assert not owners.is_alive(tmp_path, token)
    assert owners.own(tmp_path) != token


def test_an_owner_whose_file_was_deleted_makes_it_again(tmp_path: Path, start: Callable[[], Process]) -> None:
    token = owners.own(tmp_path)
    path_of(tmp_path, token).unlink()
    other = start()
    assert other(f"owners.is_alive({str(tmp_path)!r}, {token!r})") is False
    assert owners.own(tmp_path) == token
    assert other(f"owners.is_alive({str(tmp_path)!r}, {token!r})") is True


def test_no_file_no_token(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the place of the directory")
    with pytest.raises(OSError, match="home"):
        owners.own(tmp_path / "home")


# --- living and dying ---


def test_a_process_is_dead_from_the_moment_that_it_is_killed(tmp_path: Path, start: Callable[[], Process]) -> None:
    process = start()
    token = own(process, tmp_path)
    assert owners.is_alive(tmp_path, token)
    process.kill()
    assert not owners.is_alive(tmp_path, token)
    assert owners.tokens(tmp_path) == [token], "looking changes nothing"


def test_a_stopped_process_lives(tmp_path: Path, start: Callable[[], Process]) -> None:
    process = start()
    token = own(process, tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: _state(process.pid) == "T")
    assert owners.is_alive(tmp_path, token)
    with owners.bury(tmp_path, token) as dead:
        assert not dead
    os.kill(process.pid, signal.SIGCONT)
    assert process(f"owners.own({str(tmp_path)!r})") == token
    assert owners.is_alive(tmp_path, token)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_clean_end_removes_the_file(tmp_path: Path, start: Callable[[], Process]) -> None:
    process = start()
    own(process, tmp_path)
    process.end()
    assert owners.tokens(tmp_path) == []


def test_an_owner_replaced_by_another_program_is_dead(tmp_path: Path, start: Callable[[], Process]) -> None:
    process = start()
    token = own(process, tmp_path)
    process.begin("os.execv('/bin/sleep', ['sleep', '60'])")
    wait_until(lambda: not owners.is_alive(tmp_path, token))


@pytest.mark.parametrize(
    "child",
    [
        "subprocess.Popen(['sleep', '60']).pid",
        "subprocess.Popen(['sleep', '60'], close_fds=False).pid",
        "os.fork() or os.execv('/bin/sleep', ['sleep', '60'])",
        "os.fork() or threading.Event().wait()",
        "(c := multiprocessing.get_context('fork').Process(target=threading.Event().wait), c.start(), c.pid)[2]",
    ],
)
@pytest.mark.parametrize("works", [False, True], ids=["of an owner", "of a worker"])
def test_children_keep_nobody_alive(child: str, works: bool, tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = process = start()
    token = own(owner, tmp_path)
    if works:
        process = start()
        work_for(process, ties_of(owner))
    pid = process(child)
    try:
        owner.kill()
        process.kill()
        wait_until(lambda: not owners.is_alive(tmp_path, token))  # a forked child may not have had its first turn yet
        os.kill(pid, 0)  # it lives
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_forked_child_is_a_process_of_its_own(tmp_path: Path) -> None:
    token = owners.own(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, owners.own(tmp_path).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        other = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert len(other) == 32 and other != token
    assert not owners.is_alive(tmp_path, other)
    assert path_of(tmp_path, token).exists()


# --- workers ---


def test_an_owner_lives_on_in_its_workers(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner, worker, nested = start(), start(), start()
    token = own(owner, tmp_path)
    work_for(worker, ties_of(owner))
    work_for(nested, ties_of(worker))
    owner.kill()
    assert owners.is_alive(tmp_path, token)
    worker.kill()
    with owners.bury(tmp_path, token) as dead:
        assert not dead, "a worker's worker works for it, too"
    nested.kill()
    assert not owners.is_alive(tmp_path, token)


def test_a_clean_end_leaves_the_file_to_a_worker(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner, worker = start(), start()
    token = own(owner, tmp_path)
    work_for(worker, ties_of(owner))
    owner.end()
    assert owners.is_alive(tmp_path, token)
    worker.end()
    assert not owners.is_alive(tmp_path, token)


def test_nobody_can_work_for_an_owner_that_was_buried(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = start()
    token, ties = own(owner, tmp_path), ties_of(owner)
    owner.kill()
    with owners.bury(tmp_path, token) as dead:
        assert dead
        with pytest.raises(owners.OwnerGone):
            owners.join(ties)
    with pytest.raises(owners.OwnerGone):
        owners.join(ties)


def test_who_cannot_work_for_one_owner_works_for_none(tmp_path: Path, start: Callable[[], Process]) -> None:
    dead, living = start(), start()
    own(living, tmp_path)
    own(dead, tmp_path)
    good, bad = ties_of(living), ties_of(dead)
    dead.end()
    with pytest.raises(owners.OwnerGone):
        owners.join([*good, *bad])
    assert owners._joined == {}


@pytest.mark.parametrize("elsewhere", ["machine", "directory", "place"])
def test_elsewhere_there_is_no_file_to_hold(elsewhere: str, tmp_path: Path) -> None:
    owners.own(tmp_path)
    (tie,) = owners.ties()
    other = {"machine": "another", "directory": str(tmp_path / "none"), "place": (1, 2)}[elsewhere]
    with owners.joined([tie._replace(**{elsewhere: other}, token=STRANGER)]):
        assert owners._joined == {}


def test_joining_is_counted(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = start()
    token, ties = own(owner, tmp_path), ties_of(owner)
    with owners.joined(ties):
        owners.join(ties)
        assert owners.worked_for() == str(tmp_path)
    owner.kill()
    look = f"owners.is_alive({str(tmp_path)!r}, {token!r})"
    other = start()
    assert other(look) is True
    owners.leave(ties)
    assert other(look) is False


# --- looking and burying ---


def test_a_dead_owner_is_buried_once_and_whoever_comes_second_waits(
    tmp_path: Path, start: Callable[[], Process]
) -> None:
    owner = start()
    token = own(owner, tmp_path)
    owner.kill()
    corrected: list[int] = []
    together = threading.Barrier(8)

    def look(number: int) -> bool:
        together.wait()
        assert not owners.is_alive(tmp_path, token)
        with owners.bury(tmp_path, token) as dead:
            if dead:
                threading.Event().wait(0.02)  # so that the others come meanwhile
                corrected.append(number)
        return bool(corrected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(8))), "nobody goes on before the record is right"
    assert len(corrected) == 1
    assert owners.tokens(tmp_path) == []


def test_those_who_look_do_not_take_each_other_for_the_owner(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = start()
    token = own(owner, tmp_path)
    owner.kill()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: owners.is_alive(tmp_path, token), range(4000)))


def test_a_burial_that_fails_is_for_the_next_one(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = start()
    token = own(owner, tmp_path)
    owner.kill()
    with pytest.raises(ZeroDivisionError), owners.bury(tmp_path, token):
        raise ZeroDivisionError
    assert owners.tokens(tmp_path) == [token]
    with owners.bury(tmp_path, token) as dead:
        assert dead
    assert owners.tokens(tmp_path) == []


def test_an_owner_without_a_file_is_buried_like_any_other(tmp_path: Path) -> None:
    assert not owners.is_alive(tmp_path, STRANGER)
    with owners.bury(tmp_path, STRANGER) as dead:
        assert dead
    assert owners.tokens(tmp_path) == []


def test_a_killed_undertaker_is_succeeded(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner, undertaker = start(), start()
    token = own(owner, tmp_path)
    owner.kill()
    undertaker(
        f"(burial := owners.bury({str(tmp_path)!r}, {token!r}), globals().update(b=burial), burial.__enter__())[2]"
    )
    assert not owners.is_alive(tmp_path, token), "in burial is not alive"
    undertaker.kill()
    with owners.bury(tmp_path, token) as dead:
        assert dead


def test_a_stopped_undertaker_is_not_waited_for_for_ever(
    tmp_path: Path, start: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_BURIAL", 0.05)
    owner, undertaker = start(), start()
    token = own(owner, tmp_path)
    owner.kill()
    undertaker(
        f"(burial := owners.bury({str(tmp_path)!r}, {token!r}), globals().update(b=burial), burial.__enter__())[2]"
    )
    with owners.bury(tmp_path, token) as dead:
        assert not dead
    assert not owners.is_alive(tmp_path, token)


@pytest.mark.parametrize("name", ["", "../x", "../../etc/passwd", STRANGER[:-1], STRANGER.upper(), "lock"])
def test_what_is_no_token_is_not_touched(name: str, tmp_path: Path) -> None:
    owners.own(tmp_path)
    assert owners.is_alive(tmp_path, name)
    with owners.bury(tmp_path, name) as dead:
        assert not dead


def test_a_damaged_file_tells_nothing_and_counts_all_the_same(tmp_path: Path, start: Callable[[], Process]) -> None:
    owner = start()
    token = own(owner, tmp_path)
    path_of(tmp_path, token).write_bytes(b"\xff{")
    assert owners.facts(tmp_path, token) is None
    assert owners.is_alive(tmp_path, token)
    owner.kill()
    assert not owners.is_alive(tmp_path, token)
