"""Types are part of the product: two checkers read what users write, and must agree with the marks in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [Path(__file__).with_name("typing") / name for name in ("must_pass.py", "must_fail.py")]
Errors = dict[str, dict[int, str]]  # file name -> line -> message


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command, *map(str, FILES)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr  # 1: it found errors
    return done.stdout


def mypy() -> Errors:
    errors: Errors = {file.name: {} for file in FILES}
    output = run("mypy", "--strict", "--no-pretty", "--no-error-summary", "--hide-error-context")
    for path, line, message in re.findall(r"^(.+?):(\d+): error: (.*)$", output, re.MULTILINE):
        errors[Path(path).name][int(line)] = message
    return errors


def pyright() -> Errors:
    errors: Errors = {file.name: {} for file in FILES}
    report = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            line = found["range"]["start"]["line"] + 1
            errors[Path(found["file"]).name][line] = found["message"]
    return errors


@pytest.fixture(scope="module", params=[mypy, pyright], ids=lambda checker: checker.__name__)
def errors(request: pytest.FixtureRequest) -> Errors:
    checker: Callable[[], Errors] = request.param
    return checker()


def marked(file: Path) -> set[int]:
    lines = file.read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("# error")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_errors_are_where_the_marks_are(file: Path, errors: Errors) -> None:
    found = errors[file.name]
    assert {line: found[line] for line in found.keys() - marked(file)} == {}, "errors on unmarked lines"
    assert sorted(marked(file) - found.keys()) == [], "marked lines without an error"


def test_something_is_marked() -> None:
    assert [bool(marked(file)) for file in FILES] == [False, True]
