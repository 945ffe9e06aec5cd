"""The port `lock`: one holder for each name, until a time; and a token that grows with each holder.

    free ──take──► held until t, token n ──renew──► held until t', token n
      ▲                │            │
      └──────give──────┘            └── t passes, nobody renews ──► free; the next holder has n + 1

A lock alone cannot keep two bodies apart: a holder that stood still for longer than its time wakes up and goes on. What
keeps the data right is the token. A store that can put it to a transaction says so by `fence`.

testing/conformance/locks.py holds every adapter to each numbered promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.messaging.tx import Tx


@dataclass(frozen=True, slots=True)
class Grant:
    """The lock is the caller's.

    Attributes:
        token: Greater than that of every holder before.
    """

    token: int


@dataclass(frozen=True, slots=True)
class Occupied:
    """The lock is somebody else's.

    Attributes:
        holder: Who.
        since_us: From when, by the store's clock.
    """

    holder: str
    since_us: int


class LockStore(Protocol):
    """What every adapter promises.

    1. Of all that take a name at once, one gets it; the others get it when it was given back, or its time has passed.
    2. A token is greater than all tokens of that name before it, whatever died in between.
    3. Only the holder of the token renews and gives back; what comes too late, or twice, changes nothing.
    4. A take whose reply was lost, and is asked again with the same holder, is the same one.
    """

    async def take(self, name: str, holder: str, ttl_us: int) -> Grant | Occupied:
        """Take a free lock. `holder` is unique: it names this one acquisition."""
        ...

    async def look(self, name: str) -> Occupied | None:
        """Who has it; None = nobody. Takes nothing and keeps nobody waiting."""
        ...

    async def renew(self, name: str, token: int, ttl_us: int) -> bool:
        """Keep a lock from now on for so long; whether it was still this token's."""
        ...

    async def give(self, name: str, token: int) -> None:
        """Give a lock back; nothing when it is not this token's."""
        ...

    def fence(self, tx: Tx, name: str, token: int) -> None:
        """Let a transaction commit only while the lock is this token's; LockLost otherwise."""
        ...


@dataclass(eq=False, kw_only=True)
class LockBusy(DujiangError):
    """Somebody else holds the lock."""

    code = "lock_busy"
    move = "wait"
    says = "the lock {name!r} was not free within {waited_s:.3f} s; {holder} holds it since {since}"
    cure = "try again later; if that holder is dead, the lock is free when its ttl has passed"

    name: str
    holder: str
    since: str
    waited_s: float


@dataclass(eq=False, kw_only=True)
class LockLost(DujiangError):
    """The lock was lost while its body ran; what is fenced was not committed."""

    code = "lock_lost"
    move = "wait"
    says = "the lock {name!r} is no longer held with the token {token}"
    cure = "run it again; if that happens often, the store answers too slowly or the loop is blocked: give a longer ttl"

    name: str
    token: int


@dataclass(eq=False, kw_only=True)
class LockRefused(DujiangError):
    """A lock was asked for in a way that cannot work."""

    code = "lock_refused"
    move = "report"
    says = "lock({name!r}): {why}"
    cure = "{how}"

    name: str
    why: str
    how: str
