"""`penstock doctor`: the store and what is around it, looked at for trouble."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import click

from penstock import recovery, settings, storing
from penstock.cli.common import json_option, store_option, url_beside
from penstock.cli.store import results_directory
from penstock.cli.text import as_json, plural, printable, size
from penstock.exceptions import ConfigurationError, StoreUnavailable
from penstock.settings import reference
from penstock.settings.table import KNOWN, PREFIX, suggestion
from penstock.store import owners, upkeep
from penstock.store.base import StoreMissing
from penstock.store.files import database_in, log_of, size_of
from penstock.store.opening import SCHEMA_VERSION, as_unavailable, connect_reading

OK, NOTE, PROBLEM = "ok", "note", "problem"
COLOURS = {OK: "green", NOTE: "yellow", PROBLEM: "red"}
SHARED_FILE_SYSTEMS = re.compile(
    r"nfs4?|cifs|smb3|smbfs|ncpfs|9p|afs|lustre|gpfs|virtiofs|vboxsf|"
    r"(fuse\.)?(ceph|glusterfs|beegfs|mfs|sshfs|s3fs|rclone)"
)
"""Those on which several machines may be, or on which locks and shared memory are not what SQLite needs."""

LITTLE, TOO_LITTLE = 2 * 10**9, 100 * 10**6  # bytes of free space
LARGE_LOG = 64 * 2**20  # bytes beyond which somebody must be reading for long
SKEW = 2.0  # seconds that clocks may be apart
SHOWN = 10  # problems of one kind


class Finding(NamedTuple):
    """One line of the report."""

    about: str
    status: str  # OK, NOTE, PROBLEM
    text: str
    cure: str | None = None


Check = Callable[[Path], Iterator[Finding]]


@click.command()
@json_option
@store_option
def doctor(json_wanted: bool, store: Path | None) -> None:
    """Look at the store and what is around it for trouble, and say what to do about it.

    Looked at are: which store is used here and why, who may read it, whether it is whole, the file system and the space
    that it has, the processes that record in it, SQLite, Python, the optional packages, and the settings that are not
    the default. Each line is ok, a note, or a problem with its cure. Exit status 0, or 1 if there is a problem.

    Nothing is changed, but for runs of processes that have died, which are recorded as crashed.

    Example: penstock doctor
    """
    found = list(examine(store))
    if json_wanted:
        click.echo(as_json({"findings": [finding._asdict() for finding in found]}))
    else:
        click.echo(_as_text(found))
    raise SystemExit(any(finding.status == PROBLEM for finding in found))


def examine(directory: Path | None) -> Iterator[Finding]:
    """All findings about the store in `directory`, or about the one that is used here."""
    yield from _settings()
    try:
        home, url = directory or settings.home(), url_beside(directory)
        yield _place(directory, url)
    except ConfigurationError as error:
        yield Finding("store", PROBLEM, str(error), "correct the setting; until then no flow starts")
    else:
        for about, check in (CHECKS if url is None else SHARED_CHECKS).items():
            yield from _troubled(about, check, home)
    yield from (_sqlite(sqlite3.sqlite_version_info), _python(), *_packages())


def _troubled(about: str, check: Check, home: Path) -> Iterator[Finding]:
    """What a check says; that it could not be made is a finding, too."""
    try:
        yield from check(home)
    except StoreMissing:
        return  # said once, where the place is
    except ConfigurationError:
        yield Finding(about, NOTE, "not looked at: the settings cannot be read")
    except (OSError, StoreUnavailable) as error:
        yield Finding(about, PROBLEM, str(error))


def _as_text(found: list[Finding]) -> str:
    width = max(len(finding.about) for finding in found)
    lines = []
    for finding in found:
        status = click.style(f"{finding.status:<7}", fg=COLOURS[finding.status])
        lines.append(f"{status}  {finding.about:<{width}}  {printable(finding.text)}")
        if finding.cure:
            lines.append(f"{'':7}  {'':{width}}  -> {printable(finding.cure)}")
    return "\n".join(lines)


# The store.


def _place(directory: Path | None, url: str | None) -> Finding:
    if url is not None:
        home = settings.home()
        return Finding("store", OK, f"{storing.name_of(home, url)}; key, limits and locks of this machine: {home}")
    if directory is not None:
        home, why = directory, "as --store says"
    else:
        home, source, where = settings.place()
        why = _why(source, where)
    text = f"{home} ({why})"
    if home.is_file():
        return Finding("store", PROBLEM, f"{text}: a file, not a directory", "name the directory of the run store")
    if not os.path.exists(database_in(home)):
        return Finding("store", NOTE, f"{text}: nothing has been recorded there yet")
    return Finding("store", OK, f"{text}, {size(size_of(database_in(home)))}")


def _why(source: str, where: str | None) -> str:
    if source == "default":
        return "the default: there is no .penstock here or above, and no setting"
    if source == "directory":
        return "the nearest .penstock"
    return f"as {where} says"


def _file_system(home: Path) -> Iterator[Finding]:
    about = "file system"
    kind = file_system_of(home, mounts())
    if kind is None:
        yield Finding(about, NOTE, f"which kind {home} is on cannot be told on this system", "it must be a local disk")
    elif SHARED_FILE_SYSTEMS.fullmatch(kind):
        cure = "set PENSTOCK_HOME to a directory on a local disk; penstock backup copies what is there"
        text = f"{home} is on {kind}: SQLite can lose data where locks and shared memory go over a network"
        yield Finding(about, PROBLEM, text, cure)
    elif kind in ("tmpfs", "ramfs"):
        yield Finding(about, NOTE, f"{home} is on {kind}: it is gone when the machine is started again")
    else:
        yield Finding(about, OK, kind)


def mounts() -> list[tuple[str, str]]:
    """Mount points with the kind of file system, later ones above earlier ones; nothing where that is not to be had."""
    try:
        text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        first, _, second = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), first.split()[4])
        found.append((point, second.split()[0]))
    return found


def file_system_of(place: Path, mounts: list[tuple[str, str]]) -> str | None:
    """The kind of file system that `place` is on, or would be."""
    path = os.path.realpath(place)
    inside = [(len(point), number) for number, (point, _) in enumerate(mounts) if _is_inside(path, point)]
    return mounts[max(inside)[1]][1] if inside else None


def _is_inside(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _space(home: Path) -> Iterator[Finding]:
    place = next(place for place in (home.absolute(), *home.absolute().parents) if place.exists())
    free = shutil.disk_usage(place).free
    cure = "penstock prune --keep 30d gives back what old runs take"
    if free < TOO_LITTLE:
        yield Finding("space", PROBLEM, f"{size(free)} are free: soon nothing more can be recorded", cure)
    elif free < LITTLE:
        yield Finding("space", NOTE, f"{size(free)} are free", cure)
    else:
        yield Finding("space", OK, f"{size(free)} are free")


def _log(home: Path) -> Iterator[Finding]:
    grown = size_of(log_of(database_in(home)))
    if grown > LARGE_LOG:
        text = f"the log beside the database has {size(grown)}: some program keeps reading in one transaction"
        yield Finding("log", NOTE, text, "end programs that have had the database open for long")


def _owners(home: Path) -> Iterator[Finding]:
    if not os.path.exists(database_in(home)):
        return
    yield from _losses(recovery.recover(home))
    alive = [token for token in owners.tokens(home) if owners.is_alive(home, token)]
    known = [facts for token in alive if (facts := owners.facts(home, token)) is not None]
    named = ", ".join(f"{facts.pid} on {facts.host}" for facts in known[:SHOWN])
    yield Finding("processes", OK, f"{len(alive)} recording here now" + (f": {named}" if named else ""))


def _losses(losses: list[recovery.Loss]) -> Iterator[Finding]:
    for loss in losses:
        who = "a process" if loss.pid is None else f"process {loss.pid} on {loss.host}"
        text = f"{who} died before it had finished {plural(len(loss.runs), 'run')}: now recorded as crashed"
        yield Finding("processes", NOTE, text, f"penstock resume {loss.runs[0]}")


def _schema(home: Path) -> Iterator[Finding]:
    path = database_in(home)
    with as_unavailable(path):
        connection, version = connect_reading(path)
    connection.close()
    if version == SCHEMA_VERSION:
        yield Finding("schema", OK, f"version {version}")
    else:
        text = f"version {version}, from an older penstock"
        yield Finding("schema", NOTE, text, f"the next flow brings it to version {SCHEMA_VERSION}, and keeps a copy")


def _integrity(home: Path) -> Iterator[Finding]:
    if not os.path.exists(database_in(home)):
        return
    problems = upkeep.check(home, results=results_directory())
    for problem in problems[:SHOWN]:
        yield Finding(problem.what, PROBLEM, problem.text, CURES.get(problem.what))
    if len(problems) > SHOWN:
        yield Finding("integrity", PROBLEM, f"and {len(problems) - SHOWN:,} more", "penstock check lists all")
    if not problems:
        yield Finding("integrity", OK, "the database is whole, and so are records, results and file modes")


# Modes are not here: what is wrong with one says itself what to type.
CURES = {
    "database": "stop what writes, keep a copy of the directory, and begin a new store or use a backup",
    "records": "what is missing was lost with a power failure or a deleted log; runs can be started again",
    "results": "the runs that need these results execute again",
    "files": "penstock prune",
}


CHECKS: dict[str, Check] = {
    "file system": _file_system,
    "space": _space,
    "log": _log,
    "processes": _owners,
    "schema": _schema,
    "integrity": _integrity,
}


# The store, if it is a database for several machines.


def _database(home: Path) -> Iterator[Finding]:
    with closing(storing.shared_store(settings.store_url() or "")) as store:
        version, ahead, taken = store.about()
        yield Finding("database", OK, f"Postgres {version}, {size(taken)}")
        if abs(ahead) > SKEW:
            text = (
                f"the clocks of this machine and of the server are {abs(ahead):.0f} s apart: times cannot be compared"
            )
            yield Finding("database", NOTE, text, "let both keep the time (NTP)")
        yield from _losses(recovery.recover(home, store))


SHARED_CHECKS: dict[str, Check] = {"space": _space, "database": _database}


# What is around it.


def has_wal_fault(version: tuple[int, ...]) -> bool:
    """Whether this SQLite can damage a database when two checkpoints race with a commit."""
    mended = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}
    mended_in = mended.get((version[0], version[1]), (3, 51, 3))
    return (3, 7, 0) <= version < mended_in


def _sqlite(version: tuple[int, ...]) -> Finding:
    text = f"SQLite {'.'.join(map(str, version))}"
    if not has_wal_fault(version):
        return Finding("sqlite", OK, text)
    text += (
        " has the fault of 3.7.0 to 3.51.2 that two checkpoints at once can damage a database. penstock works around"
        " it: writing and checkpoints happen under one lock"
    )
    return Finding("sqlite", NOTE, text, "do not let other programs write to the store")


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return Finding("python", NOTE, f"{text}: without a global lock, which penstock is not tested with")
    return Finding("python", OK, text)


class Requirement(NamedTuple):
    """A package that one of the extras needs."""

    extra: str
    package: str
    least: str


_REQUIREMENT = re.compile(
    r"""(?P<package>[\w.-]+)(?:\[[\w,-]+\])?\s*(?:>=(?P<least>[\w.]+))?\s*;\s*extra == ['"](?P<extra>[\w-]+)['"]"""
)
_FOR_DEVELOPERS = ("dev", "docs")


def requirements() -> list[Requirement]:
    """What our own package says about its extras."""
    found = [_REQUIREMENT.fullmatch(text) for text in metadata.requires("penstock") or ()]
    named = [Requirement(one["extra"], one["package"], one["least"] or "0") for one in found if one]
    return [one for one in named if one.extra not in _FOR_DEVELOPERS]


def _packages() -> Iterator[Finding]:
    for extra, package, least in requirements():
        install = f"pip install 'penstock[{extra}]'"
        try:
            there = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(extra, OK, f"{package} is not installed; if it is wanted: {install}")
            continue
        if _numbers(there) < _numbers(least):
            yield Finding(extra, PROBLEM, f"{package} {there} is older than {least}", f"{install} --upgrade")
        else:
            yield Finding(extra, OK, f"{package} {there}")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _settings() -> Iterator[Finding]:
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in KNOWN and not name.startswith(f"{PREFIX}_"):
            near = suggestion(name.removeprefix(PREFIX).lower(), lambda near: PREFIX + near.upper())
            yield Finding("setting", NOTE, f"{name} is no setting, and ignored.{near}")
    try:
        stated = settings.stated()
    except ConfigurationError as error:
        yield Finding("setting", PROBLEM, str(error), "until that is corrected no flow starts")
        return
    for one in stated:
        if one.source != "default" and one.name != "home":
            text = f"{one.name} = {reference.shown(one.value)}, as {one.where or one.source} says"
            yield Finding("setting", NOTE, text)
