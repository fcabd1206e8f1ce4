"""What a code object says, whatever it looks like: without comments, docstrings, formatting and positions.

The one place of the core that looks at a file: the text of running code, by way of `linecache`. The text is believed
only if it compiles to the very code object that runs, because a file may have been edited since it was imported.
Where that fails (no text, another text, code that pytest has rewritten) the instructions themselves stand in. They
are just as exact, but another version of Python makes others of the same text.
"""

from __future__ import annotations

import ast
import dis
import linecache
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from penstock._core.canonical import LEAVES, Encoder, long_digest, of_str

_FILE = "<source of tasks>"  # the name under which text is compiled once more
_MOST_FILES = 32
_HAS_DOCSTRING = 0x4000000  # a flag of code objects from Python 3.13 on
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# What a syntax tree holds besides what it means.
_MEANINGLESS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
# What a definition holds that is not part of its code object: it is evaluated outside, and its values are known.
_OUTSIDE = frozenset({"annotation", "defaults", "kw_defaults"})

_Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_indexes: dict[str, tuple[list[str], dict[CodeType, bytes]]] = {}
_bodies: WeakKeyDictionary[CodeType, bytes] = WeakKeyDictionary()
_names: WeakKeyDictionary[CodeType, Names] = WeakKeyDictionary()


def body_of(code: CodeType, module: dict[str, Any]) -> bytes:
    """The digest of what `code` does. `module`: the globals of its function, which may know where the text is."""
    body = _bodies.get(code)
    if body is None:
        body = _bodies[code] = _from_text(code, module) or instructions_of(code)
    return body


# --- From the text ---


def _from_text(code: CodeType, module: dict[str, Any]) -> bytes | None:
    # Code that was pickled by value no longer knows its file; the globals that came along do.
    for filename in dict.fromkeys((code.co_filename, module.get("__file__"))):
        if isinstance(filename, str) and (found := _from_file(filename, code, module)) is not None:
            return found
    return None


def _from_file(filename: str, code: CodeType, module: dict[str, Any]) -> bytes | None:
    found = _index_of(filename, module).get(code)
    if found is None and filename in linecache.cache:
        linecache.checkcache(filename)  # edited, imported again, and somebody has asked for it in between
        found = _index_of(filename, module).get(code)
    return found


def _index_of(filename: str, module: dict[str, Any]) -> dict[CodeType, bytes]:
    """The digests of all functions in a file."""
    lines = linecache.getlines(filename, module)
    known = _indexes.get(filename)
    if known is not None and known[0] == lines:
        return known[1]
    index = dict(_read("".join(lines))) if lines else {}
    while len(_indexes) >= _MOST_FILES:
        _indexes.pop(next(iter(_indexes)), None)
    _indexes[filename] = lines, index
    return index


def _read(text: str) -> Iterator[tuple[CodeType, bytes]]:
    # A program sees the warnings about its text when that is compiled for it; once is enough. Not `catch_warnings`:
    # at its end it also takes away, or brings back, what other threads have set meanwhile.
    warnings.filterwarnings("ignore", module=_FILE)
    try:
        tree = ast.parse(text, _FILE)
        compiled = compile(tree, _FILE, "exec", dont_inherit=True)
        nodes: dict[tuple[str, int], list[_Node]] = {}
        for node in ast.walk(tree):
            if isinstance(node, _DEFINITIONS):
                nodes.setdefault(_place(node), []).append(node)
        for code in _within(compiled):
            node_of_code = _node_of(code, nodes.get((code.co_name, code.co_firstlineno), []))
            if node_of_code is not None:
                yield code, long_digest(b"".join(_syntax_of(node_of_code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # what has been found until here is right all the same


def _place(node: _Node) -> tuple[str, int]:
    if isinstance(node, ast.Lambda):
        return "<lambda>", node.lineno
    return node.name, node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _within(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _within(constant)


def _node_of(code: CodeType, candidates: list[_Node]) -> _Node | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    # Several lambdas in one line: the innermost one whose body holds all instructions.
    holding = [node for node in candidates if isinstance(node, ast.Lambda) and _holds(node.body, code)]
    return max(holding, key=lambda node: (node.body.lineno, node.body.col_offset), default=None)


def _holds(body: ast.expr, code: CodeType) -> bool:
    begin = body.lineno, body.col_offset
    end = body.end_lineno or 0, body.end_col_offset or 0
    places = [place for place in code.co_positions() if place[2] is not None and place[3] != 0]
    return bool(places) and all(
        begin <= (line or 0, column or 0) and (end_line or 0, end_column or 0) <= end
        for line, end_line, column, end_column in places
    )


def _syntax_of(node: _Node) -> Iterator[bytes]:
    yield type(node).__name__.encode()
    yield from _fields(node.args, _OUTSIDE)
    yield from _field("body", node.body, frozenset())


def _fields(node: ast.AST, left_out: frozenset[str]) -> Iterator[bytes]:
    yield b"(" + of_str(type(node).__name__)
    for name in node._fields:
        if name not in _MEANINGLESS and name not in left_out:
            yield from _field(name, getattr(node, name, None), left_out)
    yield b")"


def _field(name: str, value: Any, left_out: frozenset[str]) -> Iterator[bytes]:
    if isinstance(value, list):
        value = [item for item in value if not _says_nothing(item)]
    if value is not None and value != []:
        yield of_str(name)
        yield from _value(value, left_out)


def _says_nothing(node: Any) -> bool:
    """`pass`, docstrings, and strings that serve as comments."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _value(value: Any, left_out: frozenset[str]) -> Iterator[bytes]:
    if isinstance(value, ast.AST):
        yield from _fields(value, left_out)
    elif isinstance(value, list):
        yield b"[%d:" % len(value)
        for item in value:
            yield from _value(item, left_out)
    else:
        yield LEAVES[type(value)](value)


# --- From the instructions ---


def instructions_of(code: CodeType) -> bytes:
    """The digest of the instructions, for which a docstring and the places of constants do not matter."""
    constants = _Constants()
    facts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING)
    names = code.co_varnames, code.co_freevars, code.co_cellvars
    parts = [constants.encode((facts, names, code.co_exceptiontable))]
    for step in dis.get_instructions(code):
        parts.append(of_str(step.opname))
        if step.opcode in dis.hasconst and step.arg is not None:
            parts.append(constants.encode(code.co_consts[step.arg]))  # `argval` knows not all of them
        elif step.opcode in dis.hasname:
            parts.append(constants.encode((step.argval, step.argrepr)))
        else:
            parts.append(constants.encode(step.arg))
    return long_digest(b"".join(parts))


class _Constants(Encoder):
    __slots__ = ()

    def unknown(self, value: Any) -> bytes:
        return b"C" + instructions_of(value) if isinstance(value, CodeType) else super().unknown(value)


# --- Names ---


class Names(NamedTuple):
    """The variables of a function's surroundings that its code reads, and those whose values it changes itself."""

    globals: frozenset[str]
    changed_globals: frozenset[str]
    changed_cells: frozenset[str]


# Methods by which containers, and what resembles them, are changed.
_CHANGING = {
    *("add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "insert"),
    *("intersection_update", "move_to_end", "pop", "popitem", "popleft", "remove", "reverse", "rotate", "setdefault"),
    *("sort", "subtract", "symmetric_difference_update", "update"),
}
_GLOBAL_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_CELL_READS = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_ATTRIBUTE_READS = ("LOAD_ATTR", "LOAD_METHOD")
# Where on the stack is the object that an instruction changes.
_CHANGES = {"STORE_ATTR": -1, "DELETE_ATTR": -1, "STORE_SUBSCR": -2, "DELETE_SUBSCR": -2, "STORE_SLICE": -3}
_WITHOUT_EFFECT = ("NOP", "RESUME", "EXTENDED_ARG", "CACHE", "KW_NAMES", "NOT_TAKEN")


def names_of(code: CodeType) -> Names:
    names = _names.get(code)
    if names is None:
        scans = [_Scan(part) for part in (code, *_within(code))]
        names = _names[code] = Names(
            frozenset().union(*(scan.globals for scan in scans)),
            frozenset().union(*(scan.changed_globals for scan in scans)),
            frozenset().union(*(scan.changed_cells for scan in scans)) & frozenset(code.co_freevars),
        )
    return names


class _Scan:
    """Reads instructions in a row and follows on the stack where variables are.

    What it loses sight of, behind jumps or in calls, it takes for unchanged. That is the safe side: then the value
    counts.
    """

    def __init__(self, code: CodeType) -> None:
        self.globals: set[str] = set()
        self.changed_globals: set[str] = set()
        self.changed_cells: set[str] = set()
        self._stack: list[tuple[set[str], str] | None] = []
        for step in dis.get_instructions(code):
            if step.is_jump_target:
                self._stack = [None] * len(self._stack)
            self._note(step)
            self._move(step)

    def _note(self, step: dis.Instruction) -> None:
        name = step.opname
        if name in _GLOBAL_READS:
            self.globals.add(step.argval)
        elif name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            self.changed_globals.add(step.argval)
        elif name in ("STORE_DEREF", "DELETE_DEREF"):
            self.changed_cells.add(step.argval)
        elif name in _CHANGES:
            self._changed(_CHANGES[name])
        elif name in _ATTRIBUTE_READS and step.argval in _CHANGING:
            self._changed(-1)

    def _changed(self, place: int) -> None:
        found = self._stack[place] if len(self._stack) >= -place else None
        if found is not None:
            found[0].add(found[1])

    def _move(self, step: dis.Instruction) -> None:
        name, stack = step.opname, self._stack
        if name in _WITHOUT_EFFECT:
            return
        if name == "COPY" and 0 < (step.arg or 0) <= len(stack):
            stack.append(stack[-(step.arg or 0)])
        elif name == "SWAP" and 0 < (step.arg or 0) <= len(stack):
            place = -(step.arg or 0)
            stack[-1], stack[place] = stack[place], stack[-1]
        else:
            self._shift(step)

    def _shift(self, step: dis.Instruction) -> None:
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if effect <= 0:
            del self._stack[max(0, len(self._stack) + effect) :]
            if self._stack and not step.opname.startswith(("STORE_", "DELETE_", "POP_")):
                self._stack[-1] = None
        else:
            self._stack += [self._loaded(step)] if effect == 1 else [None] * effect

    def _loaded(self, step: dis.Instruction) -> tuple[set[str], str] | None:
        if step.opname in _GLOBAL_READS:
            return self.changed_globals, step.argval
        if step.opname in _CELL_READS:
            return self.changed_cells, step.argval
        return None
