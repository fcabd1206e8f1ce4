"""Words and e-mail addresses in the source of Python's own standard library, and what became of each file.

Reads every .py and .txt file of the library of the Python that runs this (or of the folder named on the
command line), and two files made up here, so that both kinds of trouble happen on every machine: one in an
old encoding, which is read at the second attempt, and one that cannot be read at all.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from penstock import allow_failure, flow, runtime, task
from penstock.exceptions import UpstreamTaskError

INBOX = {
    "old.py": "# -*- coding: latin-1 -*-\n# Grüße an josé@example.org\n".encode("latin-1"),
    "damaged.py": "# Grüße, in an encoding that the file does not tell\n".encode("latin-1"),
}


@dataclass
class TextStats:
    path: Path
    length: int
    words: Counter[str]
    emails: Counter[str]


@dataclass
class Report:
    texts: list[TextStats]
    words: Counter[str]
    emails: Counter[str]
    problems: list[str]


@task
def list_files(folders: list[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        for place, subfolders, names in os.walk(folder):
            subfolders[:] = sorted(set(subfolders) - {"site-packages", "__pycache__"})
            found += [Path(place, name) for name in sorted(names) if name.endswith((".py", ".txt"))]
    return found


@task(retries=1, task_run_name="read {path.name}")
def read_text(path: Path) -> str:
    """Read as UTF-8, which is nearly always right; if it was not, read as the file's first lines declare."""
    if runtime.task_run.run_count == 1:
        return path.read_text(encoding="utf-8")
    with tokenize.open(path) as file:  # understands "-*- coding: ... -*-"
        return file.read()


@task(task_run_name="measure {path.name}")
def measure(path: Path, text: str) -> TextStats:
    words = Counter(re.findall(r"[a-z]{4,}", text.lower()))
    emails = Counter(re.findall(r"\b[\w.+-]+@[\w-]+\.[\w.-]*\w", text))
    return TextStats(path, len(text), words, emails)


@task
def summarize(results: list[TextStats | UpstreamTaskError]) -> Report:
    texts = [result for result in results if isinstance(result, TextStats)]
    words, emails = Counter[str](), Counter[str]()
    for text in texts:
        words.update(text.words)
        emails.update(text.emails)
    blocked = [result for result in results if isinstance(result, UpstreamTaskError)]
    return Report(texts, words, emails, [f"{error.task_run_name}: {error.__cause__}" for error in blocked])


@flow
def library_statistics(folders: list[Path]) -> Report:
    files = list_files(folders)
    texts = read_text.map(files)
    stats = measure.map(files, texts)  # each file as soon as its text is there
    return summarize(allow_failure(stats))  # with the exceptions of those that failed in their places


def as_lines(report: Report) -> Iterator[str]:
    yield f"{len(report.texts):,} texts, {sum(report.words.values()):,} words of four letters and more"
    yield "Most frequent: " + ", ".join(f"{word} {n:,}" for word, n in report.words.most_common(6))
    yield f"E-mail addresses: {len(report.emails):,} different ones; most frequent:"
    yield from (f"  {n:4} {address}" for address, n in report.emails.most_common(3))
    yield "Largest texts, in characters:"
    for text in sorted(report.texts, key=lambda text: text.length, reverse=True)[:3]:
        yield f"  {text.length:9,} {text.path.name}"
    yield f"Files that could not be read: {len(report.problems)}"
    yield from (f"  {problem}" for problem in report.problems[:3])


def main() -> None:
    library = sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")
    with TemporaryDirectory() as inbox:
        for name, content in INBOX.items():
            Path(inbox, name).write_bytes(content)
        report = library_statistics([Path(inbox), Path(library)])
    print(*as_lines(report), sep="\n")

    penstock = which("penstock", path=sysconfig.get_path("scripts")) or "penstock"
    for arguments in (["ls", "--limit", "3"], ["show", "@last", "--limit", "5"]):
        print("\n$ penstock", *arguments, flush=True)
        subprocess.run([penstock, *arguments], check=True)
    print("\nEvery task run: penstock show @last --limit 10000. Shorter examples: examples/README.md.")


if __name__ == "__main__":
    main()
