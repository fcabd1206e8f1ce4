"""The lower end of a terminal, character by character, on an emulator; and who is shown anything at all."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pyte
import pytest

from penstock import flow
from penstock.progress import following
from penstock.progress.screen import Screen
from penstock.settings import temporary_settings


class Tty(io.StringIO):
    """A stream that says it is a terminal, with what a person would see on it."""

    encoding = "utf-8"

    def __init__(self, columns: int = 40, rows: int = 12) -> None:
        super().__init__()
        self.emulator = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.emulator)
        self.raw: list[str] = []

    def write(self, text: str, /) -> int:
        self.raw.append(text)
        self._stream.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
        return len(text)

    def isatty(self) -> bool:
        return True

    @property
    def seen(self) -> list[str]:
        lines = [line.rstrip() for line in self.emulator.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


@pytest.fixture
def tty() -> Tty:
    return Tty()


@pytest.fixture
def screen(tty: Tty) -> Iterator[Screen]:
    screen = Screen(tty)
    screen._may_draw_at = -1.0
    screen.open()
    yield screen
    screen.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.progress.screen._LEAST_PAUSE", 0.0)


def test_lines_stay_below_what_is_written(tty: Tty, screen: Screen, patient: None) -> None:
    screen.show(["one", "two"])
    assert tty.seen == ["", "one", "two"]
    print("hello", file=tty)
    assert tty.seen == ["hello", "", "one", "two"]
    screen.show(["three"])
    tty.writelines(["a\n", "b\n"])
    assert tty.seen == ["hello", "a", "b", "", "three"]
    screen.close()
    print("bye", file=tty)
    assert tty.seen == ["hello", "a", "b", "bye"]


def test_at_the_lower_end_of_the_terminal(tty: Tty, screen: Screen, patient: None) -> None:
    screen.show(["one", "two"])
    for n in range(30):
        print("line", n, file=tty)
    assert tty.seen == [*(f"line {n}" for n in range(22, 30)), "", "one", "two"]


def test_the_last_character_of_a_full_line_is_there(tty: Tty, screen: Screen) -> None:
    """A terminal that has filled a line has its cursor on the last character: clearing from there would take that."""
    screen.show(["x" * 40, "y" * 40])
    assert tty.seen == ["", "x" * 40, "y" * 40]
    assert not re.search(r"[xy]\x1b\[[JK]", "".join(tty.raw))


def test_a_line_that_is_too_wide_does_no_harm(tty: Tty, screen: Screen, patient: None) -> None:
    screen.show(["x" * 60, "y"])
    print("hello", file=tty)
    assert [line[:3] for line in tty.seen] == ["hel", "", "xxx", "y"]


@pytest.mark.parametrize(
    "texts",
    [
        ["a prompt: "],
        ["\r 10%", "\r 20%"],
        ["\x1b[1A"],
        ["\x1b[2K\x1b[1Gframe\nlast line"],
        ["half", " a line"],
    ],
    ids=repr,
)
def test_nothing_is_drawn_below_an_unfinished_line(tty: Tty, screen: Screen, patient: None, texts: list[str]) -> None:
    screen.show(["one"])
    for text in texts:
        tty.write(text)
        assert "one" not in tty.seen
    screen.show(["two"])
    assert "two" not in tty.seen
    tty.write("done\n")
    assert tty.seen[-2:] == ["", "two"]


@pytest.mark.parametrize(
    "text",
    ["line\n", "\r     \r", "\x1b[1A\x1b[2K", "line\n\x1b[0m", "line\x1b[0m\n\x1b[?25h", "\r\x1b[2K", "\r\n"],
    ids=repr,
)
def test_ends_of_lines(tty: Tty, screen: Screen, patient: None, text: str) -> None:
    screen.show(["one"])
    tty.write(text)
    assert tty.seen[-1] == "one"


def test_a_flood_of_lines_is_not_slowed(tty: Tty, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("penstock.progress.screen.time.monotonic", lambda: now[0])
    screen.show(["one"])
    for n in range(1_000):
        tty.write(f"{n}\n")
    assert "".join(tty.raw).count("one") == 2
    now[0] += 1
    tty.write("last\n")
    assert tty.seen[-3:] == ["last", "", "one"]


def test_lines_that_stay(tty: Tty, screen: Screen) -> None:
    screen.show(["one", "two"])
    screen.leave(["for good"])
    assert tty.seen == ["for good", "", "one", "two"]
    tty.write("half")
    screen.leave(["another"])
    assert tty.seen == ["for good", "half", "another", "", "one", "two"]


def test_what_is_no_text_is_refused_as_ever(tty: Tty, screen: Screen) -> None:
    screen.show(["one"])
    with pytest.raises(AttributeError):
        tty.write(7)  # type: ignore[arg-type]
    assert tty.write("abc") == 3
    assert tty.write("") == 0


def test_names_that_cannot_be_encoded(tty: Tty, screen: Screen) -> None:
    tty.encoding = "latin-1"
    screen.show(["für 取"])
    assert tty.seen == ["", "für ?"]
    assert screen.plain
    tty.encoding = "utf-8"
    assert not screen.plain


def test_a_stream_that_fails_is_left_alone(tty: Tty) -> None:
    screen = Screen(tty)

    def fail(text: str, /) -> int:
        raise OSError("gone")

    screen._write = fail
    screen.open()
    screen.show(["one"])
    assert vars(tty).get("write") is None
    print("still works", file=tty)
    screen.show(["two"])
    screen.leave(["three"])
    screen.close()


def test_somebody_who_wraps_it_again_keeps_what_he_has(tty: Tty, screen: Screen) -> None:
    ours = tty.write
    said: list[str] = []

    def theirs(text: str, /) -> int:
        said.append(text)
        return ours(text)

    tty.write = theirs  # type: ignore[method-assign]
    screen.show(["one"])
    screen.close()
    assert tty.write is theirs
    tty.write("x\n")
    assert (said, tty.seen) == (["x\n"], ["x"])
    del tty.write


def test_streams_whose_attributes_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(Tty):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "write":
                raise AttributeError(name)
            super().__setattr__(name, value)

    tty = Fixed()
    screen = Screen(tty)
    screen.open()
    screen.show(["one"])
    assert tty.seen == []
    screen.leave(["for good"])
    screen.close()
    assert tty.seen == ["for good"]


def test_without_a_size_it_is_80_by_24(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert screen.size() == (80, 21)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert screen.size() == (80, 21)
    monkeypatch.setattr(Tty, "fileno", lambda _: 1)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((132, 2)))
    assert screen.size() == (132, 1)


# --- who is shown anything --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "terminal", "environment", "view"),
    [
        ("auto", True, {}, "Pictures"),
        ("auto", True, {"CI": "true"}, "LogLines"),
        ("auto", True, {"TERM": "dumb"}, "LogLines"),
        ("auto", True, {"TERM": ""}, "LogLines"),
        ("auto", False, {}, "LogLines"),
        ("on", True, {"CI": "1"}, "Pictures"),
        ("on", True, {"TERM": "dumb"}, "LogLines"),
        ("on", False, {}, "LogLines"),
    ],
)
def test_who_follows(
    monkeypatch: pytest.MonkeyPatch, mode: str, terminal: bool, environment: dict[str, str], view: str
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Tty() if terminal else io.StringIO())
    found: Any = following.spectator(mode)
    assert type(found._view).__name__ == view


class Writer:
    """What some programs put in the place of standard error."""

    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...


@pytest.mark.parametrize("stream", [None, io.StringIO(), Writer()], ids=["none", "closed", "odd"])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_without_a_proper_standard_error(monkeypatch: pytest.MonkeyPatch, stream: Any, mode: str) -> None:
    if isinstance(stream, io.StringIO):
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with temporary_settings({"progress": mode}):
        assert flow(lambda: 7)() == 7
    following.stop()
