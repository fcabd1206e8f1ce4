"""What the bodies of random flows compute. Said once for flow and model, because it is no matter of the engine."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.exceptions import CancelledRun, UpstreamTaskError
from penstock.states import Cancelled, Completed, Crashed, Failed, Running, State
from penstock.testing.graphs.description import ROOT, Node, misbehaves

_LONGEST = 90  # characters of a value; what is longer is replaced by its checksum, or values would double at each node


@dataclass(frozen=True)
class Box:
    """A container of a user's."""

    content: Any


class Trouble(Exception):
    """An exception with an attribute of its own."""

    def __init__(self, text: str, code: int = 7) -> None:
        super().__init__(text, code)
        self.code = code


def _two(text: str) -> BaseException:
    return ExceptionGroup(text, [ValueError(text), KeyError(text)])


RAISED: Mapping[str, Callable[[str], BaseException]] = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "Trouble": Trouble,
    "TimeoutError": TimeoutError,
    "ExceptionGroup": _two,
    "CancelledRun": CancelledRun,
    "StopIteration": StopIteration,
    "SystemExit": SystemExit,
    "BaseException": BaseException,
}
RETURNED: Mapping[str, Callable[[str], Any]] = {
    "Failed": lambda text: Failed(message=text),
    "failed with data": lambda text: Failed(name="Odd", data=ValueError(text)),
    "failed with text": lambda text: Failed(data=text),
    "Cancelled": lambda text: Cancelled(message=text),
    "Crashed": lambda text: Crashed(data=KeyError(text)),
    "Running": lambda text: Running(message=text),
    "some failed": lambda text: [Completed(data=text), Failed(message=text)],
    "Completed": lambda text: Completed(name="Good", data=text),
    "all completed": lambda text: [Completed(data=text), Completed()],
}
"""The deeds: exceptions to raise, and states to return."""

ABORTING = ("SystemExit", "BaseException")  # these go on to whoever has called directly
COMPLETING = ("Completed", "all completed")


class Facts(Protocol):
    """What a body knows of its run."""

    @property
    def name(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def index(self) -> int | None: ...


def told(facts: Facts, tags: Sequence[str], given: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """All that a body knows, as its value: its run, its arguments, and what it has seen of what it submitted."""
    begin = f"{facts.name}/{facts.attempt}"
    known = "".join(shown(dict(sorted(part.items()))) for part in (given, report) if part)
    text = begin + "".join(f"+{tag}" for tag in tags) + known
    return text if len(text) <= _LONGEST or facts.name == ROOT else f"{begin}#{zlib.crc32(text.encode()):08x}"


def act(node: Node, facts: Facts, text: str) -> Any:
    """What the body returns; raises if that is its deed. Of a generator: the list of its items."""
    if not misbehaves(node, facts.attempt, facts.index):
        return [f"{text}:{number}" for number in range(node.items)] if node.items else text
    short = f"{facts.name}/{facts.attempt}"
    if node.deed in RAISED:
        raise RAISED[node.deed](short)
    return RETURNED[node.deed](short)


def arranged(shape: str, parts: Sequence[Any]) -> Any:
    """The parts in a container of that shape."""
    return _SHAPED[shape](parts)


_SHAPED: dict[str, Callable[[Sequence[Any]], Any]] = {
    "bare": lambda parts: parts[0],
    "list": list,
    "tuple": tuple,
    "dict": lambda parts: {f"k{number}": part for number, part in enumerate(parts)},
    "box": lambda parts: Box(list(parts)),
    "deep": lambda parts: [{"k": (Box(part),)} for part in parts],
}
SHAPES = tuple(_SHAPED)


# --- how values are compared ------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value without what may differ from run to run; containers by their exact types."""
    if type(value) in _SHOWN:
        return _SHOWN[type(value)](value)
    if isinstance(value, BaseException):
        return _shown_error(value)
    return f"<{value.name}>" if isinstance(value, State) else repr(value)


def _shown_error(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, UpstreamTaskError):
        return f"{kind}<{error.task_run_name}>"
    if isinstance(error, BaseExceptionGroup):  # the engine makes its text, and the order may be that of the ends
        return f"{kind}[{', '.join(sorted(map(shown, error.exceptions)))}]"
    return f"{kind}({error})"


def _shown_each(items: Sequence[Any]) -> str:
    return ", ".join(map(shown, items))


_SHOWN: dict[type, Callable[[Any], str]] = {
    list: lambda value: f"[{_shown_each(value)}]",
    tuple: lambda value: f"({_shown_each(value)})",
    dict: lambda value: "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}",
    Box: lambda value: f"Box({shown(value.content)})",
}
