"""What the style sheet of the dashboard owes to those who see colours badly, or differently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from browser import contrast

SHEET = (Path(__file__).parents[2] / "ui" / "src" / "style.css").read_text("utf-8")
COLOURS = {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", SHEET)}
STATES = (
    "completed",
    "cached",
    "running",
    "failed",
    "crashed",
    "blocked",
    "cancelled",
    "waiting",
    "pending",
    "retried",
)


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_each_word_can_be_read(ground: str, theme: int) -> None:
    behind = rgb(COLOURS[ground][theme])
    faint = {
        name: round(contrast(rgb(COLOURS[name][theme]), behind), 2)
        for name in (*STATES, "text", "soft", "link")
        if contrast(rgb(COLOURS[name][theme]), behind) < 4.5
    }
    assert faint == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_each_shape_and_the_edge_of_each_control_can_be_seen(theme: int) -> None:
    for name in ("queued", "edge"):
        assert contrast(rgb(COLOURS[name][theme]), rgb(COLOURS["page"][theme])) >= 3, name


def test_bars_are_told_apart_without_their_colours() -> None:
    looks = {}
    for selectors, declared in re.findall(r"^((?:\.b-\w+(?:, )?)+) \{(.*?)\}", SHEET, re.MULTILINE | re.DOTALL):
        for state in re.findall(r"\.b-(\w+)", selectors):
            looks[state] = re.sub(r"var\(--\w+\)", "COLOUR", " ".join(declared.split()))
    assert {*STATES} <= {*looks}
    seen = [looks[state] for state in STATES if state != "waiting"]  # which is as good as pending
    assert len(set(seen)) == len(seen), looks
