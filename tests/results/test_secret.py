"""The key that values are sealed with: made once, complete or not there, and only its owner's."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.exceptions import ConfigurationError
from penstock.results.files import TEMPORARY
from penstock.results.secret import NAME, secret_of

RACER = """
import sys
from penstock.results.secret import secret_of
print("ready", flush=True)
sys.stdin.readline()
print(secret_of(sys.argv[1]).hex())
"""


def test_made_once_and_then_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home"
    secret = secret_of(home)
    assert len(secret) == 32
    assert secret_of(home) == secret == (home / NAME).read_bytes()
    assert secret_of(tmp_path / "other") != secret
    assert os.listdir(home) == [NAME]


def test_another_path(tmp_path: Path) -> None:
    place = tmp_path / "keys" / "mine"
    assert secret_of(tmp_path / "home", place) == place.read_bytes()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_modes(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        secret_of(tmp_path / "home")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / NAME).stat().st_mode) == 0o600


def test_processes_racing_get_the_same_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER]
    for number in range(2):
        home = tmp_path / str(number)
        racers = [
            subprocess.Popen([*command, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        found = {racer.communicate()[0].strip() for racer in racers}
        assert found == {(home / NAME).read_bytes().hex()}
        assert os.listdir(home) == [NAME]


def test_the_loser_of_a_race_takes_the_winners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.link

    def be_late(source: Any, target: Any, **kwargs: Any) -> None:
        Path(target).write_bytes(b"w" * 32)
        Path(target).chmod(0o600)
        original(source, target, **kwargs)

    monkeypatch.setattr(os, "link", be_late)
    assert secret_of(tmp_path) == b"w" * 32
    assert os.listdir(tmp_path) == [NAME]


def as_link(place: Path) -> None:
    place.with_name("real").write_bytes(b"k" * 32)
    place.with_name("real").chmod(0o600)
    place.symlink_to("real")


def of_mode(mode: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.write_bytes(b"k" * 32)
        place.chmod(mode)

    make.__name__ = oct(mode)
    return make


def of_size(size: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.write_bytes(b"k" * size)
        place.chmod(0o600)

    make.__name__ = f"size {size}"
    return make


def of_somebody_else(place: Path) -> None:
    of_mode(0o600)(place)
    try:
        os.chown(place, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give files away")


BAD = [as_link, os.mkfifo, Path.mkdir, of_somebody_else]
BAD += [of_size(size) for size in (0, 31, 33, 10_000)]
BAD += [of_mode(mode) for mode in (0o604, 0o640, 0o602, 0o620, 0o601, 0o666)]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_what_is_not_to_be_trusted_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / NAME)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        secret_of(tmp_path)
    assert str(tmp_path / NAME) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_cure_is_named(tmp_path: Path) -> None:
    of_mode(0o644)(tmp_path / NAME)
    with pytest.raises(ConfigurationError, match=r"chmod 600 .* mode 0644.*counts as absent"):
        secret_of(tmp_path)


@pytest.mark.parametrize("name", ["write", "fsync", "close", "link"])
def test_a_failing_disk_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(os, name)

    def fail(*args: Any, **kwargs: Any) -> None:
        if name == "close":
            original(*args)
        raise OSError(errno.ENOSPC, "full")

    home = tmp_path / "home"
    home.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="full"):
            secret_of(home)
    assert os.listdir(home) == []
    assert len(secret_of(home)) == 32


def test_a_short_write_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:10]))
        with pytest.raises(OSError, match="10 of 32"):
            secret_of(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_dead_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}1-00").write_bytes(b"k" * 10)
    assert len(secret_of(tmp_path)) == 32
