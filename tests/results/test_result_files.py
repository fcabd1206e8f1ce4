"""Files of values: whole or not there, plain files only, and nobody else's to read."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.exceptions import ResultCorrupt
from penstock.results import files

BAD_NAMES = ["", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a/.", "a\0b"]


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("name", ["value", "a/b/value"])
def test_written_and_read(tmp_path: Path, name: str, durable: bool) -> None:
    directory = tmp_path / "deep" / "down"
    for data in (b"", b"first", b"x" * 3_000_000):
        files.write(directory, name, data, durable=durable)
        assert files.read(directory, name) == data
    assert names(directory) == [name]
    assert files.exists(directory, name)
    files.remove(directory, name)
    files.remove(directory, name)
    assert not files.exists(directory, name)
    with pytest.raises(FileNotFoundError):
        files.read(directory, name)
    with pytest.raises(FileNotFoundError):
        files.read(directory / "not", name)


def test_modes(tmp_path: Path, umask: int) -> None:
    files.write(tmp_path / "results" / "large", "a/value", b"data", durable=False)
    assert mode(tmp_path / "results" / "large" / "a" / "value") == 0o600
    for directory in ("results", "results/large", "results/large/a"):
        assert mode(tmp_path / directory) == 0o700


def test_limit(tmp_path: Path) -> None:
    files.write(tmp_path, "value", b"12345", durable=False)
    assert files.read(tmp_path, "value", 5) == b"12345"
    with pytest.raises(ResultCorrupt, match="more than 4 bytes"):
        files.read(tmp_path, "value", 4)


def test_the_beginning_of_a_file(tmp_path: Path) -> None:
    files.write(tmp_path, "a/b", b"12345", durable=False)
    assert [files.beginning(tmp_path, "a/b", size) for size in (0, 3, 5, 9)] == [b"", b"123", b"12345", b"12345"]
    with pytest.raises(FileNotFoundError):
        files.beginning(tmp_path, "c", 3)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    for name in ("link", "../x", "a/b/c"):
        with pytest.raises(ResultCorrupt):
            files.beginning(tmp_path, name, 3)


# --- what is no plain file ---


def as_link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"secret")
    path.symlink_to(path.with_name("elsewhere"))


def as_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def as_device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # endless zeros
    except PermissionError:
        pytest.skip("only root can make devices")


@pytest.mark.parametrize("make", [as_link, as_dangling_link, os.mkfifo, Path.mkdir, as_socket, as_device])
def test_only_plain_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "value")
    with pytest.raises(ResultCorrupt, match="no plain file"):
        files.read(tmp_path, "value")
    assert not files.exists(tmp_path, "value")


@pytest.mark.parametrize("make", [as_link, as_dangling_link, os.mkfifo])
def test_what_is_in_the_way_is_replaced_not_followed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "value")
    files.write(tmp_path, "value", b"data", durable=False)
    assert files.read(tmp_path, "value") == b"data"
    assert not (tmp_path / "nowhere").exists()
    if make is as_link:
        assert (tmp_path / "elsewhere").read_bytes() == b"secret"


def test_a_file_exchanged_for_a_link_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path, "value", b"data", durable=False)
    original = os.open

    def exchange(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "value":
            (tmp_path / "value").unlink()
            as_link(tmp_path / "value")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(OSError) as caught:
        files.read(tmp_path, "value")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("planted", ["link", "file"])
def test_directories_inside_are_not_followed(tmp_path: Path, planted: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "value").write_bytes(b"secret")
    (root / "a").symlink_to(outside) if planted == "link" else (root / "a").write_bytes(b"")
    with pytest.raises(ResultCorrupt, match="directory"):
        files.read(root, "a/value")
    with pytest.raises(OSError):
        files.write(root, "a/new", b"data", durable=False)
    assert not files.exists(root, "a/value")
    assert names(outside) == ["value"]


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    files.write(tmp_path / "link", "value", b"data", durable=True)
    assert files.read(tmp_path / "real", "value") == b"data"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    with pytest.raises(ResultCorrupt, match="leaves the directory"):
        files.read(tmp_path / "results", name)
    for attempt in (
        lambda: files.write(tmp_path / "results", name, b"data", durable=False),
        lambda: files.remove(tmp_path / "results", name),
        lambda: files.exists(tmp_path / "results", name),
    ):
        with pytest.raises(ValueError, match="no name of a file"):
            attempt()
    assert names(tmp_path) == ["x"]


# --- disks that fail ---


class Trouble:
    """Has the n-th call of one of the functions that writing needs fail, having done nothing or half of its work."""

    CALLS = ("mkdir", "open", "write", "fsync", "close", "rename")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self._fail_at = -1
        self._errno = 0
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def plan(self, at: int, number: int) -> None:
        self.made, self._fail_at, self._errno = [], at, number

    def _counted(self, name: str, original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.made.append(name)
            if len(self.made) - 1 != self._fail_at:
                return original(args[0], args[1][:1000]) if name == "write" else original(*args, **kwargs)
            if name == "write":
                original(args[0], args[1][:100])  # half of it is there
            if name == "close":
                original(*args)  # it is closed all the same
            raise OSError(self._errno, os.strerror(self._errno))

        return counted


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("durable", [False, True])
def test_each_call_fails_in_turn(tmp_path: Path, durable: bool, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = b"old" * 1000, b"newer" * 1000
    failed: set[str] = set()
    with monkeypatch.context() as patch:
        trouble = Trouble(patch)
        for at in range(1000):
            root = tmp_path / str(at)
            if at % 2 == 0:
                trouble.plan(-1, 0)
                files.write(root, "a/value", old, durable=durable)
            trouble.plan(at // 2, number)
            try:
                files.write(root, "a/value", new, durable=durable)
            except OSError as error:
                assert error.errno == number
                failed.add(trouble.made[at // 2])
            else:
                assert len(trouble.made) <= at // 2  # the plan went further than the calls
                break
            renamed = "rename" in trouble.made[: at // 2]
            trouble.plan(-1, 0)
            found = files.read(root, "a/value") if files.exists(root, "a/value") else None
            assert found == (new if renamed else old if at % 2 == 0 else None)
            assert [name for name in names(root) if name != "a/value"] == []
    wanted = set(Trouble.CALLS) if durable else set(Trouble.CALLS) - {"fsync"}
    assert failed == wanted


def test_a_failed_fsync_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fail(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        files.write(tmp_path, "value", b"data", durable=True)
    assert len(tried) == 1
    assert names(tmp_path) == []


def test_what_is_durable_is_synced_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    original = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files.write(tmp_path / "a", "b/value", b"data", durable=False)
    assert synced == []
    files.write(tmp_path / "c", "d/value", b"data", durable=True)
    *directories, file, last = synced
    # Each new directory is in the one above it, then the file, then its name.
    assert directories == [str(tmp_path), str(tmp_path / "c")]
    assert Path(file).name.startswith(files.TEMPORARY) and last == str(tmp_path / "c" / "d")


# --- leftovers ---

WRITER = """
import os, sys
from penstock.results import files
original = os.write
def stop(descriptor, data):
    original(descriptor, data[:10])
    print("writing", flush=True)
    sys.stdin.read()
os.write = stop
files.write(sys.argv[1], "value", b"x" * 100, durable=False)
"""


def test_leftovers_are_those_of_the_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        (name,) = names(tmp_path)
        os.utime(tmp_path / name, (1, 1))
        assert not files.is_leftover(tmp_path, name)  # old, but it is still being written
        writer.send_signal(signal.SIGKILL)
    assert files.is_leftover(tmp_path, name)
    assert not files.exists(tmp_path, "value")
    os.utime(tmp_path / name)
    assert not files.is_leftover(tmp_path, name)  # too young to be told from one that is about to be locked
    files.remove(tmp_path, name)
    assert not files.is_leftover(tmp_path, name)


def test_values_are_no_leftovers(tmp_path: Path) -> None:
    files.write(tmp_path, "value", b"data", durable=False)
    os.utime(tmp_path / "value", (1, 1))
    (tmp_path / f"{files.TEMPORARY}link").symlink_to("value")
    assert not files.is_leftover(tmp_path, "value")
    assert not files.is_leftover(tmp_path, f"{files.TEMPORARY}link")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    files.write(tmp_path, "value", b"data", durable=False)
    assert files.read(tmp_path, "value") == b"data"
    (tmp_path / f"{files.TEMPORARY}1").touch()
    os.utime(tmp_path / f"{files.TEMPORARY}1", (1, 1))
    assert not files.is_leftover(tmp_path, f"{files.TEMPORARY}1")
