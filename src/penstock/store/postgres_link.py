"""A connection to the Postgres server that holds a store. The one module that knows psycopg, which it loads when used.

* Statements are sent with their values inside: to a parameter without a value the server gives no type, and refuses it.
  Rows that are written travel as one JSON array instead, which is typed by its table.
* A connection that a fork inherited is the parent's. The child closes its copy of the socket without a word: as long
  as somebody has it open, the server takes the parent for alive.
* No password is in anything that is raised: neither is it said why a URL cannot be understood.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from penstock.exceptions import StoreUnavailable
from penstock.settings.table import without_password
from penstock.store.base import StoreLocked, StoreMissing
from penstock.store.opening import SCHEMA_VERSION, file_text, statements

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_TIMEOUT = 5  # seconds, unless the URL says otherwise
LONGEST_PAUSE = 10  # seconds that a writer may do nothing in a transaction, in which all others wait for it
LONGEST_READ = 60  # seconds for one query
# After about a minute the server notices that a machine is gone, and we that the server is.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_MAKING = 0x70656E73746F636B  # lock of those who make the tables
_PARAMETER = re.compile(r"(?<!:):(\w+)")
_COMMENT = re.compile(r"^--.*\n", re.M)
# What a recursion begins with decides how its texts sort; all of ours do as the tables' do.
_WORDS = {
    " INDEXED BY root_runs": "",
    "SELECT :run_id, ''": "SELECT :run_id, '' COLLATE \"C\"",
    "SELECT :run_id": 'SELECT :run_id COLLATE "C"',
    "SELECT :root_id": 'SELECT :root_id COLLATE "C"',
    " LIKE ": " ILIKE ",  # which, of texts that sort by bytes, knows the case of ASCII only, as SQLite does
}
_WHOLE = re.compile(r"CAST\((.+) AS INTEGER\)")  # theirs would round
_EACH = re.compile(r"json_each\((:\w+)\)")
_ELEMENTS = r'(SELECT value COLLATE "C" AS value FROM json_array_elements_text(\1) AS each (value)) AS elements'


class Refused(StoreUnavailable):
    """The server or the driver does not take a value."""


class GivenUp(StoreLocked):
    """A statement took longer than it may, or somebody has stopped it."""


class Lost(StoreUnavailable):
    """The connection is gone. Another one may do."""


@cache
def dialect(name: str) -> str:
    """The statement of this name, as Postgres and psycopg understand it."""
    files = ("postgres.sql", "queries.sql", "orders.sql", "upkeep.sql")
    return translated(next(found[name] for file in files if name in (found := statements(file))))


@cache
def translated(statement: str) -> str:
    """A statement that was written for SQLite, as Postgres and psycopg understand it."""
    text = _COMMENT.sub("", statement)  # a value with a line break would end a comment
    for ours, theirs in _WORDS.items():
        text = text.replace(ours, theirs)
    text = _WHOLE.sub(r"CAST(floor(\1) AS INTEGER)", text)
    text = _EACH.sub(_ELEMENTS, text.replace("%", "%%"))
    return _PARAMETER.sub(r"%(\1)s", text)


class Link:
    """One connection. For one thread at a time."""

    def __init__(self, url: str, *, writing: bool) -> None:
        """Connect. Raises `StoreUnavailable`; nothing is made or looked for."""
        self.place = without_password(url)
        self.pid = os.getpid()
        self._errors = partial(_as_unavailable, self.place)
        with self._errors():
            self._connection = _connected(url, self.place)
            self._descriptor = self._connection.fileno()
            _links[self._descriptor] = self
            self._connection.execute(_setup(writing))

    def ask(self, name: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """The rows that answer a statement of `dialect`."""
        return self.execute(dialect(name), parameters)

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """The rows that answer the last of these statements."""
        import psycopg

        with self._errors(), psycopg.ClientCursor(self._connection) as cursor:
            cursor.execute(statement.encode(), parameters or {})
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def look(self, statement: str, parameters: Mapping[str, object], seconds: float) -> list[tuple[Any, ...]]:
        """As `execute`, of a single statement, which can change nothing and may take so long on the server's clock.

        By the way in which it is sent the server takes one statement only, whatever is in it.
        """
        import psycopg

        with self._errors(), psycopg.ClientCursor(self._connection) as cursor:
            text = cursor.mogrify(statement.encode(), parameters)
        try:
            with self._errors(), self._connection.pipeline():
                self._connection.execute(b"BEGIN READ ONLY")
                self._connection.execute(f"SET LOCAL statement_timeout = {max(1, int(1000 * seconds))}".encode())
                found = self._connection.execute(text.encode(), prepare=False)
                self._connection.execute(b"COMMIT")
            with self._errors():
                return found.fetchall()
        except StoreUnavailable:
            self.roll_back()
            raise

    def send(self, orders: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Have several statements done, with one wait for all of them."""
        with self._errors(), self._connection.pipeline():
            for statement, values in orders:
                self._connection.execute(statement.encode(), values)

    def run(self, script: str) -> None:
        """Execute statements without values."""
        with self._errors():
            self._connection.execute(script.encode())

    def roll_back(self) -> None:
        """End the transaction, if the connection still can."""
        with suppress(StoreUnavailable):
            self.run("ROLLBACK")

    def close(self) -> None:
        if self.pid == os.getpid():
            if _links.get(self._descriptor) is self:  # else it is another one's by now
                del _links[self._descriptor]
            with suppress(StoreUnavailable), self._errors():
                self._connection.close()
        else:
            keep_for_good(self._connection)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()

    def known_version(self) -> tuple[int, str] | None:
        """The version of the schema and the store's id; None if there is no store. Refuses what is newer than we."""
        [(there, encoding)] = self.ask("is_there")
        if encoding != "UTF8":
            raise StoreUnavailable(f"{self.place}: the encoding of a database for runs must be UTF8, not {encoding}")
        if not there:
            return None
        found = self.ask("guard")
        if not found:
            raise StoreUnavailable(f"{self.place} has a schema penstock, but it is not that of a run store")
        version, store, _ = found[0]
        check_version(version, self.place)
        return version, store

    def make_store(self, name: str) -> None:
        """Make the tables, unless somebody else just has."""
        # Locked before the transaction: one that begins and then waits does not get to know what was made meanwhile.
        self.run(f"SELECT pg_advisory_lock({_MAKING})")
        try:
            self.run("BEGIN")
            if self.known_version() is None:
                self.run(file_text("postgres_schema.sql"))
                self.execute("INSERT INTO store VALUES (%(version)s, %(id)s)", {"version": SCHEMA_VERSION, "id": name})
            self.run(f"COMMIT; SELECT pg_advisory_unlock({_MAKING})")
        except BaseException:
            self.close()  # which gives up the lock, too
            raise


def check_version(version: int, place: str) -> None:
    """Refuse a store that is not of our version."""
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{place} was written by a newer penstock: its schema is version {version}, this penstock knows"
            f" version {SCHEMA_VERSION}. Type: pip install --upgrade penstock"
        )


def keep_for_good(thing: object) -> None:
    """Never let go of what a fork inherited: it would be closed, which is the parent's business."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _connected(url: str, place: str) -> Connection:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Not with its reason: that may quote the password.
        raise StoreUnavailable(
            f"{place}: the URL of the store cannot be understood. In names and passwords, other characters than letters"
            " and digits are written as %XX"
        ) from None
    defaults = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "penstock", **_KEEPALIVE}
    more = {name: value for name, value in defaults.items() if name not in given}
    return psycopg.connect(url, autocommit=True, client_encoding="utf8", **more)  # type: ignore[arg-type]


def _setup(writing: bool) -> bytes:
    settings: dict[str, object] = {f"tcp_{name}": value for name, value in _KEEPALIVE.items()}
    settings |= {"search_path": "penstock", "default_transaction_isolation": "'read committed'"}
    settings |= {"standard_conforming_strings": "on", "bytea_output": "hex"}
    # Our queries go along indexes, from row to row. The server believes that a tree has more runs than there are
    # altogether, and would read and compile for ever, or read through all runs there are, with several processors.
    settings |= {"jit": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
    if writing:
        settings |= {
            "idle_in_transaction_session_timeout": f"'{LONGEST_PAUSE}s'",
            "default_transaction_read_only": "off",
        }
    else:
        settings |= {"statement_timeout": f"'{LONGEST_READ}s'", "default_transaction_read_only": "on"}
        settings |= {"enable_seqscan": "off", "max_parallel_workers_per_gather": 0}
    return "; ".join(f"SET {name} = {value}" for name, value in settings.items()).encode()


@contextmanager
def _as_unavailable(place: str) -> Iterator[None]:
    """Turn the ways in which psycopg fails into `StoreUnavailable`."""
    try:
        import psycopg
        from psycopg import errors
    except ImportError as error:
        raise StoreUnavailable(f'{place} needs psycopg. Type: pip install "penstock[postgres]"') from error
    try:
        yield
    except errors.QueryCanceled as error:
        raise GivenUp(f"{place}: {_said(error)}") from error
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        raise StoreLocked(f"{place}: {_said(error)}") from error
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise StoreMissing(f"{place}: the tables of the run store are gone") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Lost(f"{place}: {_said(error)}") from error
    except (psycopg.DataError, ValueError, TypeError) as error:
        raise Refused(f"{place}: {_said(error)}") from error
    except psycopg.ProgrammingError as error:
        by_the_server = error.sqlstate is not None  # and not the driver, which has met a type that it does not know
        raise (StoreUnavailable if by_the_server else Refused)(f"{place}: {_said(error)}") from error
    except (psycopg.Error, OSError) as error:
        raise StoreUnavailable(f"{place}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_links: WeakValueDictionary[int, Link] = WeakValueDictionary()  # by descriptor: those of this process


def _let_go_in_child() -> None:
    for descriptor, link in list(_links.items()):
        keep_for_good(link)
        with suppress(OSError):
            os.close(descriptor)
    _links.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
