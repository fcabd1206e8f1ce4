"""A Postgres server for the tests: of the system's packages, on a socket in a temporary directory, gone at the end."""

from __future__ import annotations

import glob
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_WHERE = "/usr/lib/postgresql/*/bin"


def binaries() -> Path | None:
    """Where the programs of the latest version are; None if there are none."""
    found = sorted(glob.glob(_WHERE), key=lambda path: [int(part) for part in path.split("/") if part.isdigit()])
    found = [path for path in found if os.path.exists(os.path.join(path, "initdb"))]
    return Path(found[-1]) if found else None


class Server:
    """One server. Refuses to run as root, so that it then runs as somebody else."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._as: dict[str, Any] = {}
        self.place = Path(tempfile.mkdtemp(prefix="penstock-pg-"))
        if os.geteuid() == 0:
            found = pwd.getpwnam("postgres")
            os.chown(self.place, found.pw_uid, found.pw_gid)
            self._as = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What makes the programs of Postgres find it by themselves, and the shell find them."""
        return {"PGHOST": str(self.place), "PGUSER": "penstock", "PATH": str(self._programs)}

    def make(self) -> None:
        """Make an empty cluster whose databases speak UTF-8, and do not sort by bytes."""
        options = ["--no-sync", "--auth=trust", "--username=penstock", "--encoding=UTF8", "--locale=C.UTF-8"]
        options += ["--locale-provider=icu", "--icu-locale=en"]
        self._run("initdb", *options, str(self.place / "data"))

    def start(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": self.place, "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self.place / "data", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        self._run("pg_isready", "--quiet", "--host", str(self.place), "--timeout=30", retry=True)

    def kill(self) -> None:
        """As if its machine had lost its power, apart from the disk: nobody of it can say anything more."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(3)  # SIGQUIT: at once
            self._process.wait(30)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://penstock@/{database}?host={self.place}"

    def new_database(self) -> str:
        """The URL of a database that is empty."""
        name = f"test{next(self._numbers)}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def ask(self, database: str, statement: str) -> str:
        """What psql says to a statement."""
        return self._run("psql", "-XAtq", "-h", str(self.place), "-U", "penstock", "-d", database, "-c", statement)

    def _run(self, program: str, *arguments: str, retry: bool = False) -> str:
        for attempt in itertools.count():
            done = subprocess.run(
                [self._programs / program, *arguments], cwd="/", capture_output=True, text=True, timeout=60, **self._as
            )
            if done.returncode == 0:
                return done.stdout.strip()
            assert retry and attempt < 300 and self._process is not None and self._process.poll() is None, done.stderr
        raise AssertionError


@contextmanager
def running_server() -> Iterator[Server]:
    """A server of this test process; skips where there is no Postgres."""
    programs = binaries()
    if programs is None:
        pytest.skip("there is no Postgres here: apt-get install postgresql")
    server = Server(programs)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running
