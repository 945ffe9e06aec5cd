"""Accounts: opened, bounded and frozen, read, and their entries as a statement; the module that all verbs belong to."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from sqlalchemy import and_, bindparam, insert, select

from dujiang import Id, Instant, Module, Read, Tx
from dujiang.systems.ledger.book import Book
from dujiang.systems.ledger.chain import EPOCH, GENESIS, Walk
from dujiang.systems.ledger.contract import (
    AccountView,
    ChainView,
    EntryView,
    NewAccount,
    Statement,
    Terms,
    TransferView,
    User,
)
from dujiang.systems.ledger.refusals import BoundCrossed, UnknownAccount
from dujiang.systems.ledger.rows import ZERO, Account, Transfer, Wish
from dujiang.systems.ledger.tables import account, entry, metadata, transfer

if TYPE_CHECKING:
    from datetime import datetime

# What comes from outside and what goes there passes an account of the house, one for each currency, without bounds.
HOUSE = {"EUR": 1, "USD": 2, "JPY": 3}
NOBODY = ""
STARTING = (("ann", 11, "EUR"), ("ann", 12, "EUR"), ("ben", 13, "EUR"), ("ben", 14, "USD"), ("ann", 15, "JPY"))
STARTING_BALANCE = Decimal("1000.00")
WALKED_AT_ONCE = 1000


async def seed(tx: Tx) -> None:
    """The accounts of the house, and five accounts of two people with a thousand in each."""
    house = [new_row(tx, account_id, NOBODY, currency, floor=None) for currency, account_id in HOUSE.items()]
    people = [new_row(tx, account_id, owner, currency) for owner, account_id, currency in STARTING]
    await tx.execute(insert(account), [*house, *people])
    book = await Book.opened(tx, [*HOUSE.values(), *(account_id for _, account_id, _ in STARTING)])
    for _, account_id, currency in STARTING:
        book.move(
            Wish(
                source="operator",
                reference=f"start-{account_id}",
                kind="transfer",
                debit=HOUSE[currency],
                credit=account_id,
                currency=currency,
                amount=STARTING_BALANCE,
            )
        )
    await book.write()


ledger = Module("ledger", tables=metadata, migrations="dujiang.systems.ledger.migrations", seed=seed)

ACCOUNT = select(account).where(account.c.account_id == bindparam("of"))
TRANSFER = select(transfer).where(transfer.c.transfer_id == bindparam("of"))
OWNERS = select(account.c.account_id).where(
    account.c.owner == bindparam("user_id"), account.c.account_id.in_(bindparam("ids", expanding=True))
)
LAST_BEFORE = (
    select(entry.c.number, entry.c.balance)
    .where(entry.c.account_id == bindparam("of"), entry.c.posted_at < bindparam("moment"))
    .order_by(entry.c.number.desc())
    .limit(1)
)
NEXT = (
    select(entry)
    .where(
        and_(
            entry.c.account_id == bindparam("of"),
            entry.c.number > bindparam("after"),
            entry.c.number <= bindparam("last"),
        )
    )
    .order_by(entry.c.number)
    .limit(bindparam("count"))
)


def new_row(
    tx: Tx, account_id: int, owner: str, currency: str, *, floor: Decimal | None = ZERO, ceiling: Decimal | None = None
) -> dict[str, Any]:
    """The row of an account that is opened now."""
    return {
        "account_id": account_id,
        "owner": owner,
        "currency": currency,
        "floor": floor,
        "ceiling": ceiling,
        "frozen": False,
        "balance": ZERO,
        "held": ZERO,
        "incoming": ZERO,
        "entries": 0,
        "head": GENESIS,
        "last_at": tx.now,
    }


@ledger.write("POST /api/v1/accounts", idempotency="required")
async def open_account(tx: Tx, body: NewAccount) -> AccountView:
    """Open an account that is empty and may not be overdrawn."""
    row = new_row(tx, tx.new_id(), body.user_id, body.currency)
    await tx.execute(insert(account), row)
    tx.forget(f"account:{row['account_id']}")
    return Account(**row).view()


@ledger.write("PUT /_dj/ledger/accounts/{account_id}/terms")
async def set_terms(tx: Tx, account_id: Id, body: Terms) -> AccountView | UnknownAccount | BoundCrossed:
    """Set an account's bounds, and freeze or thaw it; bounds that its money does not keep are refused."""
    found = (await Book.opened(tx, [account_id])).account(account_id)
    if body.floor is not None and found.balance - found.held < body.floor:
        raise BoundCrossed(f"{found.balance - found.held} are there beside what is held", floor=str(body.floor))
    if body.ceiling is not None and found.balance + found.incoming > body.ceiling:
        raise BoundCrossed(f"{found.balance + found.incoming} are there or coming in", ceiling=str(body.ceiling))
    found.floor, found.ceiling, found.frozen = body.floor, body.ceiling, body.frozen
    terms = {"floor": body.floor, "ceiling": body.ceiling, "frozen": body.frozen}
    await tx.execute(account.update().where(account.c.account_id == account_id).values(terms))
    tx.forget(f"account:{account_id}")
    return found.view()


@ledger.read("GET /api/v1/accounts/{account_id}", ttl="1h", absent="5s", tags=("account:{account_id}",))
async def read_account(db: Read, account_id: Id, user_id: User) -> AccountView | None:
    """An account of the caller."""
    found = await account_of(db, account_id, user_id)
    return None if found is None else found.view()


@ledger.read("GET /api/v1/transfers/{transfer_id}", ttl="1h", absent="5s", tags=("transfer:{transfer_id}",))
async def read_transfer(db: Read, transfer_id: Id, user_id: User) -> TransferView | None:
    """A transfer from or to an account of the caller."""
    row = (await db.execute(TRANSFER, {"of": transfer_id})).one_or_none()
    if row is None:
        return None
    found = Transfer(*row)
    legs = [found.debit, found.credit]
    if not (await db.execute(OWNERS, {"user_id": user_id, "ids": legs})).all():
        return None
    return found.view()


@ledger.read("GET /api/v1/accounts/{account_id}/statement", ttl="1h", absent="5s", tags=("account:{account_id}",))
async def read_statement(
    db: Read,
    account_id: Id,
    user_id: User,
    *,
    first_at: Instant | None = None,
    final_at: Instant | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Statement | None:
    """The entries from `first_at` until before `final_at`; `after` is the `next` of the page before."""
    found = await account_of(db, account_id, user_id)
    if found is None:
        return None
    before = await last_before(db, account_id, first_at or EPOCH)
    last = (found.entries, found.balance) if final_at is None else await last_before(db, account_id, final_at)
    if last[0] < before[0]:
        last = before  # A period that ends before it begins.
    asked = {"of": account_id, "after": max(after, before[0]), "last": last[0], "count": count}
    rows = (await db.execute(NEXT, asked)).all()
    return Statement(
        account_id=account_id,
        currency=found.currency,
        opening=before[1],
        closing=last[1],
        entries=[
            EntryView(
                number=row.number,
                transfer_id=row.transfer_id,
                amount=row.amount,
                balance=row.balance,
                posted_at=row.posted_at,
                hash=row.hash,
            )
            for row in rows
        ],
        next=rows[-1].number if rows and rows[-1].number < last[0] else None,
    )


async def account_of(db: Read, account_id: int, user_id: str) -> Account | None:
    """An account, if it is this user's."""
    row = (await db.execute(ACCOUNT, {"of": account_id})).one_or_none()
    return None if row is None or row.owner != user_id else Account(*row)


async def last_before(db: Read, account_id: int, moment: datetime) -> tuple[int, Decimal]:
    """Number and balance of an account's last entry before a moment."""
    row = (await db.execute(LAST_BEFORE, {"of": account_id, "moment": moment})).one_or_none()
    return (0, ZERO) if row is None else (row.number, row.balance)


@ledger.read("GET /_dj/ledger/accounts/{account_id}/chain")
async def verify_chain(db: Read, account_id: Id) -> ChainView | None:
    """Walk along an account's entries and compute every hash again; tells the first entry that is wrong."""
    row = (await db.execute(ACCOUNT, {"of": account_id})).one_or_none()
    if row is None:
        return None
    walk = await walked(db, row)
    number, why = walk.broken or (None, "")
    return ChainView(
        account_id=account_id, entries=row.entries, head=row.head, intact=number is None, broken=number, why=why
    )


async def walked(db: Read, row: Any) -> Walk:
    """A walk along all entries of an account, given its row; a thousand entries are in memory at once."""
    walk = Walk(row.account_id)
    while walk.broken is None:
        # What was posted after the row was read belongs to the next walk.
        asked = {"of": row.account_id, "after": walk.number, "last": row.entries, "count": WALKED_AT_ONCE}
        rows = (await db.execute(NEXT, asked)).all()
        if not rows:
            walk.end(row.entries, row.head, row.balance)
            break
        walk.along(rows)
    return walk
