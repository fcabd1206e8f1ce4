"""The store in a Postgres database, for several machines. What differs from the file, and why:

* One transaction at a time, of all machines: each takes the same lock of the server first. So a batch cannot meet
  another one half-way, the numbers of log lines grow in the order in which they can be seen, and who claims a run or
  declares an owner dead sees everything that was written before.
* Which owners live, the server knows: each has a connection that holds a lock named after it, and notes now and then
  that it is there. A connection that is lost is not a death, so an owner is dead only when nobody has heard of it for
  `ABSENCE` seconds: then its rows are refused, should it come back. Its own host knows better, and at once: see
  `recovery`.
* A power cut takes from a file what was not forced to the disk. Here that is the server's business: it is left as it
  is set, which by default means that each commit waits for the disk. What has to survive a power cut waits in any case.
"""

from __future__ import annotations

import hashlib
import json
import os
from _thread import LockType
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic, time
from typing import Any

from penstock.exceptions import StoreUnavailable
from penstock.settings.table import without_password
from penstock.store.base import Batch, KeptRow, LogRow, OwnerDeclaredDead, RunRow, StoreLocked, StoreMissing
from penstock.store.inserting import clean
from penstock.store.postgres_doubt import Doubt
from penstock.store.postgres_inserting import Order, orders_for
from penstock.store.postgres_link import Link, Lost, Refused, check_version, dialect
from penstock.store.reading import PAGE, AnswersInSQL
from penstock.store.sqlite import FORGET_THE_DEAD

BEAT = 10.0  # seconds after which an owner says again that it is there
ABSENCE = 45.0  # seconds for which an owner without a connection may yet come back
SILENCE = 5.0  # seconds for which a store in trouble is not asked for requests
_TURN = 0x70656E73746F636C  # lock of those who write


class PostgresReader(AnswersInSQL):
    """Reads the store in the database at `url`, which others may be writing. Never makes or changes it. Thread-safe.

    Survives a fork: the child opens its own. A connection that was lost is made again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = without_password(url)
        self._reading = Lock()
        self._reader: Link | None = None
        self._pid = os.getpid()

    def statement(self, name: str) -> str:
        return dialect(name)

    def ask(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        values = {name: clean(value) if isinstance(value, str) else value for name, value in parameters.items()}
        with self._one_at_a_time():
            was_connected = self._reader is not None
            try:
                return self._answer(self._linked(), statement, values)
            except Refused:  # what cannot be written is not there
                return []
            except (Lost, StoreMissing) as error:
                self._disconnect()
                if not was_connected or isinstance(error, StoreMissing):
                    raise
                return self._answer(self._linked(), statement, values)

    def _answer(self, link: Link, statement: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        return link.execute(statement, values)

    def _kept_of(self, root_id: str) -> Iterator[KeptRow]:
        place = ""
        while rows := self.ask(dialect("kept"), {"root_id": root_id, "place": place, "limit": PAGE}):
            yield from (KeptRow._make(row[:-1]) for row in rows)
            place = rows[-1][-1]

    def vouches_for(self, owner: str) -> bool:
        """As `Reader.vouches_for`: it is connected, or has been heard of a short while ago."""
        lock = _lock_of(owner) % 2**64
        facts = {"owner": owner, "high": lock >> 32, "low": lock & 0xFFFFFFFF, "absence": ABSENCE}
        return bool(self.ask(dialect("vouches"), facts)[0][0])

    def about(self) -> tuple[str, float, int]:
        """The version of the server, how many seconds its clock is ahead of ours, the bytes that the store takes."""
        version, now, size = self.ask(dialect("about"), {})[0]
        return version, now - time(), size

    def close(self) -> None:
        with self._one_at_a_time():
            self._disconnect()

    def _one_at_a_time(self) -> LockType:
        self._notice_fork()
        return self._reading

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._reading = Lock()  # a thread of the parent process may have held the old one
            self._reader = None

    def _linked(self) -> Link:
        if self._reader is None:
            link = Link(self._url, writing=False)
            try:
                if link.known_version() is None:
                    raise StoreMissing(f"there is no run store in {self._place}")
            except BaseException:
                link.close()
                raise
            self._reader = link
        return self._reader

    def _disconnect(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()


class PostgresStore(PostgresReader):
    """The run store in the database at `url`, which gets its tables at the first write. Thread-safe.

    An owner counts as alive from the first row that it writes here until `close`, as long as somebody calls `beat`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._start_writing_afresh()
        self._generation = 0
        self._id: str | None = None

    def _start_writing_afresh(self) -> None:
        self._using = Lock()  # held while the writing connection is used
        self._writer: Link | None = None
        self._owners: set[str] = set()  # whose runs are written here
        self._beaten = -BEAT
        self._silent_until = 0.0
        self._some_are_dead = False
        self._doubt = Doubt()

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._start_writing_afresh()
        super()._notice_fork()

    @property
    def generation(self) -> int:
        return self._generation

    def write(self, batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        owners = _owners_of(batch)
        try:
            self._write(batch, owners, patience, power, cleaned=False)
        except (Refused, ValueError, TypeError):
            self._write(batch, owners, patience, power, cleaned=True)

    def _write(self, batch: Batch, owners: set[str], patience: float, power: bool, cleaned: bool) -> None:
        orders = orders_for(batch, cleaned=cleaned)
        with self._transaction(patience, owners, power=power, lines=batch.logs) as (link, to_do):
            if self._some_are_dead:
                _refuse_the_dead(link, batch)
            missing = self._doubt.missing(batch.logs)
            if missing is not batch.logs:
                orders = orders_for(batch._replace(logs=missing), cleaned=cleaned)
            to_do += orders

    def declare_dead(self, owner: str, now: float, message: str, *, patience: float = 1.0) -> list[str]:
        facts = {"owner": owner, "now": now, "message": clean(message), "old": now - FORGET_THE_DEAD}
        with self._transaction(patience) as (link, _):
            roots = [root for (root,) in link.ask("roots_of", facts)]
            if roots:
                link.ask("crash", facts)
            for order in ("bury", "forget_the_dead", "forget_the_absent"):
                link.ask(order, facts)
        return roots

    def claim(self, row: RunRow, lives: Sequence[str], *, patience: float = 1.0) -> RunRow | None:
        batch = Batch([row], [], [], [], [])
        with self._transaction(patience, _owners_of(batch)) as (link, to_do):
            found = link.ask("taken", {"lives": json.dumps(lives), "origin": row.resumed_from})
            if not found:
                to_do += orders_for(batch, cleaned=True)
        taken = RunRow._make(found[0]) if found else None
        # Its own: the first time the connection was lost before the answer came.
        return None if taken is None or taken.id == row.id else taken

    def drop_results(self, addresses: Sequence[str], *, patience: float = 1.0) -> None:
        with self._transaction(patience) as (link, _):
            link.ask("drop_results", {"addresses": json.dumps(addresses)})

    def beat(self) -> None:
        """Say that the owners who write here are there, if it is time for that. Call it now and then; never raises."""
        if not self._owners or monotonic() - self._beaten < BEAT:
            return
        self._beaten = monotonic()
        with suppress(StoreUnavailable), self._transaction(patience=1.0):
            pass

    # Requests for runs to be cancelled, as those of `Mailbox`.

    def post(self, run_id: str) -> None:
        """Ask for the run with this id to be cancelled, by whichever machine it is on."""
        with self._transaction(patience=1.0) as (link, _):
            link.ask("post", {"run_id": run_id})

    def requests(self) -> list[str]:
        """The ids of runs that somebody wants to be cancelled: on any machine. Of a store in trouble none is known."""
        if monotonic() < self._silent_until:
            return []
        try:
            return [run_id for (run_id,) in self.ask(dialect("requests"), {})]
        except StoreMissing:
            return []
        except StoreUnavailable:
            self._silent_until = monotonic() + SILENCE  # to find out again may take seconds each time
            return []

    def take(self, run_id: str) -> bool:
        """Remove a request; False if it has been removed."""
        try:
            with self._transaction(patience=1.0) as (link, _):
                return bool(link.ask("take", {"run_id": run_id}))
        except StoreUnavailable:
            return False

    def close(self) -> None:
        super().close()
        with self._using:
            if self._writer is not None and self._owners:
                with suppress(StoreUnavailable):
                    self._writer.ask("leave", {"owners": json.dumps([*self._owners])})
            self._owners.clear()
            self._close_writer()

    @contextmanager
    def transaction(self, patience: float = 1.0, *, forget: bool = False) -> Iterator[Link]:
        """Run the `with` block in a transaction, with everybody else shut out; an exception rolls it back.

        For those who look after a store. `forget` is for the file, which keeps a note of what it should hold.
        """
        with self._transaction(patience) as (link, _):
            yield link

    # The writing connection.

    @contextmanager
    def _transaction(
        self,
        patience: float,
        owners: set[str] | frozenset[str] = frozenset(),
        *,
        power: bool = False,
        lines: list[LogRow] | None = None,
    ) -> Iterator[tuple[Link, list[Order]]]:
        """Run the `with` block in a transaction, with everybody else shut out; an exception rolls it back.

        What the block puts into the list is done with the commit, in one round trip. `lines`: log lines among it.
        """
        self._notice_fork()
        with self._using:
            link = self._writable(owners)
            try:
                transaction = self._begin(link, patience)
                orders: list[Order] = [(dialect("to_the_disk"), ())] if power else []
                yield link, orders
                self._doubt.begin(str(self._id), transaction, lines or [])
                link.send([*orders, ("COMMIT", ())])
                self._doubt.end(lines or [])
            except (StoreLocked, Refused, OwnerDeclaredDead):
                link.roll_back()
                raise
            except BaseException:
                self._close_writer()
                raise

    def _writable(self, owners: set[str] | frozenset[str]) -> Link:
        fresh = self._writer is None
        writer = self._writer = self._opened() if self._writer is None else self._writer
        try:
            self._hold(writer, self._owners | owners if fresh else owners - self._owners)
        except BaseException:
            self._close_writer()
            raise
        if not owners <= self._owners:
            self._owners |= owners
            self._beaten = -BEAT
        return writer

    def _opened(self) -> Link:
        link = Link(self._url, writing=True)
        try:
            found = link.known_version()
            if found is None:
                link.make_store(os.urandom(16).hex())
                found = link.known_version()
            if found is None:
                raise StoreMissing(f"{self._place}: the tables of the run store are gone")
        except BaseException:
            link.close()
            raise
        before, self._id = self._id, found[1]
        self._generation += before not in (None, self._id)
        return link

    def _hold(self, link: Link, owners: set[str] | frozenset[str]) -> None:
        for owner in owners:
            link.ask("hold", {"lock": _lock_of(owner)})

    def _begin(self, link: Link, patience: float) -> str:
        """The number of the transaction."""
        turn = {"patience": max(1, int(1000 * patience)), "lock": _TURN}
        [(version, store, self._some_are_dead, transaction)] = link.ask("take_turn", turn)
        check_version(version, self._place)
        self._doubt.settle(link, store)
        if self._owners and monotonic() - self._beaten >= BEAT:
            link.ask("beat", {"owners": json.dumps([*self._owners])})
            self._beaten = monotonic()
        return str(transaction)

    def _close_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


def _refuse_the_dead(link: Link, batch: Batch) -> None:
    roots = {clean(row.root_id) for row in batch.runs}
    facts = {"owners": json.dumps([*_owners_of(batch)]), "roots": json.dumps([*roots])}
    if found := link.ask("among_the_dead", facts):
        raise OwnerDeclaredDead(
            f"{link.place}: the process that owns these runs seemed dead, and they were recorded as crashed"
            f" (owner {found[0][0]})"
        )


def _owners_of(batch: Batch) -> set[str]:
    return {str(clean(row.owner)) for row in batch.runs if row.owner is not None}


def _lock_of(owner: str) -> int:
    """The number of the lock that an owner holds, of 64 bits with a sign."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8, person=b"owner").digest()
    return int.from_bytes(digest, signed=True)
