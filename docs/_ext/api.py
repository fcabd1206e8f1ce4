"""The reference page of a public module, in Markdown: an overview of its names, then each with its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from penstock.task_runners import TaskRunner

_MODULES = ("futures", "tasks", "flows", "states", "context", "transactions", "concurrency")
HOMES = tuple(f"penstock.{name}" for name in _MODULES)
"""The modules on whose pages names of `penstock` itself are explained. The others are on the page of `penstock`."""

MADE_BY_THE_LIBRARY = (
    "Future",
    "FutureList",
    "Task",
    "Flow",
    "Transaction",
    "TaskRunContext",
    "FlowRunContext",
    "TagsContext",
)
"""Classes whose constructors are not for users."""

OTHERS = "Exception, list, tuple, int, str, Enum, Generic, Protocol, ABC"
"""Base classes that are explained elsewhere."""

SELF_EVIDENT = (
    "State",
    "StateGroup",
    "StateType",
    "CommitMode",
    "IsolationLevel",
    "ResultRecord",
    "DoneAndNotDoneFutures",
)
"""Classes whose members are shown although their names say it all."""

FOR_ENGINES = (
    "start, plan_in, next_number, binder, told_of, hook_names, kind, expand, "
    "contribute, take_back, write_apart, take_back_apart"
)
"""Members without an underscore that are no business of users."""


def page(module_name: str) -> str:
    """The body of a module's page, below its heading."""
    module = importlib.import_module(module_name)
    names = public_names(module)
    entries = [_entry(module, name) for name in names]
    return "\n".join([_overview(module, names), *filter(None, entries)])


def public_names(module: ModuleType) -> list[str]:
    """What the module offers: in the order of its source, what is loaded on demand at the end."""
    on_demand = getattr(module, "_ON_DEMAND", {})
    names = [*module.__all__, *(name for name in on_demand if name not in module.__all__)]
    return sorted(names, key=lambda name: (name in on_demand, _line(module, name)))


def _line(module: ModuleType, name: str) -> int:
    found = getattr(module, name)
    try:
        return inspect.getsourcelines(found)[1] if getattr(found, "__module__", "") == module.__name__ else 0
    except (OSError, TypeError):
        return 0


def _home(module: ModuleType, name: str) -> str:
    """The module on whose page the name is explained."""
    found = getattr(module, name)
    others = [importlib.import_module(home) for home in HOMES if module.__name__ == "penstock"]
    homes = [other.__name__ for other in others if name in other.__all__ and getattr(other, name) is found]
    return homes[0] if homes else module.__name__


def _overview(module: ModuleType, names: list[str]) -> str:
    rows = [f"   * - {_link(module, name)}\n     - {_summary(module, name)}" for name in names]
    return _restructured(".. list-table::\n   :widths: auto\n\n" + "\n".join(rows))


def _link(module: ModuleType, name: str) -> str:
    if inspect.ismodule(getattr(module, name)):
        return f":doc:`{name} <{name}>`"
    return f":py:obj:`{name} <{_home(module, name)}.{name}>`"


def _summary(module: ModuleType, name: str) -> str:
    text = inspect.getdoc(getattr(module, name)) or ""
    return marked_up(" ".join(text.partition("\n\n")[0].split()))


def _entry(module: ModuleType, name: str) -> str:
    if _home(module, name) != module.__name__ or inspect.ismodule(getattr(module, name)):
        return ""
    return _restructured("\n".join(_directive(module.__name__, name, getattr(module, name))))


def _directive(module_name: str, name: str, found: Any) -> Iterator[str]:
    full = f"{module_name}.{name}"
    if inspect.isclass(found):
        yield f".. autoclass:: {full}"
        yield from _members(name, found)
    elif callable(found) and hasattr(found, "__name__"):
        yield f".. autofunction:: {full}"
    else:
        yield f".. autodata:: {full}"
        yield "   :no-value:"


def _members(name: str, found: type) -> Iterator[str]:
    if issubclass(found, BaseException):
        yield "   :show-inheritance:"
    elif found is TaskRunner or not issubclass(found, TaskRunner):  # those of runners are all the same
        yield "   :members:"
        yield f"   :inherited-members: {OTHERS}"
        yield f"   :exclude-members: {FOR_ENGINES}"
    if name in SELF_EVIDENT:
        yield "   :undoc-members:"


def _restructured(text: str) -> str:
    """Docstrings are reStructuredText, pages are Markdown."""
    return f"```````{{eval-rst}}\n{text}\n```````\n"


def marked_up(text: str) -> str:
    """A docstring's text with its `code` as reStructuredText: names become links, anything else is shown."""

    def code(found: re.Match[str]) -> str:
        inside = found[1]
        if inside is None:
            return found[0]
        marked = f"`{inside}`" if re.fullmatch(r"[A-Za-z_][\w.]*", inside) else f"``{inside}``"
        return marked + ("\\ " if re.match(r"\w", text[found.end() :]) else "")

    return re.sub(r"``.*?``|`([^`]+)`", code, text)
