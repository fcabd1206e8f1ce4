"""The tree of a transaction: what is part of what, whether it is doomed, and how all of it is committed or rolled back.

The blocks that the user writes are nodes, and so is every run that is made inside one: it has a transaction of its own,
which is what its hooks get. What completes is *staged*, that is, its node keeps in memory what is to be stored: rows of
results, and the run's row that says where the result is. At the end of the outermost block all of it goes to the store
at once, or nothing does.

A failure *dooms*: the node, the one above it, and so on up to the outermost. It is noted together with the attempt of
the run above that it happened in. If that run is tried again, the note is about an attempt that no longer counts.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from enum import Enum
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.errors import describe
from penstock._core.policy import NotSet
from penstock._engine.context import current_run, current_transaction
from penstock._engine.requests import Awaited
from penstock._engine.run import Run
from penstock._engine.staging import Ends, Steps, able_to_call, aside, await_inside, erase, inside, store

if TYPE_CHECKING:
    from penstock._engine.recorder import Recorder
    from penstock._engine.staging import Part

Hook = Callable[[Any], Any]

_logger = logging.getLogger("penstock.transactions")
_lock = RLock()  # of all trees: it is held for moments only


class Progress(Enum):
    """How far a transaction has come."""

    PENDING = "pending"
    ACTIVE = "active"
    STAGED = "staged"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


OVER = (Progress.COMMITTED, Progress.ROLLED_BACK)


class Asked(NamedTuple):
    """What a staged result answers to."""

    storage: str | None
    key: str


class Node:
    """What blocks and runs have in common as parts of a transaction. Thread-safe.

    There is one for each run, up to the end of the outermost block, and most have nothing in most fields: containers
    are made when something is put into them.
    """

    __slots__ = (
        *("_above", "_answers", "_attempt", "_children", "_closed", "_commit_hooks", "_dooms", "_entered_in"),
        *("_living", "_parent", "_rollback_hooks", "_state", "_values", "logger"),
    )

    def __init__(self) -> None:
        self.logger: logging.Logger | logging.LoggerAdapter[Any] | None = None
        self._commit_hooks: list[Hook] | None = None
        self._rollback_hooks: list[Hook] | None = None
        self._state = Progress.PENDING
        self._values: dict[str, Any] | None = None
        self._parent: Any = None  # the node whose values it sees
        self._above: Node | None = None  # whose part it is
        self._attempt = 0  # of the run above, in which it was begun
        self._dooms: tuple[int, ...] = ()  # attempts in which something below failed
        self._children: list[Node] | None = None  # that have ended; badly, too: what is below may have completed
        self._answers: dict[Asked, Node] | None = None  # staged results by what they answer to
        self._living: set[Run] | None = None
        self._entered_in: Run | None = None
        self._closed = False

    def _place_below(self, above: Node) -> None:
        self._parent = self._above = above
        self._attempt = above._now

    @property
    def on_commit_hooks(self) -> list[Hook]:
        """Called with the transaction when it has been committed, in this order."""
        if self._commit_hooks is None:
            self._commit_hooks = []
        return self._commit_hooks

    @property
    def on_rollback_hooks(self) -> list[Hook]:
        """Called with the transaction when it is rolled back, the last one first."""
        if self._rollback_hooks is None:
            self._rollback_hooks = []
        return self._rollback_hooks

    # --- values -----------------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Remember a value: for this transaction, those inside it, and hooks."""
        if self._values is None:
            self._values = {}
        self._values[name] = value

    def get(self, name: str, default: Any = NotSet) -> Any:
        """A copy of the value with this name, of this transaction or the nearest one around it.

        Without a default, raises `ValueError` for a name that is unknown.
        """
        found: Node | None = self
        while found is not None:
            if found._values is not None and name in found._values:
                return copy.deepcopy(found._values[name])
            found = found._parent
        if default is NotSet:
            raise ValueError(f"The transaction has no value {name!r}: set it with txn.set({name!r}, value)")
        return default

    def get_parent(self) -> Any:
        """The transaction around this one."""
        return self._parent

    # --- states -----------------------------------------------------------------------------------------------------

    def is_pending(self) -> bool:
        """Has it not been entered?"""
        return self._state is Progress.PENDING

    def is_active(self) -> bool:
        return self._state is Progress.ACTIVE

    def is_staged(self) -> bool:
        """Has `stage` been called, or has it ended well inside another one that is not over?"""
        return self._state is Progress.STAGED

    def is_committed(self) -> bool:
        """Is it committed? On entering a transaction with a key: has an earlier one with that key been?"""
        return self._state is Progress.COMMITTED

    def is_rolled_back(self) -> bool:
        return self._state is Progress.ROLLED_BACK

    # --- the tree ---------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> int:
        """The attempt in which what is begun below is begun."""
        return 0

    @property
    def _asked(self) -> Asked | None:
        """What a staged result of its own answers to."""
        return None

    def _answer(self, asked: Asked) -> Node | None:
        """What answers to it, of everything that has been staged here."""
        with _lock:
            return None if self._answers is None else self._answers.get(asked)

    @property
    def _is_doomed(self) -> bool:
        return self._now in self._dooms

    def _close(self, progress: Progress | None) -> Iterator[Node]:
        """Everything staged, in the order of committing: what is inside before what is around it.

        From here on nothing is added: what comes later is on its own.
        """
        with _lock:
            self._closed = True
            if progress is not None:
                self._state = progress
            children = list(self._children or ())
        for child in children:
            yield from child._close(progress)
        yield self

    def _doom(self, attempt: int) -> None:
        with _lock:
            self._dooms = (*self._dooms, attempt)

    def _begun(self, run: Run) -> None:
        """A run that is part of this is about to begin."""
        with _lock:
            if self._living is None:
                self._living = set()
            self._living.add(run)
        run.subscribe(self._gone)

    def _gone(self, run: Any) -> None:
        own: Any = run.memo.transaction
        with _lock:
            if self._living is not None:
                self._living.discard(run)
            if not own.concluded:  # the engine has failed with it
                self._doom(own._attempt)

    def _settle(self, everything: bool) -> Steps:
        """Wait for what was submitted inside; with `everything`, also for calls that other coroutines have begun."""
        while pending := self._pending(everything):
            yield Ends(pending)

    def _pending(self, everything: bool) -> list[Any]:
        caller = current_run.get()
        around = () if caller is None else set(caller.ancestors())
        with _lock:
            living = list(self._living or ())
        # A run that has no lifecycle was never begun: its call raised before that, or its coroutine is not awaited.
        begun = [run for run in living if run.lifecycle is not None and not run.done and run not in around]
        return [*self._maps(), *(begun if everything else [run for run in begun if run.has_future])]

    def _maps(self) -> list[Any]:
        """Maps in the block whose runs do not exist yet, because what is mapped over does not."""
        children = () if self._entered_in is None else self._entered_in.living_children()
        unexpanded: list[Any] = [child for child in children if hasattr(child, "expanded")]
        return [child.expanded for child in unexpanded if child._context.get(current_transaction) is self]

    def _hand_over(self, above: Node, failed: bool) -> Steps:
        """This part has ended: from here on the transaction around it is responsible for it."""
        with _lock:
            late = above._closed
            if not late:
                self._state = Progress.STAGED
                above._take(self, failed)
        if late and not above.is_rolled_back() and not failed and not self._is_doomed:
            yield from self._commit()
        elif late:
            yield from self._undo()

    def _take(self, child: Node, failed: bool) -> None:
        if self._children is None or self._answers is None:
            self._children, self._answers = [], {}
        self._children.append(child)
        self._answers.update(child._answers or {})
        if child._asked is not None:
            self._answers[child._asked] = child
        if failed or child._is_doomed:
            self._doom(child._attempt)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _commit(self) -> Steps:
        nodes = list(self._close(None))
        try:
            yield from aside(lambda: store(nodes))
        except Exception as error:
            self._log(logging.ERROR, f"{self._label} cannot be committed, so it is rolled back: {describe(error)}")
            yield from self._undo()
            return False
        for node in nodes:
            node._state = Progress.COMMITTED
        for node in nodes:
            for hook in node._commit_hooks or ():
                if not (yield from node._call(hook, "which rolls the transaction back")):
                    yield from self._undo(stored=True)
                    return False
        self._forget()
        return True

    def _undo(self, *, stored: bool = False, dooms: bool = True) -> Steps:
        nodes = list(self._close(Progress.ROLLED_BACK))
        if dooms and self._above is not None:
            self._above._doom(self._attempt)
        self._log(logging.INFO, f"{self._label} is rolled back")
        for node in reversed(nodes):
            for hook in reversed(node._rollback_hooks or ()):
                yield from node._call(hook, "which changes nothing for the others")
        try:
            yield from aside(lambda: erase(nodes, stored))
        except Exception as error:
            self._log(logging.WARNING, f"{self._label} is rolled back, but not all of its results are gone: {error}")
        self._forget()

    def _forget(self) -> None:
        """What is over is called once, and kept by nobody."""
        with _lock:
            self._children = self._answers = self._commit_hooks = self._rollback_hooks = None

    def _call(self, hook: Hook, consequence: str) -> Steps:
        """Call a hook inside the run that it is about; whether it has done so without raising."""
        run = self._scope
        with able_to_call(run):
            error = yield from self._try(hook, run)
            # What a hook has submitted is waited for here, unless its run goes on, and waits for that itself.
            while run is not None and run.status.final and (children := run.living_children()):
                yield Ends(children)
        if error is None:
            return True
        name = getattr(hook, "__name__", repr(hook))
        self._log(logging.ERROR, f"{self._label}: the hook {name} raised an exception, {consequence}", error)
        return False

    def _try(self, hook: Hook, run: Run | None) -> Steps:
        try:
            with inside(run):
                answer = hook(self)
        except BaseException as error:  # SystemExit as well, as of all hooks
            return error
        if not inspect.isawaitable(answer):
            return None
        return (yield Awaited(await_inside(run, answer))).error

    @property
    def _scope(self) -> Run | None:
        """The run that hooks are called in."""
        run = self._entered_in
        if run is None or not run.done or run.memo is None or run.memo.transaction is None:
            return run
        standing_in: Run | None = run.memo.transaction._scope
        return standing_in

    @property
    def _label(self) -> str:
        return "The transaction"

    def _log(self, level: int, message: str, error: BaseException | None = None) -> None:
        with inside(self._scope):
            (self.logger or _logger).log(level, message, exc_info=error)

    # --- what the store gets ----------------------------------------------------------------------------------------

    def write_apart(self) -> None:
        """Write what cannot be part of a transaction of the store. Raises what prevents that."""

    def take_back_apart(self) -> None:
        """Let what has been written there count as absent."""

    def contribute(self, part: Callable[[Recorder], Part]) -> None:
        """Add to what goes to the store at once. Raises what prevents that."""

    def take_back(self, part: Callable[[Recorder], Part]) -> None:
        """Name what is to vanish from the store, and how its run is to be shown."""


def around(run: Run | None) -> Any:
    """The node that whatever the body of `run` does is part of."""
    current: Node | None = current_transaction.get()
    if current is None or run is current._entered_in:
        return current
    own: Node | None = None if run is None or run.memo is None else run.memo.transaction
    return own if own is not None and own._above is not None else None


def _forget() -> None:
    """In a forked child: whoever held the lock is not here."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
