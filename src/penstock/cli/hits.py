"""What the cache did about a run: sentences from its record, and from the headers of kept results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.cache_policies import differences
from penstock.cli import kept
from penstock.cli.common import title
from penstock.cli.text import moment, plural, printable
from penstock.exceptions import ResultCorrupt
from penstock.results.sealed import Header
from penstock.store.base import Reader, ResultRow, RunRow

COMPARED = 200  # latest results that a miss is compared with


def told(reader: Reader, run: RunRow, home: Path) -> Iterator[str]:
    if run.kind == "flow":
        yield from _of_flow(reader, run)
    elif run.state_name == "Cached":
        yield _hit(reader, run)
    elif run.result_key is None:
        yield _not_kept(run)
    else:
        yield from _miss(reader, run, home)


def _of_flow(reader: Reader, run: RunRow) -> Iterator[str]:
    cached = sum(count.number for count in reader.counts(run.id) if count.state_name == "Cached")
    if cached:
        yield f"{plural(cached, 'run')} below it took what had been computed before."


def _hit(reader: Reader, run: RunRow) -> str:
    maker = None if run.result_key is None else reader.get(run.result_key)
    if maker is None:
        return f"Hit: its result was kept under {printable(run.result_key or '?')}{_in(run)}."
    when = f" at {moment(maker.ended)}"
    if maker.root_id == run.root_id:
        return f"Hit: {title(maker)}, in the same flow run, had computed it{when}."
    root = reader.get(maker.root_id)
    where = "" if root is None or root.id == maker.id else f" in {title(root)}"
    lives = {row.id for row in reader.lives(run.root_id)}
    how = "Restored: in an earlier life of this flow run," if maker.root_id in lives else "Hit:"
    return f"{how} {title(maker)}{where} had computed it{when}."


def _in(run: RunRow) -> str:
    return "" if run.result_storage is None else f" in {printable(run.result_storage)}"


def _not_kept(run: RunRow) -> str:
    if run.status == "COMPLETED":
        return "Not asked: results of this task are not kept. A cache_policy or persist_result=True turns that on."
    return f"The record does not say: a run that is {printable(run.state_name)} leaves no result to compare."


def _miss(reader: Reader, run: RunRow, home: Path) -> Iterator[str]:
    if run.result_storage is not None:
        yield f"Miss, or not asked: its result was computed, and is kept under {printable(run.result_key)}{_in(run)}."
        return
    own = reader.result(run.result_key or "")
    if own is None:
        yield "It was computed; what it was kept under is gone from the run store."
    elif own.cache_key is None:
        yield "Not asked: it has no cache key. Its result is kept for resuming only."
    else:
        yield f"Miss: when it was asked, nothing was to be used under its key {printable(own.cache_key)}."
        yield from _compared(reader, run, own, home)


def _compared(reader: Reader, run: RunRow, own: ResultRow, home: Path) -> Iterator[str]:
    rows = reader.results_of(own.task_key, limit=COMPARED)
    earlier = [row for row in rows if row.address != own.address and row.created <= (run.started or own.created)]
    same = next((row for row in earlier if row.cache_key == own.cache_key), None)
    if same is not None:
        yield _passed_over(same, run)
        return
    mine = _header(own, home)
    others = [header for header in (_header(row, home) for row in earlier) if header is not None]
    if mine is None or not others:
        yield "No earlier result of this task is kept here to compare it with."
        return
    nearest = min(others, key=lambda header: _distance(header, mine))
    what = "; ".join(map(printable, _differences(nearest, mine))) or "what differs was not noted"
    yield f"The nearest earlier result, by {_maker(reader, nearest.address)} at {moment(nearest.created)}: {what}."


def _maker(reader: Reader, run_id: str) -> str:
    row = reader.get(run_id)
    root = None if row is None or row.parent_id is None else reader.get(row.root_id)
    return f"run {run_id}" if row is None else title(row) if root is None else f"{title(row)} in {title(root)}"


def _passed_over(same: ResultRow, run: RunRow) -> str:
    if same.expires is not None and same.expires <= (run.started or run.created):
        return f"There was one, by run {same.address}, but it had expired at {moment(same.expires)}."
    return (
        f"There was one, by run {same.address}: it was to be computed anew (refresh_cache, or rerun), or it is damaged."
    )


def _header(row: ResultRow, home: Path) -> Header | None:
    try:
        return kept.header_of(row, home)
    except (ResultCorrupt, LookupError, OSError):
        return None


def _distance(header: Header, mine: Header) -> tuple[int, int, float]:
    """Fewest differences first, among these other flow runs before other arguments, among these the latest."""
    found = _differences(header, mine)
    return len(found), sum(text.startswith("argument") for text in found), -header.created


def _differences(header: Header, mine: Header) -> list[str]:
    return differences(header.ingredients or {}, mine.ingredients or {})
