"""Ledger: entries of accounts, and a statement of each account that follows them in order.

    POST /ledger/entries ──► one transaction: the account's next number, the entry, EntryPosted
                                  │ relay, in order for each account
                                  ▼
    write_line           ──► one transaction: the next line with the running balance

A line that is lost, doubled or out of turn shifts all that follow, so the statement is a witness of the whole chain.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, and_, func, insert, or_, select, update

from dujiang import App, Event, Id, Model, Module, Money, Read, Refusal, Tx, columns, key

metadata = MetaData()
account = Table(
    "ledger_account",
    metadata,
    Column("name", columns.Key(32), primary_key=True),
    Column("entries", Integer, nullable=False),
)
entry = Table(
    "ledger_entry",
    metadata,
    Column("entry_id", columns.Id, primary_key=True),
    Column("account", columns.Key(32), nullable=False),
    Column("number", Integer, nullable=False),
    Column("amount", columns.Money(2), nullable=False),
    Column("posted_at", columns.Instant, nullable=False),
)
line = Table(
    "ledger_line",
    metadata,
    Column("account", columns.Key(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("entry_id", columns.Id, nullable=False),
    Column("balance", columns.Money(2), nullable=False),
)


class NewEntry(Model):
    """An amount to be posted to an account."""

    account: Annotated[str, Field(min_length=1, max_length=32, examples=["rent", "wages"])]
    amount: Annotated[Money, Field(ge=-1_000_000, le=1_000_000, examples=["10.00", "-3.50", "0.10"])]


class EntryView(Model):
    """An entry and its number in its account."""

    entry_id: Id
    number: int


class LineView(Model):
    """One line of a statement."""

    number: int
    balance: Money


class EntryPosted(Event):
    """An entry was posted; its line is not written yet."""

    account: str = key()
    entry_id: Id
    amount: Money


class UnknownAccount(Refusal):
    """There is no such account."""

    code = "unknown_account"
    status = 422


async def seed(tx: Tx) -> None:
    """Two accounts without entries."""
    await tx.execute(insert(account), [{"name": "rent", "entries": 0}, {"name": "wages", "entries": 0}])


ledger = Module("ledger", tables=metadata, migrations="bench.planted.apps.migrations.ledger", seed=seed)


@ledger.write("POST /ledger/entries")
async def post(tx: Tx, body: NewEntry) -> EntryView:
    """Post an entry under its account's next number; the update keeps others out until this one commits."""
    grown = update(account).where(account.c.name == body.account).values(entries=account.c.entries + 1)
    if (await tx.execute(grown)).rowcount == 0:
        raise UnknownAccount(f"there is no account {body.account}", name=body.account)
    number = (await tx.execute(select(account.c.entries).where(account.c.name == body.account))).scalar_one()
    entry_id = tx.new_id()
    what = {"account": body.account, "number": number, "amount": body.amount}
    await tx.execute(insert(entry), {"entry_id": entry_id, **what, "posted_at": tx.now})
    tx.publish(EntryPosted(account=body.account, entry_id=entry_id, amount=body.amount))
    return EntryView(entry_id=entry_id, number=number)


@ledger.react(EntryPosted, ordered=True)
async def write_line(tx: Tx, event: EntryPosted) -> None:
    """Append the entry to its account's statement."""
    lines = select(line.c.number, line.c.balance).where(line.c.account == event.account)
    last = (await tx.execute(lines.order_by(line.c.number.desc()).limit(1))).one_or_none()
    number, balance = (1, event.amount) if last is None else (last.number + 1, last.balance + event.amount)
    row = {"account": event.account, "number": number, "entry_id": event.entry_id, "balance": balance}
    await tx.execute(insert(line), row)


@ledger.read("GET /ledger/statements/{name}")
async def read_statement(db: Read, name: str) -> list[LineView]:
    """The lines of an account in their order."""
    lines = select(line.c.number, line.c.balance).where(line.c.account == name).order_by(line.c.number)
    return [LineView(number=row.number, balance=row.balance) for row in (await db.execute(lines)).all()]


@ledger.invariant("the entries of an account are numbered from one without a hole")
async def entries_are_dense(db: Read) -> list[Any]:
    """Accounts whose entries do not run from one to their count."""
    own = entry.c.account == account.c.name
    figures = (func.count(), func.count(entry.c.number.distinct()), func.coalesce(func.max(entry.c.number), 0))
    wrong = [select(figure).where(own).scalar_subquery() != account.c.entries for figure in figures]
    return list((await db.execute(select(account).where(or_(*wrong)))).all())


@ledger.invariant("line n of a statement is entry n, with the sum of the first n entries")
async def statements_follow_entries(db: Read) -> list[Any]:
    """Lines that belong to another entry, or whose balance is not the sum so far."""
    at = entry.alias("at")
    upto = and_(entry.c.account == line.c.account, entry.c.number <= line.c.number)
    total = select(func.coalesce(func.sum(entry.c.amount), Decimal(0))).where(upto).scalar_subquery()
    joined = select(line).join(at, at.c.entry_id == line.c.entry_id)
    return list((await db.execute(joined.where(or_(at.c.number != line.c.number, line.c.balance != total)))).all())


app = App(modules=[ledger], title="Ledger")
