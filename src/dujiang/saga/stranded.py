"""Stranded: a version of the code is refused when it could not go on with the sagas that are open.

    start, migrate, doctor ──► the oldest open sagas of each kind ──► state upgraded and read; parts looked for
                                   │ all of it                    │ not: refused, with the list and the cure
                                   ▼                              ▼
                               go on                        SagasStranded

What is stored is tried, as stored messages are (messaging/contracts.py): the state through `upgrades` and its type, the part
that is next on the way forward, and the steps whose effect is there and must be found again if it turns back. Sagas of a
newer version than ours are left to the process that has it. Kinds that the code does not have at all are refused as every
stored name is (messaging/catalogue.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.saga import store
from dujiang.saga.progress import FORWARD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.saga.kind import Kind
    from dujiang.saga.progress import Progress

LOOKED = 2000

OPEN = Sql(
    "stranded_open",
    f"""SELECT {", ".join("s." + each.strip() for each in store.FIELDS.split(","))} FROM dj_saga s
        JOIN dj_subscription n ON n.sub_id = s.sub_id WHERE n.name = $1 AND s.finished_us IS NULL ORDER BY s.saga_id LIMIT $2""",
    "Reads the open sagas of a kind.",
)


@dataclass(eq=False, kw_only=True)
class SagasStranded(DujiangError):
    """Open sagas could not go on with this version of the code."""

    code = "sagas_stranded"
    move = "fix"
    says = "version {version} of {saga} cannot go on with what is open: {stored}; the first: {why}"
    cure = (
        "raise the version and say how the old state becomes the new one: "
        "`@module.saga(..., version={wanted}, upgrades={{{old}: function}})`; keep the steps that are open, or let the old "
        "version end them first; `dujiang sagas list` shows them"
    )

    saga: str
    version: int
    old: int
    wanted: int
    stored: str
    why: str


async def check_sagas(database: Database, kinds: Sequence[Kind], renamed: Mapping[str, str | None]) -> None:
    """Try the open sagas with the code. Raises SagasStranded for the first kind that strands some."""
    for kind in kinds:
        found, first = Counter[str](), ("", 1)
        names = [kind.name, *(old for old, new in renamed.items() if new == kind.name)]

        async def look(connection: Connection, names: Sequence[str] = names) -> list[Progress]:
            rows: list[Any] = [row for name in names for row in await connection.fetch(OPEN, name, LOOKED)]
            return [store.progress_of(row, await connection.fetch(store.RECORDS, row[0])) for row in rows]

        for progress in await database.read(look):
            why = unfit(kind, progress)
            if why:
                found[f"at {progress.step or 'the end'}, version {progress.version}"] += 1
                first = first if first[0] else (why, progress.version)
        if found:
            stored = ", ".join(f"{count} {place}" for place, count in found.items())
            why, old = first
            wanted = max(kind.version, old + 1)
            raise SagasStranded(saga=kind.name, version=kind.version, old=old, wanted=wanted, stored=stored, why=why)


def unfit(kind: Kind, progress: Progress) -> str:
    """Why a saga could not go on; empty when it can, or is not for this version."""
    if progress.version > kind.version:
        return ""
    names = {part.name for part in kind.flow.parts}
    if progress.phase == FORWARD and progress.step and progress.step not in names:
        return f"its next step is {progress.step}, which is gone"
    undone = sorted(progress.effects() - names)
    if undone:
        return f"it has done {undone[0]}, which is gone, and could not undo it"
    try:
        kind.flow.adapter.validate_json(kind.upgraded(progress.data, progress.version))
    except Exception as error:  # noqa: BLE001  (upgrades and validators are foreign code)
        return store.said(error)[:300]
    return ""
