"""What the engine needs to know about a task or flow, worked out once per engine and definition.

Settings, inheritance (task, then flow, then setting) and validation are settled here, so that the hot path
reads attributes instead of deciding again for every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from penstock._core.binding import Binder
from penstock._core.policy import RetryPolicy

Hook = Callable[..., Any]


@dataclass(slots=True, eq=False)
class Plan:
    """How runs of one definition are executed inside one engine. Shared by all of them, read-only."""

    kind: str  # "task" or "flow"
    definition: Any  # the Task or Flow: handed to hooks and conditions, never looked into
    name: str
    key: str
    fn: Callable[..., Any]
    binder: Binder
    is_async: bool = False
    is_generator: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retries: int = 0  # the machine's view of the policy: plain fields, because it reads them at every step
    cached: bool = False  # its value is looked for before the body runs, and kept afterwards
    keeping: Any = None  # how; None: it is not
    condition: Hook | None = None
    timeout: float | None = None
    hooks: Mapping[str, Sequence[Hook]] = field(default_factory=dict)
    log_prints: bool = False
    run_name: Any = None  # template, callable or None
    tags: frozenset[str] = frozenset()
    remote_options: Mapping[str, Any] = field(default_factory=dict)  # tasks: for Ray
    version: str | None = None
    forgives: bool = False  # flows: failures nobody looked at are warnings
    check: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # flows: validates resolved parameters
    calls: Iterator[int] = field(default_factory=count)  # numbers the runs of this definition
    map_sizes: dict[int, int] = field(default_factory=dict)  # of each `.map()` call, by its number
    portable: Any = None  # what to pickle in place of `fn`, where a reference will do
    household: Any = None  # pickled: what the visits of this task to other processes have in common
