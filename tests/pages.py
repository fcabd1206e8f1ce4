"""The code on the pages of the documentation: how it is found, run, and compared with what the page says about it.

A fenced block of Python is a script of its own; `python continued` goes on where the block before it ended. A block of
`console` is what somebody types, behind `$`, and sees. A line "`etl.py`:" above a block says that it is a file, which
the commands below may use. `python cell` is a
cell of a notebook. `no-run` after the language is for what cannot be run here; then the first line of the block
is a comment that says why. All blocks of a page share one directory and one store, in the order of the page.

What a script prints is promised in comments behind a `print`, or right below one. In what is promised, "..." alone in a
line stands for any lines, at the end of one for the rest of it; what changes from run to run (times, ids, names of
runs) is not compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from penstock import words

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"^(?:`(?P<file>[\w./-]+)`:\n\n)?```(?P<language>\w+)(?P<flags>[ \w-]*)\n(?P<code>.*?)^```$", re.M | re.S
)
RUN_NAME = rf"\b(?:{'|'.join(words._ADJECTIVES)})-(?:{'|'.join(words._NOUNS)})\b"

# What differs from run to run.
CHANGES = {
    r"\d{4}-\d\d-\d\d": "DATE",
    r"\d\d:\d\d(:\d\d)?(\.\d+)?(Z|\+\d\d:\d\d)?": "TIME",
    RUN_NAME: "NAME",
    r"[\w./-]+\.py:\d+": "LINE",
    r"[Pp]rocess \d+ on \S+": "PROCESS",
    r".*line \d+: +\d+ (Killed|Terminated).*": r"\1",  # bash says more about it in a script than in a terminal
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b": "ID",
    r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,32}\b": "ID",
    r"\b[\d.,e-]+ (ms|s|min|h)\b": "DURATION",
    r"\bin [\d.]+s\b": "in DURATION",  # pytest
    r"-{3,}": "---",
    r"[ \t]+": " ",
}


class Block(NamedTuple):
    """A fenced block."""

    language: str
    flags: frozenset[str]
    code: str
    file: str | None
    line: int

    @property
    def runs(self) -> bool:
        """Whether it is code, and is to be run."""
        return self.language in ("python", "console") and "no-run" not in self.flags


def blocks_of(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    return [
        Block(
            found["language"],
            frozenset(found["flags"].split()),
            found["code"],
            found["file"],
            page.count("\n", 0, found.start("code")),
        )
        for found in FENCE.finditer(page)
    ]


def promised(code: str, *, cell: bool = False) -> list[str]:
    """The lines that a script says it prints: behind a `print`, or in comments right below it.

    Those of a cell are the comments at its end, because it shows a value without printing it.
    """
    if cell:
        return [line[2:] for line in re.search(r"(^# .*\n)*\Z", code, re.M)[0].splitlines()]
    lines: list[str] = []
    below = False
    for line in code.splitlines():
        if below and line.lstrip().startswith("# "):
            lines.append(line.lstrip()[2:])
            continue
        found = re.fullmatch(r"(?:.*: )?\s*print\(.*?\)(?:  # (.*))?", line)
        below = found is not None
        if found is not None and found[1] is not None:
            lines.append(found[1])
    return lines


def steady(text: str) -> list[str]:
    """The lines of a text without what differs from run to run."""
    for pattern, replacement in CHANGES.items():
        text = re.sub(pattern, replacement, text)
    return [line.strip() for line in text.strip().splitlines()]


def agrees(said: str, seen: str) -> bool:
    """Whether the output is the promised one."""
    pattern = "".join(map(_line_pattern, steady(said)))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in steady(seen))) is not None


def _line_pattern(line: str) -> str:
    if line == "...":
        return "(?:.*\n)*?"
    return re.escape(line.removesuffix("...")) + (".*" if line.endswith("...") else "") + "\n"


class Desk:
    """Where somebody tries out a page: a directory, a home, a store, a shell, a Python."""

    def __init__(self, place: Path, more: Mapping[str, str] | None = None) -> None:
        """`more`: variables that the page needs; a `PATH` goes before the usual one."""
        more = dict(more or {})
        self.place = self._here = place / "project"
        home = place / "home"
        for directory in (self.place, home):
            directory.mkdir()
        others = ("PENSTOCK", "XDG_", "PYTHONBREAKPOINT")  # the last one is Ray's, where a test has connected to it
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        path = os.pathsep.join([str(Path(sys.executable).parent), more.pop("PATH", ""), kept.get("PATH", "")])
        usual = {"COLUMNS": "120", "PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
        self._environment = {**kept, **usual, **more, "HOME": str(home), "PATH": path}
        self._unseen = place / "errors"  # what a page sends to /dev/null: it is of use when something else is wrong
        self._python: subprocess.Popen[str] | None = None
        self._scripts = 0
        self._cells: list[Block] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._python is not None:
            self._python.communicate(timeout=60)

    def use(self, block: Block) -> None:
        """Do with a block what a reader does with it; fails if that does not give what the page says."""
        if block.file is not None:
            self._save(block.file, block.code)
        elif "cell" in block.flags:
            self._cells.append(block)
        elif block.language == "python":
            self._script(block)
        else:
            self._shell(block.code)

    def _save(self, name: str, text: str) -> None:
        target = self.place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")

    def _script(self, block: Block) -> None:
        self._scripts += 1
        name = f"script_{self._scripts}.py"
        self._save(name, block.code)
        answer = self._ask({"path": str(self.place / name), "continued": "continued" in block.flags})
        assert not answer["error"], f"{block.code}\n{answer['error']}"
        said = "\n".join(promised(block.code))
        assert agrees(said, answer["printed"]), f"{block.code}\nprinted:\n{answer['printed']}"

    def _ask(self, order: dict[str, object]) -> dict[str, str]:
        if self._python is None:
            command = [sys.executable, str(ROOT / "tests" / "page_driver.py")]
            self._python = subprocess.Popen(
                command,
                cwd=self.place,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._python.stdin is not None and self._python.stdout is not None
        print(json.dumps(order), file=self._python.stdin, flush=True)
        answer: dict[str, str] = json.loads(self._python.stdout.readline())
        return answer

    def run_cells(self) -> None:
        """Run the cells that were used, in one notebook; fails if they do not give what the page says."""
        if not self._cells:
            return
        command = [sys.executable, str(ROOT / "tests" / "notebook_driver.py")]
        done = subprocess.run(
            command,
            input=json.dumps([block.code for block in self._cells]),
            cwd=self.place,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        for block, output in zip(self._cells, json.loads(done.stdout), strict=True):
            said = "\n".join(promised(block.code, cell=True))
            assert agrees(said, output), f"{block.code}\n{output}"

    def _shell(self, code: str) -> None:
        typed = typed_in(code)
        # A mark goes before each output; it keeps the status of the command before it, for `echo $?`.
        mark = "\n__mark() { local status=$?; echo '>>>'\"$1\"'<<<'; return $status; }\n"
        script = mark + "".join(f"__mark {number}\n{command}\n" for number, (command, _) in enumerate(typed))
        script = script.replace("2>/dev/null", f"2>>{self._unseen}")
        script += "__mark 99999\npwd\n"  # the next block goes on where this one was
        done = subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            cwd=self._here,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        _, *seen, here = re.split(r">>>\d+<<<\n", done.stdout)
        self._here = Path(here.strip())
        assert len(seen) == len(typed), done.stdout
        for (command, said), output in zip(typed, seen, strict=True):
            output = output.replace(str(self.place), "/home/you/project").replace(str(self.place.parent), "")
            assert agrees(said, output), f"$ {command}\n{output}\n{self._errors()}"

    def _errors(self) -> str:
        return self._unseen.read_text("utf-8", "replace") if self._unseen.exists() else ""


def typed_in(code: str) -> list[tuple[str, str]]:
    """What is typed in a console, with what is then to be seen."""
    parts = re.split(r"^\$ ", code, flags=re.M)
    assert not parts[0].strip(), f"no command gives this: {parts[0]}"
    typed = []
    for part in parts[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\") or output.startswith("> "):
            more, _, output = output.partition("\n")
            command = f"{command}\n{more.removeprefix('> ')}"
        typed.append((command, output))
    return typed
