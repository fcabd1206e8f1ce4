"""Counts as lines of a terminal, and in words. Nothing here is on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.progress.lines import Picture, lines, painter, printable, rate
from penstock.progress.pace import Pace
from penstock.tallies import ENDS, FATES, Group, clock, counts, duration, fate, in_words, sentence, state_words, total

SOME = {"completed": 9_800, "failed": 3, "running": 8, "waiting": 12, "pending": 177, "retried": 37}


def group(name: str, numbers: Mapping[str, int], *path: str, kind: str = "task") -> Group:
    return Group(name, kind, path, numbers)


def shown(*groups: Group, width: int = 100, height: int = 20, title: str = "etl/brave-otter") -> list[str]:
    return [line.plain for line in lines([Picture(title, 12.34, groups)], width, height)]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_one_line_for_each_task_with_counts_by_state() -> None:
    extract = group("extract", SOME)
    extract.rate, extract.left = 256.3, 27.4
    assert shown(extract) == [
        "etl/brave-otter 12.3 s                          done  running  waiting  failed  retried   rate  left",
        "  extract  ━━━━━━━━━━━━━━━━━━━━━━━━━━─  9,803/10,000        8       12       3       37  256/s  0:27",
    ]
    assert shown(extract, width=60) == [
        "etl/brave-otter …  done  run  wait  fail  retry   rate  left",
        "  extract  9,803/10,000    8    12     3     37  256/s  0:27",
    ]


def test_what_has_nothing_to_say_is_left_out() -> None:
    assert shown(group("load", {"completed": 2})) == [
        "etl/brave-otter 12.3 s                  done",
        f"  load  {'━' * 30}   2/2",
    ]


def test_no_task_yet() -> None:
    assert shown() == ["etl/brave-otter 12.3 s"]


def test_failures_are_seen_in_the_bar_however_few() -> None:
    (_, line) = lines([Picture("etl/x", 1, [group("load", {"completed": 9_999, "failed": 1})])], 100, 10)
    red = [span for span in line.spans if span.style == "red"]
    assert [line.plain[span.start : span.end] for span in red] == ["━"]


def test_names_cannot_move_the_cursor() -> None:
    assert shown(group("a\x1b[2J\nb", {"running": 1}))[1].startswith("  a?[2J?b ")


def test_wide_characters_take_two_cells() -> None:
    two = lines([Picture("f/r", 1, [group("取り出す", {"running": 1}), group("ab", {"running": 1})])], 60, 10)
    assert two[1].cell_len == two[2].cell_len


def test_a_heading_for_each_flow_run() -> None:
    pictures = [Picture("one/a", 1, [group("x", {"running": 1})]), Picture("two/b", 2, [group("y", {"completed": 1})])]
    assert [line.plain.split()[0] for line in lines(pictures, 80, 10)] == ["one/a", "x", "two/b", "y"]


def test_the_most_telling_lines_are_kept() -> None:
    done, failed, going = {"completed": 1}, {"failed": 1}, {"running": 1}
    groups = [group("going", going), group("failed", failed), *(group(f"done{n}", done) for n in range(5))]
    assert [line.split()[0] for line in shown(*groups, height=5)] == [
        "etl/brave-otter",
        "going",
        "failed",
        "done4",
        "and",
    ]
    assert shown(*groups, height=5)[-1] == "  and 4 more"


numbers = st.dictionaries(st.sampled_from([*FATES, "retried"]), st.integers(0, 10**7))
groups = st.builds(
    lambda name, kind, path, numbers: Group(name, kind, path, numbers),
    st.text(max_size=40),
    st.sampled_from(["task", "flow"]),
    st.lists(st.text(max_size=5), max_size=3),
    numbers,
)
pictures = st.builds(Picture, st.text(max_size=60), st.floats(0, 1e7), st.lists(groups, max_size=6))


@given(st.lists(pictures, min_size=1, max_size=3), st.integers(1, 200), st.integers(1, 30), st.booleans())
def test_they_fit_whatever_there_is(several: list[Picture], width: int, height: int, plain: bool) -> None:
    found = lines(several, width, height, plain=plain)
    assert 1 <= len(found) <= height
    assert max(line.cell_len for line in found) <= width
    assert not any("\n" in line.plain for line in found)


def test_what_is_painted_ends_in_no_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    (line,) = lines([Picture("etl/x", 1, [])], 80, 10)
    assert painter()(line) == "\x1b[1metl/x 1.0 s\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in painter()(lines([Picture("etl/x", 1, [group("x", SOME)])], 80, 10)[1])


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (None, ""),
        (0, ""),
        (1_618.2, "1,618/s"),
        (10, "10/s"),
        (2.52, "2.5/s"),
        (1, "1.0/s"),
        (0.4, "24/min"),
        (0.01, "36/h"),
    ],
)
def test_rates(per_second: float | None, text: str) -> None:
    assert rate(per_second) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (27.4, "0:27"), (200, "3:20"), (7_500, "2:05:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_printable_keeps_what_it_can() -> None:
    assert printable("straße 取") == "straße 取"


# --- pace -------------------------------------------------------------------------------------------------------------


def paces(*notes: tuple[float, int], of: int = 1_000) -> tuple[float | None, float | None]:
    """Rate and time left after notes at these moments, with so many done of 1,000."""
    pace, last = Pace(0.0), group("x", {})
    for now, done in notes:
        last = group("x", {"completed": done, "pending": of - done})
        pace.note([last], now)
    return last.rate, last.left


def test_the_rate_is_the_average_at_first() -> None:
    assert paces((2.0, 100)) == (50.0, 18.0)


def test_the_rate_is_that_of_late() -> None:
    assert paces(
        *((float(t), 10 * t) for t in range(1, 31)), *((float(t), 300 + 20 * (t - 30)) for t in range(31, 50))
    ) == (
        20.0,
        (1_000 - 680) / 20.0,
    )


def test_a_few_ends_lately_say_less_than_the_average() -> None:
    assert paces(*((float(t), t // 10) for t in range(1, 101)))[0] == pytest.approx(0.1)


def test_nothing_done_is_no_rate() -> None:
    assert paces((1.0, 0), (2.0, 0)) == (None, None)


def test_what_is_over_keeps_its_rate() -> None:
    assert paces((1.0, 10), (2.0, 20), (60.0, 20), of=20) == (10.0, None)


def test_cached_results_do_not_count_as_speed() -> None:
    pace, one = Pace(0.0), group("x", {"cached": 900, "completed": 10, "pending": 90})
    pace.note([one], 10.0)
    assert (one.rate, one.left) == (1.0, 90.0)


def test_a_group_that_is_new_began_since_the_last_note() -> None:
    pace, late = Pace(0.0), group("late", {"completed": 10, "pending": 10})
    pace.note([], 100.0)
    pace.note([late], 101.0)
    assert late.rate == 10.0


# --- words ------------------------------------------------------------------------------------------------------------

ALL = {"completed": 10, "failed": 1, "crashed": 2, "blocked": 3, "cancelled": 4, "cached": 5, "retried": 6}


def test_the_sentence() -> None:
    groups = [
        group("a", {"completed": 20, "cached": 3, "retried": 2, "failed": 1}),
        group("b", {"completed": 2}, "sub"),
    ]
    assert sentence("etl/brave-otter", "COMPLETED", 4.2, groups, handled=True) == (
        "etl/brave-otter COMPLETED in 4.2 s · 26 task runs (1 failed and handled, 3 cached, 2 retried)"
    )
    assert sentence("etl/brave-otter", "FAILED", None, groups) == (
        "etl/brave-otter FAILED · 26 task runs (1 failed, 3 cached, 2 retried)"
    )
    assert sentence("etl/brave-otter", "COMPLETED", 0.004, []) == "etl/brave-otter COMPLETED in 4 ms"


def test_each_kind_has_its_own_counts() -> None:
    groups = [group("a", {"completed": 1}), group("sub", {"completed": 1, "failed": 1}, kind="flow")]
    assert sentence("f/r", "COMPLETED", 1, groups, handled=True) == (
        "f/r COMPLETED in 1.0 s · 1 task run, 2 subflow runs (1 failed and handled)"
    )


def test_every_word_of_the_sentence() -> None:
    text = counts(group("a", ALL), "task run", handled=True)
    assert text == (
        "25 task runs (1 failed and handled, 2 crashed and handled, 3 blocked, 4 cancelled, 5 cached, 6 retried)"
    )
    earlier = {**ALL, "failed": 3, "failed earlier": 2, "crashed earlier": 2}
    assert counts(group("a", earlier), "task run", handled=True).startswith(
        "27 task runs (1 failed and handled, 2 failed in an earlier attempt, 2 crashed in an earlier attempt, 3 blocked"
    )


def test_runs_that_go_on_are_counted_as_well() -> None:
    assert counts(group("a", SOME), "task run") == ("10,000 task runs (8 running, 12 waiting, 3 failed, 37 retried)")


def test_a_line_of_the_log() -> None:
    extract, load = group("extract", SOME), group("load", {"completed": 2}, "clean")
    extract.left = 27.0
    assert in_words([extract, load]) == (
        "extract 9,803/10,000 (8 running, 12 waiting, 3 failed, 37 retried), 0:27 left; clean/load 2/2"
    )
    assert in_words([]) == "nothing has begun"
    many = [group(f"t{n}", {"completed": 1}) for n in range(12)]
    assert in_words(many).endswith("t7 1/1; and 4 more")


@pytest.mark.parametrize(
    ("status", "state", "expected", "words"),
    [
        ("COMPLETED", "Completed", "completed", "COMPLETED"),
        ("COMPLETED", "Cached", "cached", "COMPLETED (Cached)"),
        ("FAILED", "UpstreamFailed", "blocked", "FAILED (UpstreamFailed)"),
        ("FAILED", "TimedOut", "failed", "FAILED (TimedOut)"),
        ("COMPLETED", "Fancy", "completed", "COMPLETED (Fancy)"),
        ("WAITING", "AwaitingRetry", "waiting", "WAITING (AwaitingRetry)"),
    ],
)
def test_states(status: str, state: str, expected: str, words: str) -> None:
    assert (fate(status, state), state_words(status, state)) == (expected, words)


def test_total_and_ended() -> None:
    whole = total([group("a", SOME), group("b", {"completed": 1}), group("c", SOME, kind="flow")], "task")
    assert (whole.total, whole.ended, whole.number(*ENDS)) == (10_001, 9_804, 9_804)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (4.21, "4.2 s"),
        (1_234, "20 min 34 s"),
        (7_500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
