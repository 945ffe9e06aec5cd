"""Laws: what always holds of the books, checked by the drill and by `dujiang audit`; rows are violations."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import and_, func, or_, select

from dujiang import Read  # noqa: TC001  (the platform reads it: the first parameter says where a function lives)
from dujiang.systems.ledger.accounts import ledger, walked
from dujiang.systems.ledger.tables import account, entry, transfer

ZERO = Decimal("0.00")


def total(column: Any, *where: Any) -> Any:
    """The sum of a column over some rows, 0 over none, as a subquery."""
    return select(func.coalesce(func.sum(column), 0)).where(*where).scalar_subquery()


@ledger.invariant("debits and credits of each currency are equal")
async def debits_are_credits(db: Read) -> list[Any]:
    """Currencies whose entries do not add up to nothing."""
    added = func.sum(entry.c.amount)
    joined = select(account.c.currency, added).join(entry, entry.c.account_id == account.c.account_id)
    return list((await db.execute(joined.group_by(account.c.currency).having(added != ZERO))).all())


@ledger.invariant("every posted transfer has two entries of its amount, and no other transfer has any")
async def transfers_are_entered(db: Read) -> list[Any]:
    """Transfers whose entries are not those of their state."""
    own = entry.c.transfer_id == transfer.c.transfer_id
    count = select(func.count()).where(own).scalar_subquery()
    debit = total(entry.c.amount, own, entry.c.account_id == transfer.c.debit)
    credit = total(entry.c.amount, own, entry.c.account_id == transfer.c.credit)
    posted = transfer.c.state == "posted"
    wrong = or_(
        and_(posted, or_(count != 2, credit != transfer.c.posted, debit + transfer.c.posted != ZERO)),
        and_(~posted, or_(count != 0, transfer.c.posted != ZERO)),
    )
    return list((await db.execute(select(transfer).where(wrong))).all())


@ledger.invariant("an account's balance is the replay of its entries, numbered from one without a gap")
async def balance_is_replay(db: Read) -> list[Any]:
    """Accounts whose balance or count differs from their entries."""
    own = entry.c.account_id == account.c.account_id
    count = select(func.count()).where(own).scalar_subquery()
    last = select(func.coalesce(func.max(entry.c.number), 0)).where(own).scalar_subquery()
    wrong = or_(account.c.balance != total(entry.c.amount, own), account.c.entries != count, account.c.entries != last)
    return list((await db.execute(select(account).where(wrong))).all())


@ledger.invariant("what an account has set aside and awaits is what its pending transfers say")
async def holds_are_held(db: Read) -> list[Any]:
    """Accounts whose holds differ from their transfers; a hold that is stuck shows here too."""
    pending = transfer.c.state == "pending"
    held = total(transfer.c.amount, pending, transfer.c.debit == account.c.account_id)
    incoming = total(transfer.c.amount, pending, transfer.c.credit == account.c.account_id)
    wrong = or_(account.c.held != held, account.c.incoming != incoming)
    return list((await db.execute(select(account).where(wrong))).all())


@ledger.invariant("bounds are kept: floor <= balance - held, and balance + incoming <= ceiling")
async def bounds_are_kept(db: Read) -> list[Any]:
    """Accounts that are overdrawn or too full."""
    below = account.c.balance - account.c.held < account.c.floor
    above = account.c.balance + account.c.incoming > account.c.ceiling
    return list((await db.execute(select(account).where(or_(below, above)))).all())


@ledger.invariant("a hold ends once: posted <= held, and only what has ended has an end")
async def holds_end_once(db: Read) -> list[Any]:
    """Transfers that took more than was asked for, or whose state and end contradict each other."""
    wrong = or_(
        transfer.c.posted > transfer.c.amount,
        (transfer.c.state == "pending") != transfer.c.closed_at.is_(None),
        and_(transfer.c.state == "pending", transfer.c.kind != "hold"),
    )
    return list((await db.execute(select(transfer).where(wrong))).all())


@ledger.invariant("the refunds of a transfer are at most what was posted")
async def refunds_are_bounded(db: Read) -> list[Any]:
    """Transfers that gave back more than they brought, or whose refunds are miscounted."""
    back = transfer.alias("back")
    given = total(back.c.posted, back.c.refund_of == transfer.c.transfer_id)
    wrong = or_(transfer.c.refunded != given, transfer.c.refunded > transfer.c.posted)
    return list((await db.execute(select(transfer).where(wrong))).all())


@ledger.invariant("every account's chain of entries is intact")
async def chains_are_intact(db: Read) -> list[Any]:
    """Account, number and fault of the first entry that is not the one that was written."""
    rows = (await db.execute(select(account).order_by(account.c.account_id))).all()
    walks = [await walked(db, row) for row in rows]
    return [(walk.account_id, *walk.broken) for walk in walks if walk.broken is not None]
