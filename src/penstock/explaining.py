"""Why a call would be answered by the cache, or would not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from penstock import caching, calls
from penstock._core.code import identity_of
from penstock._core.errors import describe
from penstock._core.keys import Unhashable
from penstock.cache_policies import differences, ingredients
from penstock.exceptions import ResultCorrupt, StoreUnavailable
from penstock.futures import Future, wait
from penstock.results.sealed import Header, peek

if TYPE_CHECKING:
    from penstock._engine.keeping import Keeping, Question
    from penstock._engine.run import Run
    from penstock.definitions import Definition

_COMPARED = 20  # latest results that a miss is compared with


@dataclass(frozen=True)
class CacheExplanation:
    """What the cache would do about a call, and why. As text, one sentence per line."""

    task_name: str
    hit: bool
    key: str | None
    """The cache key; None if the call is not to be cached."""
    reasons: Sequence[str]

    def __str__(self) -> str:
        verdict = "hit" if self.hit else "miss" if self.key is not None else "not cached"
        return "\n".join([f"{self.task_name}: {verdict}", *(f"  {reason}" for reason in self.reasons)])


def explain(task: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CacheExplanation:
    """What the cache would do about `task(*args, **kwargs)`. Runs and records nothing; waits for futures."""
    run = _probe(task, task.binder.bind(args, kwargs))
    keeping = run.plan.keeping
    if keeping is None:
        return _no(
            task, "its results are not kept: persist_result=True, a cache_policy or a cache_key_fn turns that on"
        )
    question = keeping.ask(run)
    if question.key is None:
        return _no(task, _why_uncached(task, run))
    if keeping.refresh:
        return CacheExplanation(task.name, False, question.key, ["refresh_cache makes it run in any case"])
    return _looked_up(task, run, keeping, question)


def _probe(task: Definition, parameters: dict[str, Any]) -> Run:
    """A run that will never start: what a question is asked of."""
    run = calls.probe(task, parameters)
    wait([link.upstream for link in run.links if isinstance(link.upstream, Future)])
    run.engine.resolve(run)
    return run


def _no(task: Definition, reason: str) -> CacheExplanation:
    return CacheExplanation(task.name, False, None, [reason])


def _why_uncached(task: Definition, run: Run) -> str:
    policy = caching.policy_in(task, run.engine)
    if policy is None:
        return "it is not to be cached: its cache_policy is NO_CACHE, or a setting turns caching off"
    try:
        identity_of(task.fn, task.name, strict=True)
        ingredients(policy, caching.context_of(run), run.parameters, caching.flow_parameters(run))
    except Unhashable as error:
        return caching.refusal(error, task.name)
    except Exception as error:
        return f"its cache key cannot be computed: {describe(error)}"
    return "its cache policy gives no key"


def _looked_up(task: Definition, run: Run, keeping: Keeping, question: Question) -> CacheExplanation:
    archive = run.engine.archive
    assert archive is not None and question.key is not None
    try:
        latest = archive.latest(question.key, keeping.storage, run.engine.now())
        if latest is not None:
            header = latest.header
            return CacheExplanation(
                task.name, True, question.key, [f"computed by run {header.address} at {_at(header.created)}"]
            )
        reasons = _why_missed(archive.recent(run.plan.key, _COMPARED), question, run.engine.now())
    except (StoreUnavailable, ResultCorrupt, LookupError, OSError) as error:
        reasons = [f"its kept result counts as absent: {error}"]
    return CacheExplanation(task.name, False, question.key, reasons)


def _why_missed(sealed: Sequence[bytes], question: Question, now: float) -> list[str]:
    headers = [peek(one) for one in sealed]
    if not headers:
        return ["no result of this task is kept here"]
    for header in headers:
        if header.cache_key == question.key and header.expires is not None and header.expires <= now:
            return [f"its result expired at {_at(header.expires)}"]
    nearest = min((_differences(header, question) for header in headers), key=len)
    return nearest or ["the latest result of this task was kept under another key"]


def _differences(header: Header, question: Question) -> list[str]:
    return differences(header.ingredients or {}, question.ingredients or {})


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
