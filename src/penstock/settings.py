"""What the environment says: `PENSTOCK_...` variables, read when a root run starts.

`Settings` is the whole table: the variable of a field is its name in capitals after `PENSTOCK_`. Arguments
given in code win over it. An empty variable counts as unset.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import Field, dataclass, field, fields
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.policy import check_number, retry_policy
from penstock.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX = "PENSTOCK_"
# Stand-ins for what `penstock.runtime` answers outside a run: no settings.
_RUNTIME_PREFIX = "PENSTOCK__RUNTIME__"

_log = logging.getLogger("penstock")


# --- from text to value ---


class _Kind(NamedTuple):
    """How the text of a variable is understood. `parse` raises any exception if it is not `expected`."""

    expected: str
    parse: Callable[[str], Any]


def _path(text: str) -> Path:
    from pathlib import Path  # slow to load, and a program that sets no path can do without

    return Path(text).expanduser()


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    return lambda text: choices[text.strip().lower()]


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise ValueError(number)
        return number

    return parse


def _seconds(text: str) -> float:
    return check_number("seconds", float(text))


def _short_grace(text: str) -> float:
    seconds = _seconds(text)
    if seconds > 0.4:
        raise ValueError(seconds)
    return seconds


def _delays(text: str) -> tuple[float, ...]:
    return retry_policy(0, [float(part) for part in text.split(",")]).delays


_FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_LEVELS = {level.lower(): level for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}

_DURABILITIES = {name: name for name in ("memory", "process", "power")}

_TEXT = _Kind("text", str)
_DURABILITY = _Kind("one of " + ", ".join(_DURABILITIES), _one_of(_DURABILITIES))
_PATH = _Kind("a path", _path)
_FLAG = _Kind("true or false", _one_of(_FLAGS))
_LEVEL = _Kind("one of " + ", ".join(_LEVELS.values()), _one_of(_LEVELS))
_COUNT = _Kind("an integer, 0 or more", _integer(0))
_SIZE = _Kind("an integer, 1 or more", _integer(1))
_SECONDS = _Kind("a number of seconds, 0 or more", _seconds)
_LOG_FORMAT = _Kind("text or json", _one_of({"text": "text", "json": "json"}))
_PROGRESS = _Kind("auto, on or off", _one_of({name: name for name in ("auto", "on", "off")}))
_TRACEBACK = _Kind("short or full", _one_of({"short": "short", "full": "full"}))
_RUNNER = _Kind(
    "one of sequential, threads, processes, dask, ray",
    _one_of({name: name for name in ("sequential", "threads", "processes", "dask", "ray")}),
)
_SHORT_GRACE = _Kind("a number of seconds from 0 to 0.4", _short_grace)
_DELAYS = _Kind("a number of seconds, or up to 50 of them, as in 1,10,100", _delays)


# --- the table ---


def _about(kind: _Kind, help: str) -> dict[str, Any]:
    return {"kind": kind, "help": help}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force at one moment. Immutable.

    Each field's help text is in its metadata, under `help`.
    """

    home: Path | None = field(default=None, metadata=_about(_PATH, "Directory of the run store. Unset: see `home()`."))
    logging_level: str = field(
        default="INFO", metadata=_about(_LEVEL, "Least severe level that the library's loggers pass on.")
    )
    logging_log_prints: bool = field(
        default=False, metadata=_about(_FLAG, "Whether prints inside runs become log lines.")
    )
    logging_format: str = field(
        default="text", metadata=_about(_LOG_FORMAT, "How log lines are written to the terminal: text, or JSON lines.")
    )
    progress: str = field(
        default="auto",
        metadata=_about(_PROGRESS, "Whether the progress of flows is shown. auto: if standard error is a terminal."),
    )
    traceback: str = field(
        default="short",
        metadata=_about(_TRACEBACK, "Whether tracebacks show the frames of the library: short hides them."),
    )
    runner: str | None = field(
        default=None,
        metadata=_about(_RUNNER, "Task runner of all flows, whatever they ask for. Unset: what each flow asks for."),
    )
    cancel_grace_seconds: float = field(
        default=3.0,
        metadata=_about(_SECONDS, "How long a cancelled body may take to stop before it is written off."),
    )
    timeout_grace_seconds: float = field(
        default=0.3,
        metadata=_about(_SHORT_GRACE, "How long a body past its time limit may take to stop before it is written off."),
    )
    tasks_runner_thread_pool_max_workers: int = field(
        default=256,
        metadata=_about(_SIZE, "Tasks that run at once in thread runners without a size of their own."),
    )
    tasks_runner_process_pool_max_workers: int | None = field(
        default=None,
        metadata=_about(_SIZE, "Processes of process runners without a size of their own. Unset: one for each CPU."),
    )
    tasks_default_retries: int = field(default=0, metadata=_about(_COUNT, "Retries of tasks that set none."))
    tasks_default_retry_delay_seconds: tuple[float, ...] = field(
        default=(), metadata=_about(_DELAYS, "Pauses before the retries of tasks that set none.")
    )
    tasks_refresh_cache: bool = field(
        default=False, metadata=_about(_FLAG, "Whether tasks run although the cache has their result.")
    )
    tasks_disable_caching: bool = field(
        default=False, metadata=_about(_FLAG, "Whether the cache is neither read nor written.")
    )
    tasks_default_no_cache: bool = field(
        default=False, metadata=_about(_FLAG, "Whether tasks without a cache policy are never cached.")
    )
    tasks_default_persist_result: bool | None = field(
        default=None,
        metadata=_about(_FLAG, "Whether tasks keep their results. Unset: as `results_persist_by_default`."),
    )
    flows_default_retries: int = field(default=0, metadata=_about(_COUNT, "Retries of flows that set none."))
    flows_default_retry_delay_seconds: tuple[float, ...] = field(
        default=(), metadata=_about(_DELAYS, "Pauses before the retries of flows that set none.")
    )
    results_persist_by_default: bool = field(
        default=False, metadata=_about(_FLAG, "Whether tasks and flows keep their results.")
    )
    results_default_serializer: str = field(default="pickle", metadata=_about(_TEXT, "How results are written."))
    results_durability: str = field(
        default="process",
        metadata=_about(_DURABILITY, "What a kept result survives from the moment that it is handed out."),
    )
    results_key_path: Path | None = field(
        default=None,
        metadata=_about(
            _PATH, "File with the key that kept results are sealed with. Unset: inside the home directory."
        ),
    )
    results_local_storage_path: Path | None = field(
        default=None, metadata=_about(_PATH, "Directory of large results. Unset: inside the home directory.")
    )


_TABLE: dict[str, Field[Any]] = {_PREFIX + entry.name.upper(): entry for entry in fields(Settings)}

# A context variable, not a global: flows in other threads of a test process do not see each other's settings.
overrides: ContextVar[Mapping[str, str] | None] = ContextVar("penstock_settings", default=None)
"""Variables that take the place of those in the environment: see `temporary_settings`."""


def current() -> Settings:
    """The settings of this moment and context.

    Reads the environment each time, parses only what it has not seen before. Raises `ConfigurationError`,
    naming variable and value, if one is invalid. An unknown `PENSTOCK_` variable is warned about once.
    """
    return _parse(_variables())


def _variables() -> tuple[tuple[str, str], ...]:
    # One pass over all names is cheaper than looking up each of ours: a miss in os.environ raises inside.
    found = [(name, os.environ.get(name, "")) for name in os.environ if name.startswith(_PREFIX)]
    others = overrides.get()
    return tuple({**dict(found), **others}.items() if others else found)


@lru_cache(maxsize=32)
def _parse(variables: tuple[tuple[str, str], ...]) -> Settings:
    values = {}
    for name, text in variables:
        if name in _TABLE:
            if text:
                values[_TABLE[name].name] = _value(name, text)
        elif not name.startswith(_RUNTIME_PREFIX):
            _warn_unknown(name)
    return Settings(**values)


def _value(variable: str, text: str) -> Any:
    kind: _Kind = _TABLE[variable].metadata["kind"]
    try:
        return kind.parse(text)
    except Exception as error:
        raise ConfigurationError(f"{variable}={text!r} is not valid: expected {kind.expected}.") from error


@cache  # once for each name
def _warn_unknown(variable: str) -> None:
    _log.warning("Ignored the unknown setting %s.%s", variable, _suggestion(variable))


def _suggestion(variable: str) -> str:
    from difflib import get_close_matches  # slow to load; only mistakes need it

    # Without the prefix, which all have in common: with it, every name is near.
    known = [name.removeprefix(_PREFIX) for name in _TABLE]
    nearest = get_close_matches(variable.removeprefix(_PREFIX), known, n=1)
    return f" Did you mean {_PREFIX}{nearest[0]}?" if nearest else ""


@contextmanager
def temporary_settings(values: Mapping[str, object]) -> Iterator[Settings]:
    """Other settings for the code in the `with` block; yields the settings then in force.

    Keys are variables (`"PENSTOCK_TASKS_DEFAULT_RETRIES"`) or fields of `Settings`
    (`"tasks_default_retries"`). Values are texts, or what the field would hold; None stands for the default,
    whatever the environment says. Blocks nest. They hold in this context and in what is run or submitted
    from it, not in threads that the caller starts. An unknown key or an invalid value raises
    `ConfigurationError`.

    >>> with temporary_settings({"tasks_default_retries": 2}) as settings:
    ...     settings.tasks_default_retries
    2
    """
    texts = {_variable(key): _as_text(value) for key, value in values.items()}
    token = overrides.set({**(overrides.get() or {}), **texts})
    try:
        yield current()
    finally:
        overrides.reset(token)


def _variable(key: str) -> str:
    variable = key if key.startswith(_PREFIX) else _PREFIX + key.upper()
    if variable not in _TABLE:
        raise ConfigurationError(f"There is no setting {key!r}.{_suggestion(variable)}")
    return variable


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- places ---


def home() -> Path:
    """The directory of the run store, absolute; it need not exist.

    `PENSTOCK_HOME`; else the nearest directory `.penstock` of yours in the working directory or above it;
    else `$XDG_STATE_HOME/penstock`, by default `~/.local/state/penstock`.
    """
    from pathlib import Path

    configured = dict(_variables()).get("PENSTOCK_HOME")
    if configured:
        chosen: Path = _value("PENSTOCK_HOME", configured)
        return chosen.absolute()
    project = _project_directory()
    if project is not None:
        return Path(project)
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the specification has relative ones ignored
        return Path(state, "penstock")
    try:
        return Path.home() / ".local" / "state" / "penstock"
    except RuntimeError:
        raise ConfigurationError("There is no home directory: set PENSTOCK_HOME to a directory.") from None


def _project_directory() -> str | None:
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # deleted under our feet
        return None
    while True:
        candidate = os.path.join(directory, ".penstock")
        if os.path.isdir(candidate) and _is_ours(candidate):
            return candidate
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent


def _is_ours(directory: str) -> bool:
    """A directory that somebody else left in /tmp must not be trusted: cached results are unpickled."""
    getuid = getattr(os, "getuid", None)  # not on Windows
    if getuid is None or os.stat(directory).st_uid == getuid():
        return True
    _warn_foreign(directory)
    return False


@cache  # once for each directory
def _warn_foreign(directory: str) -> None:
    _log.warning("Ignored %s: it belongs to another user. To use it, set PENSTOCK_HOME=%s", directory, directory)
