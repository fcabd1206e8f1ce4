"""The table of all settings, and how their texts are understood.

A setting is one field of `Settings`. Its environment variable, its key in a file, the reference and the JSON schema
are derived from that field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.policy import check_number, retry_policy
from penstock.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "PENSTOCK_"
TABLES = ("logging", "tasks", "flows", "results", "store")
"""Beginnings of names that are tables in a file: `[tasks]` `default_retries` is `tasks_default_retries`."""


# --- from text to value ---


class Kind(NamedTuple):
    """How a text is understood. `parse` raises any exception if it is not `expected`."""

    expected: str
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    """The JSON schema of what a file may hold; made into a text, it is parsed like that of a variable."""
    shown: Callable[[Any], Any] = lambda value: value
    """A value, or a text that may not be one, as it may be shown."""


def _path(text: str) -> Path:
    from pathlib import Path  # slow to load, and a program that sets no path can do without

    return Path(text).expanduser()


class DatabaseURL(str):
    """Where a database is. Shown without the password that may be in it, unless it is asked for as text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_password(self))


def _url(text: str) -> DatabaseURL | None:
    if text == "none":
        return None
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable() or " " in text:
        raise ValueError
    return DatabaseURL(text)


def without_password(url: str) -> str:
    """A URL as it may be shown. Of what is none, nothing: part of it may be a password all the same."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "..."
    # A password with an @ or a slash in it is not allowed, and hidden all the same.
    credentials, at, place = rest.rpartition("@")
    place, mark, options = place.partition("?")
    shown = [part for part in options.split("&") if not _is_secret(part.partition("=")[0])]
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}{mark if any(shown) else ''}{'&'.join(shown)}"


def _is_secret(option: str) -> bool:
    return "%" in option or "password" in option.lower()


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise ValueError(number)
        return number

    return parse


def _number(most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = check_number("number", float(text))
        if number > most:
            raise ValueError(number)
        return number

    return parse


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
_NUMBER = {"type": "number", "minimum": 0}


def _one_of(*choices: str) -> Kind:
    known = {choice.lower(): choice for choice in choices}
    named = f"{', '.join(choices[:-1])} or {choices[-1]}"
    return Kind(named, lambda text: known[text.strip().lower()], {"type": "string", "enum": list(choices)})


def _whole(least: int) -> Kind:
    return Kind(f"an integer, {least} or more", _integer(least), {"type": "integer", "minimum": least})


def _up_to(most: float) -> Kind:
    return Kind(f"a number of seconds from 0 to {most:g}", _number(most), {**_NUMBER, "maximum": most})


LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_TEXT = Kind("text", str, {"type": "string", "minLength": 1})
PATH = Kind("a path", _path, {"type": "string", "minLength": 1})
_URL = Kind(
    "a URL, as in postgresql://user@host/database, or none",
    _url,
    {"type": "string", "pattern": "^(postgres(ql)?://.+|none)$"},
    lambda url: None if url is None else without_password(str(url)),
)
_FLAG = Kind("true or false", lambda text: _FLAGS[text.strip().lower()], {"type": "boolean"})
_COUNT, _SIZE = _whole(0), _whole(1)
_SECONDS = Kind("a number of seconds, 0 or more", _number(float("inf")), _NUMBER)
_DAYS = Kind("a number of days, 0 or more", _number(float("inf")), _NUMBER)
_DELAYS = Kind(
    "a number of seconds, or up to 50 of them, as in 1,10,100",
    _delays,
    {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": 50}]},
)


# --- the table ---


def _about(kind: Kind, help: str, *, yours: bool = False) -> dict[str, Any]:
    """`yours`: not to be set by a project's file, which may have come with somebody else's code."""
    return {"kind": kind, "help": help, "yours": yours}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force at one moment. Immutable.

    Each field's help text is in its metadata, under `help`.
    """

    home: Path | None = field(
        default=None,
        metadata=_about(
            PATH,
            "Directory of the run store. Unset: the nearest `.penstock` in the working directory or above it, else "
            "`~/.local/state/penstock`.",
        ),
    )
    runner: str | None = field(
        default=None,
        metadata=_about(
            _one_of("sequential", "threads", "processes", "dask", "ray"),
            "Task runner of all flows, whatever they ask for. Unset: what each flow asks for.",
        ),
    )
    progress: str = field(
        default="auto",
        metadata=_about(
            _one_of("auto", "on", "off"),
            "Whether the progress of flows is shown: on a terminal as a picture, elsewhere and on CI in lines of the "
            "log, with auto after the first interval. on: as a picture on CI, too; lines from the start.",
        ),
    )
    progress_interval_seconds: float = field(
        default=10.0,
        metadata=_about(_SECONDS, "How often progress is told in a line of the log, where there is no terminal."),
    )
    traceback: str = field(
        default="short",
        metadata=_about(
            _one_of("short", "full"), "Whether tracebacks show the frames of the library: short hides them."
        ),
    )
    cancel_grace_seconds: float = field(
        default=3.0,
        metadata=_about(_SECONDS, "How long a cancelled body may take to stop before it is written off."),
    )
    timeout_grace_seconds: float = field(
        default=0.3,
        metadata=_about(_up_to(0.4), "How long a body past its time limit may take to stop before it is written off."),
    )
    logging_level: str = field(
        default="INFO",
        metadata=_about(
            _one_of(*LEVELS),
            "Least severe level that the library's loggers pass on.",
        ),
    )
    logging_format: str = field(
        default="text",
        metadata=_about(_one_of("text", "json"), "How log lines are written to the terminal: text, or JSON lines."),
    )
    logging_record_level: str | None = field(
        default=None,
        metadata=_about(
            _one_of(*LEVELS), "Least severe level of lines that are recorded with their runs. Unset: all lines."
        ),
    )
    logging_log_prints: bool = field(
        default=False, metadata=_about(_FLAG, "Whether prints inside runs become log lines.")
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
    flows_default_on_unobserved_failure: str = field(
        default="fail",
        metadata=_about(
            _one_of("fail", "warn"),
            "What a failure does that nobody looked at, in flows that do not say: the flow fails, or it is a warning.",
        ),
    )
    results_persist_by_default: bool = field(
        default=False, metadata=_about(_FLAG, "Whether tasks and flows keep their results.")
    )
    results_default_serializer: str = field(default="pickle", metadata=_about(_TEXT, "How results are written."))
    results_durability: str = field(
        default="process",
        metadata=_about(
            _one_of("memory", "process", "power"),
            "What a kept result survives from the moment that it is handed out.",
        ),
    )
    results_inline_bytes: int = field(
        default=64 * 1024,
        metadata=_about(_COUNT, "Largest kept result that is part of the store's database; larger ones are files."),
    )
    results_local_storage_path: Path | None = field(
        default=None, metadata=_about(PATH, "Directory of large results. Unset: inside the home directory.")
    )
    results_key_path: Path | None = field(
        default=None,
        metadata=_about(
            PATH, "File with the key that kept results are sealed with. Unset: inside the home directory.", yours=True
        ),
    )
    store_url: DatabaseURL | None = field(
        default=None,
        metadata=_about(
            _URL,
            "Postgres database that several machines record to. Unset, or `none`: a file in the home directory.",
            yours=True,
        ),
    )
    store_window_seconds: float = field(
        default=0.05,
        metadata=_about(_up_to(1), "How long records gather before they are written. Longer is cheaper, and later."),
    )
    store_patience_seconds: float = field(
        default=5.0,
        metadata=_about(_SECONDS, "How long one attempt to write waits for a store that somebody else has locked."),
    )
    store_keep_days: float | None = field(
        default=None,
        metadata=_about(
            _DAYS, "For how long `penstock prune` keeps finished runs if it is not told. Unset: for good.", yours=True
        ),
    )


KNOWN: dict[str, Field[Any]] = {PREFIX + entry.name.upper(): entry for entry in fields(Settings)}
"""The field of each variable."""


LARGEST_ROW = 256 * 2**20
"""Bytes of a kept result that can be part of the record in a Postgres database."""


def inline_bytes(settings: Settings) -> int:
    """Up to which size a kept result is part of the record. A file is of no use to other machines."""
    return settings.results_inline_bytes if settings.store_url is None else LARGEST_ROW


def key_of(name: str) -> str:
    """The key of a setting as it stands in a file: `tasks.default_retries`."""
    table, _, rest = name.partition("_")
    return f"{table}.{rest}" if table in TABLES else name


def value_of(field: Field[Any], text: str) -> Any:
    """What a text means. Raises any exception if it is not what is expected."""
    kind: Kind = field.metadata["kind"]
    return kind.parse(text)


def as_text(value: object) -> str:
    """The text that means a value; none at all for None."""
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def unfit(field: Field[Any], said: str) -> ConfigurationError:
    """The error about a value; `said` is what somebody has written, and where."""
    return ConfigurationError(f"{said} is not valid: expected {field.metadata['kind'].expected}.")


def suggestion(name: str, spell: Callable[[str], str]) -> str:
    """` Did you mean …?`, about the field whose name is nearest, as `spell` spells it; nothing if none is near."""
    from difflib import get_close_matches  # slow to load; only mistakes need it

    nearest = get_close_matches(name, [field.name for field in KNOWN.values()], n=1)
    return f" Did you mean {spell(nearest[0])}?" if nearest else ""
