"""Settlement: the provider's file of a period beside our books, line by line.

    file ──► chunk of 200 lines ──► one transaction: their verdicts, in place of those of an earlier run
         ──► ...
         ──► the last one: what we booked and the file does not have; the file is `reconciled`

The file is known by the hash of its period and its text: the same one again, or a run that begins again after a crash, writes
the same rows. Until the last transaction its state is `reading`, so a half-read file never looks like a whole one. A line
that cannot be read is kept aside with its number and the reason, and the others go on. Nothing is booked: a difference is
for people, who have the provider's event sent again, or correct it.

A line ends at the end of its line. A reader that lets a quote span lines was refused: one stray quote would swallow the rest.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from io import StringIO
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import bindparam, delete, func, insert, select, update

from dujiang import Job, Money, Read, Tx
from dujiang.systems.ledger.accounts import HOUSE, ledger
from dujiang.systems.ledger.contract import (
    SETTLEMENT_COLUMNS,
    BadLine,
    Difference,
    SettlementFile,
    SettlementReport,
)
from dujiang.systems.ledger.tables import settlement, settlement_line, transfer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK = 200
SHOWN = 100
LINE_CHARACTERS_MAX = 500
AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Money)

FILE = select(settlement).where(settlement.c.file_id == bindparam("of"))
DROP_LINES = delete(settlement_line).where(
    settlement_line.c.file_id == bindparam("of"),
    settlement_line.c.line >= bindparam("first"),
    settlement_line.c.line <= bindparam("last"),
)
SEEN = select(settlement_line.c.reference).where(
    settlement_line.c.file_id == bindparam("of"),
    settlement_line.c.line < bindparam("first"),
    settlement_line.c.reference.in_(bindparam("references", expanding=True)),
)
BOOKED = select(transfer).where(
    transfer.c.source == "provider",
    transfer.c.reference.in_(bindparam("references", expanding=True)),
)
KIND_IN_FILE = {"transfer": "payment", "refund": "refund"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file: what it says, or why that cannot be read."""

    number: int
    kind: str = ""
    name: str = ""
    currency: str = ""
    amount: Decimal = Decimal("0.00")
    why: str = ""

    @property
    def reference(self) -> str | None:
        """By what the line and our books name the same thing; None for one that cannot be read."""
        return None if self.why else f"{self.kind}:{self.currency}:{self.name}"


@ledger.accept("POST /_dj/ledger/settlements", idempotency="required")
async def reconcile(job: Job, body: SettlementFile) -> SettlementReport:
    """Compare the provider's file with what we booked for it in the same period."""
    lines = lines_of(body.csv)
    period = f"{body.first_at.isoformat()} {body.final_at.isoformat()}\n"
    file_id = sha256((period + body.csv).encode()).hexdigest()
    await job.transact(begin, file_id, body)
    whole, done = body.csv.count("\n") + 1, 1
    while chunk := list(islice(lines, CHUNK)):
        await job.transact(judge, file_id, chunk)
        done = chunk[-1].number
        await job.progress(min(1.0, done / whole), note=f"line {done} of {whole}")
    await job.transact(finish, file_id, done)
    report = await job.read(report_of, file_id)
    assert report is not None
    return report


def lines_of(text: str) -> Iterator[Line]:
    """The lines of a file behind its header, one at a time; an empty one is none."""
    for number, raw in enumerate(StringIO(text), start=1):
        if number > 1 and raw.strip():
            yield line_of(number, raw.rstrip("\r\n"))


def line_of(number: int, raw: str) -> Line:
    """What one line says."""
    if len(raw) > LINE_CHARACTERS_MAX:
        return Line(number, why=f"it has more than {LINE_CHARACTERS_MAX} characters")
    try:
        (fields,) = csv.reader([raw], strict=True)
    except (csv.Error, ValueError) as error:
        return Line(number, why=f"it is no CSV: {error}"[:200])
    if len(fields) != len(SETTLEMENT_COLUMNS):
        return Line(number, why=f"it has {len(fields)} fields, not {len(SETTLEMENT_COLUMNS)}")
    kind, name, currency, amount = (each.strip() for each in fields)
    if kind not in KIND_IN_FILE.values() or currency not in HOUSE:
        return Line(number, why=f"its kind is {kind[:20]!r} and its currency {currency[:20]!r}")
    if not (0 < len(name) <= 64 and name.isascii() and name.isprintable()):
        return Line(number, why="its id is not 1 to 64 printable ASCII characters")
    try:
        return Line(number, kind, name, currency, AMOUNT.validate_python(amount))
    except ValidationError:
        return Line(number, why=f"its amount is {amount[:30]!r}")


async def begin(tx: Tx, file_id: str, body: SettlementFile) -> None:
    """Say that a file is being read."""
    if (await tx.execute(FILE, {"of": file_id})).one_or_none() is None:
        row = {"file_id": file_id, "state": "reading", "first_at": body.first_at, "final_at": body.final_at}
        await tx.execute(insert(settlement), {**row, "received_at": tx.now})
    else:
        await tx.execute(update(settlement).where(settlement.c.file_id == file_id).values(state="reading"))


async def judge(tx: Tx, file_id: str, chunk: Sequence[Line]) -> None:
    """Compare a chunk of lines with the books; its rows take the place of those of an earlier run."""
    await tx.execute(FILE.with_for_update(), {"of": file_id})
    first, last = chunk[0].number, chunk[-1].number
    names = sorted({line.name for line in chunk if not line.why})
    references = sorted({line.reference for line in chunk if line.reference is not None})
    booked = {named(row): row for row in (await tx.execute(BOOKED, {"references": names})).all()} if names else {}
    asked = {"of": file_id, "first": first, "references": references}
    seen = set((await tx.execute(SEEN, asked)).scalars().all()) if references else set()
    rows = []
    for line in chunk:
        verdict, why = verdict_of(line, booked, seen)
        seen.add(line.reference)
        row = {"file_id": file_id, "line": line.number, "verdict": verdict, "reference": line.reference, "why": why}
        rows.append({**row, "amount": None if line.why else line.amount})
    await tx.execute(DROP_LINES, {"of": file_id, "first": first, "last": last})
    await tx.execute(insert(settlement_line), rows)


def named(row: Any) -> str:
    """What a provider's transfer is called in a file."""
    return f"{KIND_IN_FILE[row.kind]}:{row.currency}:{row.reference}"


def verdict_of(line: Line, booked: dict[str, Any], seen: set[Any]) -> tuple[str, str]:
    """The verdict over a line, and what it rests on."""
    if line.why:
        return "bad", line.why
    if line.reference in seen:
        return "repeated", "an earlier line says the same"
    row = booked.get(line.reference or "")
    if row is None:
        return "missing_here", "nothing was booked under this id"
    if row.posted != line.amount:
        return "amount_differs", f"{row.posted} was booked, and the file says {line.amount}"
    return "matched", ""


async def finish(tx: Tx, file_id: str, last: int) -> None:
    """Drop what an earlier run left behind the last line, and say that the file was read to its end."""
    await tx.execute(DROP_LINES, {"of": file_id, "first": last + 1, "last": 2_000_000_000})
    await tx.execute(update(settlement).where(settlement.c.file_id == file_id).values(state="reconciled"))


@ledger.read("GET /_dj/ledger/settlements/{file_id}")
async def read_settlement(db: Read, file_id: str) -> SettlementReport | None:
    """The report of a file that was read to its end."""
    return await report_of(db, file_id)


async def report_of(db: Read, file_id: str) -> SettlementReport | None:
    """What a file and the books say of one period; None while the file is being read."""
    found = (await db.execute(FILE, {"of": file_id})).one_or_none()
    if found is None or found.state != "reconciled":
        return None
    own = settlement_line.c.file_id == file_id
    counted = select(settlement_line.c.verdict, func.count()).where(own).group_by(settlement_line.c.verdict)
    counts: dict[str, int] = dict.fromkeys(("matched", "missing_here", "amount_differs", "repeated", "bad"), 0)
    counts.update({row[0]: row[1] for row in (await db.execute(counted)).all()})
    shown = select(settlement_line).where(own).order_by(settlement_line.c.line).limit(SHOWN)
    bad = (await db.execute(shown.where(settlement_line.c.verdict == "bad"))).all()
    wrong = (await db.execute(shown.where(settlement_line.c.verdict.not_in(("bad", "matched"))))).all()
    missing = await missing_there(db, found)
    differences = [
        Difference(line=row.line, reference=row.reference, verdict=row.verdict, amount=row.amount, why=row.why)
        for row in wrong
    ] + [
        Difference(
            line=None,
            reference=named(row),
            verdict="missing_there",
            amount=row.posted,
            why="booked in the period, and the file does not have it",
        )
        for row in missing
    ]
    return SettlementReport(
        file_id=file_id,
        missing_there=len(missing),
        bad_lines=[BadLine(line=row.line, why=row.why) for row in bad],
        differences=differences[:SHOWN],
        **counts,
    )


async def missing_there(db: Read, found: Any) -> list[Any]:
    """What was booked for the provider in a file's period, and is not in the file."""
    in_file = select(settlement_line.c.reference).where(
        settlement_line.c.file_id == found.file_id, settlement_line.c.reference.is_not(None)
    )
    there = set((await db.execute(in_file)).scalars().all())
    booked = select(transfer).where(
        transfer.c.source == "provider",
        transfer.c.created_at >= found.first_at,
        transfer.c.created_at < found.final_at,
    )
    rows = (await db.execute(booked.order_by(transfer.c.created_at, transfer.c.transfer_id))).all()
    return [row for row in rows if named(row) not in there]
