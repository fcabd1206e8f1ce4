"""What limits hand out: slots, which are held and given back, and the passage of time."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

from penstock._engine import clock
from penstock._engine.company import Definition, Sheet

if TYPE_CHECKING:
    from penstock._engine.limits import Request

HOLDERS_NAMED = 10
INSTANT = 1e-6  # seconds: a shorter pause is only the rounding error of the clock


class Source(Protocol):
    """What a limit hands out. Every method is called under the lock of the limits."""

    @property
    def defined(self) -> bool:
        """False: there is nothing to keep to, and everybody may pass."""
        ...

    @property
    def kind(self) -> str: ...
    @property
    def definition(self) -> Definition:
        """What it allows, as two numbers."""
        ...

    def define(self, numbers: Definition) -> None: ...

    @property
    def most(self) -> int | None:
        """The largest amount that can ever be had at once; None = any."""
        ...

    def learn(self, sheet: Sheet) -> None:
        """Note what other processes have taken."""
        ...

    def forget_company(self) -> None: ...
    def tell(self, sheet: Sheet) -> int:
        """Write down what this process has taken, but for what it holds, which is returned."""
        ...

    def who(self) -> str:
        """For people in other processes: who holds something here."""
        ...

    def pause(self, request: Request) -> float:
        """Return in how many seconds there is room: 0 = now, infinity = when somebody gives back."""
        ...

    def take(self, request: Request) -> None: ...

    def give(self, request: Request) -> None:
        """Take back what `request` holds, if it holds anything."""
        ...

    def describe(self, name: str) -> str:
        """Tell a person what stands in the way."""
        ...


class Slots:
    """A number of places that are held and given back."""

    kind = "slots"

    def __init__(self) -> None:
        self.capacity: int | None = None
        self.holders: dict[Request, int] = {}
        self.elsewhere = 0  # held by other processes
        self._others: list[str] = []

    @property
    def definition(self) -> Definition:
        return self.capacity, None

    def define(self, numbers: Definition) -> None:
        self.capacity = None if numbers[0] is None else int(numbers[0])

    def learn(self, sheet: Sheet) -> None:
        self.elsewhere = sheet.held_elsewhere()
        self._others = sheet.holders() if self.elsewhere else []

    def forget_company(self) -> None:
        self.elsewhere, self._others = 0, []

    def tell(self, sheet: Sheet) -> int:
        return sum(self.holders.values())

    def who(self) -> str:
        more = f" and {len(self.holders) - 1} more" if len(self.holders) > 1 else ""
        return f"{next(iter(self.holders)).holder[:60]}{more}" if self.holders else ""

    @property
    def defined(self) -> bool:
        return self.capacity is not None

    @property
    def most(self) -> int | None:
        return self.capacity

    def pause(self, request: Request) -> float:
        if self.capacity is None:
            return 0.0
        # Added up each time: a counter beside the dictionary could be left wrong by an interrupt. The request
        # itself is among the holders if an interrupt struck while it was being admitted.
        others = sum(self.holders.values()) - self.holders.get(request, 0)
        return 0.0 if others + self.elsewhere + request.amount <= self.capacity else inf

    def take(self, request: Request) -> None:
        self.holders[request] = request.amount

    def give(self, request: Request) -> None:
        self.holders.pop(request, None)

    def describe(self, name: str) -> str:
        holders = [request.holder for request in self.holders] + self._others
        named = ", ".join(holders[:HOLDERS_NAMED])
        more = f" and {len(holders) - HOLDERS_NAMED} more" if len(holders) > HOLDERS_NAMED else ""
        by = f", held by {named}{more}" if holders else ""
        taken = sum(self.holders.values()) + self.elsewhere
        return f"concurrency limit {name!r} ({taken} of {self.capacity} slots taken{by})"


class Rate:
    """So many per second. The bookkeeping is one number: the moment at which everything taken is paid for.

    `burst` says how much may be taken on credit. Without it, each request waits until the ones before it are
    paid for, so requests pass at even distances, and a large one makes the next one wait long.
    """

    kind = "rate"

    def __init__(self) -> None:
        self.per_second: float | None = None
        self.burst: int | None = None
        self.paid_at = -inf

    @property
    def definition(self) -> Definition:
        return self.per_second, self.burst

    def define(self, numbers: Definition) -> None:
        self.per_second, self.burst = numbers[0], None if numbers[1] is None else int(numbers[1])

    def learn(self, sheet: Sheet) -> None:
        until, said = sheet.paid()
        # A moment that has not come yet: the machine was started anew, and its clock with it.
        self.paid_at = until if said <= clock.get().monotonic() + 1 else -inf

    def forget_company(self) -> None:
        """Nothing: what they have used up is used up."""

    def tell(self, sheet: Sheet) -> int:
        if self.paid_at != sheet.paid()[0]:
            sheet.pay(self.paid_at, clock.get().monotonic())
        return 0

    def who(self) -> str:
        return ""

    @property
    def defined(self) -> bool:
        return self.per_second is not None

    @property
    def most(self) -> int | None:
        return self.burst

    def pause(self, request: Request) -> float:
        if self.per_second is None:
            return 0.0
        credit = 0 if self.burst is None else self.burst - request.amount
        pause = self.paid_at - credit / self.per_second - clock.get().monotonic()
        return pause if pause > INSTANT else 0.0

    def take(self, request: Request) -> None:
        if self.per_second is not None:
            self.paid_at = max(self.paid_at, clock.get().monotonic()) + request.amount / self.per_second

    def give(self, request: Request) -> None:
        """Nothing: what has passed has passed."""

    def describe(self, name: str) -> str:
        return f"rate limit {name!r} ({self.per_second:g} per second)"
