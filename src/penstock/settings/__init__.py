"""What environment and files say about how to work: read when a root run starts.

`Settings` is the whole table. Arguments given in code win over it; then the first of these that says something counts:

1. the variable, whose name is that of the setting in capitals after `PENSTOCK_`; an empty one says nothing
2. `penstock.toml`, the nearest in the working directory or above it, up to the root of the repository
3. `[tool.penstock]` in a `pyproject.toml`, likewise
4. the user's own file, `$XDG_CONFIG_HOME/penstock/config.toml`, by default `~/.config/penstock/config.toml`
5. the default
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.exceptions import ConfigurationError
from penstock.settings import files
from penstock.settings.table import KNOWN, PREFIX, Settings, as_text, suggestion, unfit, value_of

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.settings.files import Surroundings
    from penstock.settings.reading import Layer

__all__ = ["Settings", "current", "home", "temporary_settings"]

# Stand-ins for what `penstock.runtime` answers outside a run: no settings.
_RUNTIME_PREFIX = "PENSTOCK__RUNTIME__"
_HOME, _STORE_URL = PREFIX + "HOME", PREFIX + "STORE_URL"
_log = logging.getLogger("penstock")

# Context variables, not globals: flows in other threads of a test process do not see each other's settings.
overrides: ContextVar[Mapping[str, str] | None] = ContextVar("penstock_settings", default=None)
"""Variables that take the place of those in the environment, and of all files: see `temporary_settings`."""

of_the_flow: ContextVar[Settings | None] = ContextVar("penstock_settings_of_the_flow", default=None)
"""On a worker: the settings of the flow that it works for. What environment and files say there does not count."""


def current() -> Settings:
    """The settings of this moment and context.

    Looks at the environment and for files each time, parses only what it has not seen before. Raises
    `ConfigurationError`, naming variable or file and value, if something is invalid. An unknown `PENSTOCK_` variable
    is warned about once; an unknown key in a file is an error.
    """
    given = of_the_flow.get()
    return _merged(_variables(), files.around().layers) if given is None else _on_a_worker(given)


def here() -> tuple[Settings, Path]:
    """`current()` and `home()`, at the price of one."""
    given, variables, found = of_the_flow.get(), _variables(), files.around()
    now = _merged(variables, found.layers) if given is None else _on_a_worker(given)
    return now, _place(variables, lambda: found).path


def _on_a_worker(given: Settings) -> Settings:
    return replace(given, **_overridden(overrides.get() or {}))


def as_on_a_worker(settings: Settings, home: str | None) -> Settings:
    """The settings of a flow, to be `of_the_flow` where its tasks run. `home`: where its records are, if it has any."""
    from pathlib import Path

    return settings if home is None else replace(settings, home=Path(home))


def _variables() -> tuple[tuple[str, str], ...]:
    # One pass over all names is cheaper than looking up each of ours: a miss in os.environ raises inside.
    found = [(name, text) for name in os.environ if name.startswith(PREFIX) and (text := os.environ.get(name, ""))]
    others = overrides.get()
    return tuple({**dict(found), **others}.items() if others else found)


@lru_cache(maxsize=32)
def _merged(variables: tuple[tuple[str, str], ...], layers: tuple[Layer, ...]) -> Settings:
    values = {name: given.value for layer in reversed(layers) for name, given in layer.values.items()}
    for name, _ in variables:
        if name not in KNOWN and not name.startswith(_RUNTIME_PREFIX):
            _warn_unknown(name)
    return Settings(**{**values, **_overridden(dict(variables))})


def _overridden(variables: Mapping[str, str]) -> dict[str, Any]:
    """The fields that variables give values to; an empty one stands for the default."""
    known = [(KNOWN[name], name, text) for name, text in variables.items() if name in KNOWN]
    return {field.name: _value(name, text) if text else field.default for field, name, text in known}


def _value(variable: str, text: str) -> Any:
    try:
        return value_of(KNOWN[variable], text)
    except Exception as error:
        field = KNOWN[variable]
        shown = field.metadata["kind"].shown(text)
        raise unfit(field, f"{variable}={shown!r}") from (error if shown == text else None)


@cache  # once for each name
def _warn_unknown(variable: str) -> None:
    _log.warning("Ignored the unknown setting %s.%s", variable, _suggestion(variable))


def _suggestion(variable: str) -> str:
    # Without the prefix, which all have in common: with it, every name is near.
    return suggestion(variable.removeprefix(PREFIX).lower(), lambda name: PREFIX + name.upper())


@contextmanager
def temporary_settings(values: Mapping[str, object]) -> Iterator[Settings]:
    """Other settings for the code in the `with` block; yields the settings then in force.

    Keys are variables (`"PENSTOCK_TASKS_DEFAULT_RETRIES"`) or fields of `Settings`
    (`"tasks_default_retries"`). Values are texts, or what the field would hold; None stands for the default,
    whatever environment and files say. Blocks nest. They hold in this context and in what is run or submitted
    from it, not in threads that the caller starts. An unknown key or an invalid value raises
    `ConfigurationError`.

    >>> with temporary_settings({"tasks_default_retries": 2}) as settings:
    ...     settings.tasks_default_retries
    2
    """
    texts = {_variable(key): as_text(value) for key, value in values.items()}
    token = overrides.set({**(overrides.get() or {}), **texts})
    try:
        yield current()
    finally:
        overrides.reset(token)


def _variable(key: str) -> str:
    variable = key if key.startswith(PREFIX) else PREFIX + key.upper()
    if variable not in KNOWN:
        raise ConfigurationError(f"There is no setting {key!r}.{_suggestion(variable)}")
    return variable


# --- places ---


class Place(NamedTuple):
    """The directory of the run store, and what made it the one."""

    path: Path
    source: str  # as in `Stated`
    where: str | None


def home() -> Path:
    """The directory of the run store, absolute; it need not exist.

    `PENSTOCK_HOME`; else `home` in a project's file; else the nearest directory `.penstock` of yours in the working
    directory or above it; else `home` in the user's own file; else `$XDG_STATE_HOME/penstock`, by default
    `~/.local/state/penstock`. On a worker it is the one of the flow.
    """
    return place().path


def place() -> Place:
    """`home`, with the reason."""
    return _place(_variables(), files.around)


def _place(variables: tuple[tuple[str, str], ...], look_around: Callable[[], Surroundings]) -> Place:
    from pathlib import Path  # slow to load, and a program that records nothing can do without

    given = of_the_flow.get()
    if given is not None and given.home is not None and _HOME not in (overrides.get() or {}):
        return Place(given.home, "flow", None)
    configured = dict(variables).get(_HOME)
    if configured:
        path: Path = _value(_HOME, configured)
        return Place(path.absolute(), "environment", _HOME)
    found = look_around()
    layers = () if configured == "" else found.layers  # it was asked to be the default
    layer = next((layer for layer in layers if "home" in layer.values), None)
    if found.directory is not None and (layer is None or not layer.is_projects):
        return Place(Path(found.directory), "directory", found.directory)
    if layer is not None:
        return Place(layer.values["home"].value, "file", layer.values["home"].origin)
    return Place(_default_home(), "default", None)


def _default_home() -> Path:
    from pathlib import Path

    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the specification has relative ones ignored
        return Path(state, "penstock")
    try:
        return Path.home() / ".local" / "state" / "penstock"
    except RuntimeError:
        raise ConfigurationError("There is no home directory: set PENSTOCK_HOME to a directory.") from None


def store_url() -> str | None:
    """The URL of the database with the run store; None: it is in `home()`. On a worker it is the one of the flow.

    Raises for this setting, and for files, but not for others.
    """
    given = of_the_flow.get()
    if given is not None and _STORE_URL not in (overrides.get() or {}):
        return given.store_url
    configured = dict(_variables()).get(_STORE_URL)
    if configured is not None:
        url: str | None = _value(_STORE_URL, configured) if configured else None
        return url
    layer = next((layer for layer in files.around().layers if "store_url" in layer.values), None)
    return None if layer is None else layer.values["store_url"].value


# --- for people ---


class Stated(NamedTuple):
    """A setting, the value that it has, and why."""

    name: str
    value: Any
    source: str  # "environment", "file", "directory" (a `.penstock`), "flow" (on a worker), "default"
    where: str | None  # the variable, the file with the line, the directory


def stated() -> list[Stated]:
    """All settings as they are, passwords left out, `home` as it is where it is unset. Raises as `current` does."""
    now = current()
    found = {
        name: Stated(name, given.value, "file", given.origin)
        for layer in reversed(files.around().layers)
        for name, given in layer.values.items()
    }
    for variable, text in _variables():
        if variable in KNOWN:
            name = KNOWN[variable].name
            source = ("environment", variable) if text else ("default", None)
            found[name] = Stated(name, getattr(now, name), *source)
    found["home"] = Stated("home", *place())
    all_of_them = (
        (field, found.get(field.name, Stated(field.name, getattr(now, field.name), "default", None)))
        for field in KNOWN.values()
    )
    return [one._replace(value=field.metadata["kind"].shown(one.value)) for field, one in all_of_them]
