"""Coupons: each code may be redeemed so many times, and once by each customer; a batched write.

    many POSTs at once ──► one transaction for up to 64 of them, a savepoint for each
                                │ relay
                                ▼
    count_savings      ──► one transaction for up to 32 events

The look before the insert gives the good answer cheaply; the unique constraint decides.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, UniqueConstraint, func, insert, select, update

from dujiang import App, DujiangError, Event, Id, Model, Module, Money, Read, Refusal, Tx, columns, key

metadata = MetaData()
coupon = Table(
    "coupons_coupon",
    metadata,
    Column("code", columns.Key(16), primary_key=True),
    Column("discount", columns.Money(2), nullable=False),
    Column("quota", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("saved", columns.Money(2), nullable=False),
)
redemption = Table(
    "coupons_redemption",
    metadata,
    Column("redemption_id", columns.Id, primary_key=True),
    Column("code", columns.Key(16), nullable=False),
    Column("customer", columns.Key(32), nullable=False),
    Column("counted", Integer, nullable=False),
    UniqueConstraint("code", "customer", name="coupons_once_each"),
)


class Redeem(Model):
    """A customer who shows a coupon."""

    code: Annotated[str, Field(min_length=1, max_length=16, examples=["SPRING", "LAST2"])]
    customer: Annotated[str, Field(min_length=1, max_length=32, examples=["ann", "ben", "cem", "dora"])]


class Redeemed(Model):
    """The coupon was taken."""

    redemption_id: Id
    discount: Money


class CouponRedeemed(Event):
    """A coupon was taken; what it saved is not counted yet."""

    redemption_id: Id = key()
    code: str


class UsedUp(Refusal):
    """The coupon does not exist, or has been redeemed as often as it may be."""

    code = "used_up"


class AlreadyRedeemed(Refusal):
    """The customer has redeemed this coupon before."""

    code = "already_redeemed"


async def seed(tx: Tx) -> None:
    """Two coupons: one for many, one for two."""
    rows = [("SPRING", Decimal("5.00"), 1000), ("LAST2", Decimal("50.00"), 2)]
    names = ("code", "discount", "quota")
    start = {"used": 0, "saved": Decimal(0)}
    await tx.execute(insert(coupon), [{**dict(zip(names, row, strict=True)), **start} for row in rows])


coupons = Module("coupons", tables=metadata, migrations="bench.planted.apps.migrations.coupons", seed=seed)


@coupons.write("POST /coupons/redemptions", batch=64)
async def redeem(tx: Tx, bodies: list[Redeem]) -> list[Redeemed | Refusal]:
    """Redeem coupons, each by itself."""
    return [await redeem_one(tx, body) for body in bodies]


async def redeem_one(tx: Tx, body: Redeem) -> Redeemed | Refusal:
    """Redeem one coupon; a refusal leaves nothing behind."""
    before = select(redemption.c.redemption_id).where(
        redemption.c.code == body.code, redemption.c.customer == body.customer
    )
    if (await tx.execute(before)).one_or_none() is not None:
        return AlreadyRedeemed(f"{body.customer} has redeemed {body.code}")
    redemption_id = tx.new_id()
    row = {"redemption_id": redemption_id, "code": body.code, "customer": body.customer, "counted": 0}
    try:
        async with tx.savepoint():
            tx.publish(CouponRedeemed(redemption_id=redemption_id, code=body.code))
            left = update(coupon).where(coupon.c.code == body.code, coupon.c.used < coupon.c.quota)
            if (await tx.execute(left.values(used=coupon.c.used + 1))).rowcount == 0:
                raise UsedUp(f"{body.code} cannot be redeemed any more")
            await tx.execute(insert(redemption), row)
    except UsedUp as refusal:
        return refusal
    except DujiangError as error:
        if error.code != "integrity":
            raise
        return AlreadyRedeemed(f"{body.customer} has redeemed {body.code}")
    discount = (await tx.execute(select(coupon.c.discount).where(coupon.c.code == body.code))).scalar_one()
    return Redeemed(redemption_id=redemption_id, discount=discount)


@coupons.react(CouponRedeemed, batch=32)
async def count_savings(tx: Tx, events: list[CouponRedeemed]) -> None:
    """Add up what coupons saved, and mark what was counted."""
    for code, number in sorted(Counter(event.code for event in events).items()):
        grown = coupon.c.saved + coupon.c.discount * number
        await tx.execute(update(coupon).where(coupon.c.code == code).values(saved=grown))
    for event in events:
        taken = update(redemption).where(redemption.c.redemption_id == event.redemption_id)
        await tx.execute(taken.values(counted=redemption.c.counted + 1))


def redemptions(what: Any) -> Any:
    """A figure over the redemptions of one coupon, as a subquery of `coupon`."""
    return select(func.coalesce(what, 0)).where(redemption.c.code == coupon.c.code).scalar_subquery()


@coupons.invariant("a coupon is not redeemed more often than its quota, and each redemption is counted in `used`")
async def quota_is_kept(db: Read) -> list[Any]:
    """Coupons that were given out too often, or miscounted."""
    wrong = (coupon.c.used > coupon.c.quota) | (coupon.c.used != redemptions(func.count()))
    return list((await db.execute(select(coupon).where(wrong))).all())


@coupons.invariant("a customer redeems a coupon once")
async def once_each(db: Read) -> list[Any]:
    """Customers and coupons that met more than once."""
    pair = (redemption.c.code, redemption.c.customer)
    return list((await db.execute(select(*pair).group_by(*pair).having(func.count() > 1))).all())


@coupons.invariant("what was saved is the discount of each counted redemption, counted once")
async def savings_add_up(db: Read) -> list[Any]:
    """Coupons whose savings differ from their redemptions', and redemptions counted twice."""
    wrong = coupon.c.saved != coupon.c.discount * redemptions(func.sum(redemption.c.counted))
    found = list((await db.execute(select(coupon).where(wrong))).all())
    return found + list((await db.execute(select(redemption).where(redemption.c.counted > 1))).all())


app = App(modules=[coupons], title="Coupons")
