"""Witness: what clients were told, and whether a store that was opened after a cut agrees.

Every request carries an idempotency key, and the platform stores the answer under it in the same transaction as the work.
So one look at the stored answers tells of each request whether its transaction is there, whatever the app does; that it
is there whole, the app's own laws and those of the drill's workload tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dujiang.data.sql import Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.data.database import Connection
    from dujiang.drill.storage.report import Fault
    from dujiang.kernel.entropy import Entropy
    from dujiang.testing.harness import Response, World

ANSWERS = Sql("drill_answers", "SELECT okey, status, body FROM dj_idempotency", "Reads every stored answer.")
SHOWN = 3


class Request(NamedTuple):
    """What a client sends, beside its key."""

    method: str
    path: str
    body: object


# Makes the request of a key.
Workload: TypeAlias = "Callable[[Entropy, str], Request]"


class Told(NamedTuple):
    """An answer that promised something."""

    status: int
    body: bytes


class Problem(NamedTuple):
    """Something that should not be; becomes a violation."""

    kind: Fault
    what: str


@dataclass
class Ledger:
    """What clients know at one place of a disk's log.

    Attributes:
        told: The promises, by key; each must be kept.
        sent: Every request that was sent, by key; one without a promise may have happened or not.
    """

    told: dict[str, Told] = field(default_factory=dict)
    sent: dict[str, Request] = field(default_factory=dict)

    def but(self, sends: Sequence[tuple[int, str, Request]], tolds: Sequence[tuple[int, str, Told]], at: int) -> Ledger:
        """This ledger with what was sent and promised before a place of the log."""
        told = self.told | {key: answer for place, key, answer in tolds if place <= at}
        return replace(self, told=told, sent=self.sent | {key: request for place, key, request in sends if place <= at})


async def disagreements(world: World, ledger: Ledger) -> list[Problem]:
    """What the store lacks, and what it has although nobody sent it."""
    rows = await world.runtime.database.read(lambda connection: connection.fetch(ANSWERS))
    found = {row[0]: Told(row[1], bytes(row[2])) for row in rows}
    problems = [
        Problem("lost", f"{key} was answered {told.status} and is not there")
        for key, told in ledger.told.items()
        if key not in found
    ]
    problems += [
        Problem("lost", f"{key} was answered {told.body[:200]!r} and now holds {found[key].body[:200]!r}")
        for key, told in ledger.told.items()
        if key in found and found[key] != told
    ]
    return problems + [Problem("phantom", f"{key} was never sent") for key in found if key not in ledger.sent]


async def damages(world: World) -> list[Problem]:
    """What SQLite's own check finds, and rows that refer to nothing."""

    async def body(connection: Connection) -> list[Problem]:
        wrong = [str(row[0]) for row in (await connection.run("PRAGMA integrity_check(10)", ()))[0] if row[0] != "ok"]
        wrong += [f"dangling: {row}" for row in (await connection.run("PRAGMA foreign_key_check", ()))[0]]
        return [Problem("corrupt", "; ".join(wrong[:SHOWN]))] if wrong else []

    return list(await world.runtime.database.write(body))


async def broken_laws(world: World) -> list[Problem]:
    """Invariants of the app, and of the drill's own workload, that do not hold."""
    return [
        Problem("partial", f"{violation.invariant}: {violation.rows[:SHOWN]}") for violation in await world.violations()
    ]


def unclear(answer: Response) -> str:
    """Why an answer of 5xx is no clear refusal; empty if it is one."""
    try:
        told = answer.json
    except ValueError:
        return f"{answer.status} without JSON: {answer.body[:200]!r}"
    if answer.status not in (503, 504, 507) or told.get("move") != "wait":
        return f"{answer.status} {told}"
    if "retry-after" not in answer.headers or not told.get("title") or not told.get("code"):
        return f"{answer.status} without title, code or Retry-After: {told}"
    return ""
