"""Wallet: accounts pay each other, the payee bears a fee, and each payment earns the payer a point.

    POST /wallet/payments ──► one transaction: three balances, the payment, PaymentMade
                                  │ relay
                                  ▼
    give_point            ──► one transaction: the payer's points, the payment marked

Rows are changed in the order of their names, and the cover stands in the UPDATE itself: two payments can neither lock each
other out nor spend the same money.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import Field, model_validator
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, update

from dujiang import App, Event, Id, Model, Module, Money, Read, Refusal, Tx, columns, key

HOUSE, FEE, CENT = "house", Decimal("0.015"), Decimal("0.01")
POINT_WITHIN = timedelta(hours=1)

metadata = MetaData()
account = Table(
    "wallet_account",
    metadata,
    Column("name", columns.Key(32), primary_key=True),
    Column("deposited", columns.Money(2), nullable=False),
    Column("balance", columns.Money(2), nullable=False),
    Column("points", Integer, nullable=False),
)
payment = Table(
    "wallet_payment",
    metadata,
    Column("payment_id", columns.Id, primary_key=True),
    Column("source", columns.Key(32), nullable=False),
    Column("target", columns.Key(32), nullable=False),
    Column("amount", columns.Money(2), nullable=False),
    Column("points", Integer, nullable=False),
    Column("made_at", columns.Instant, nullable=False),
)

Name = Annotated[str, Field(min_length=1, max_length=32, examples=["alice", "bob", "carol"])]
Amount = Annotated[Money, Field(gt=0, le=1_000_000, examples=["1.00", "25.00", "70.00"])]


class Deposit(Model):
    """Money that comes into the wallet."""

    name: Name
    amount: Amount


class NewPayment(Model):
    """Money that goes from one account to another."""

    source: Name = Field(examples=["alice", "bob", "carol"])
    target: Name = Field(examples=["bob", "carol", "alice"])
    amount: Amount

    @model_validator(mode="after")
    def two_accounts(self) -> NewPayment:
        """Refuse a payment to oneself."""
        if self.source == self.target:
            raise ValueError("`source` and `target` must differ")
        return self


class AccountView(Model):
    """An account as it stands."""

    name: str
    balance: Money
    points: int


class Receipt(Model):
    """The answer to a payment."""

    payment_id: Id
    received: Money
    fee: Money


class PaymentMade(Event):
    """Money has moved; the payer's point is not given yet."""

    payment_id: Id = key()
    source: str


class NotCovered(Refusal):
    """The account has less than the payment takes."""

    code = "not_covered"


class UnknownAccount(Refusal):
    """There is no such account."""

    code = "unknown_account"
    status = 422


async def seed(tx: Tx) -> None:
    """Four accounts: three people with a hundred each, and the house."""
    start = {"alice": Decimal(100), "bob": Decimal(100), "carol": Decimal(100), HOUSE: Decimal(0)}
    rows = [{"name": name, "deposited": amount, "balance": amount, "points": 0} for name, amount in start.items()]
    await tx.execute(insert(account), rows)


wallet = Module("wallet", tables=metadata, migrations="bench.planted.apps.migrations.wallet", seed=seed)


@wallet.write("POST /wallet/payments", idempotency="required")
async def pay(tx: Tx, body: NewPayment) -> Receipt:
    """Move money; the fee goes to the house."""
    fee = (body.amount * FEE).quantize(CENT, ROUND_HALF_UP)
    received = body.amount - fee
    changes = {HOUSE: Decimal(0), body.source: -body.amount}
    changes[body.target] = changes.get(body.target, Decimal(0)) + received
    changes[HOUSE] += fee
    for name, change in sorted(changes.items()):
        covered = update(account).where(account.c.name == name, account.c.balance >= -change)
        if (await tx.execute(covered.values(balance=account.c.balance + change))).rowcount == 0:
            if (await tx.execute(select(account.c.name).where(account.c.name == name))).one_or_none() is None:
                raise UnknownAccount(f"there is no account {name}", name=name)
            raise NotCovered(f"{name} has less than {-change}", name=name)
    payment_id, parties = tx.new_id(), {"source": body.source, "target": body.target}
    row = {"payment_id": payment_id, **parties, "amount": body.amount, "points": 0, "made_at": tx.now}
    await tx.execute(insert(payment), row)
    tx.publish(PaymentMade(payment_id=payment_id, source=body.source))
    return Receipt(payment_id=payment_id, received=received, fee=fee)


@wallet.write("POST /wallet/deposits", idempotency="required")
async def deposit(tx: Tx, body: Deposit) -> AccountView:
    """Bring money in."""
    grown = {"deposited": account.c.deposited + body.amount, "balance": account.c.balance + body.amount}
    if (await tx.execute(update(account).where(account.c.name == body.name).values(**grown))).rowcount == 0:
        raise UnknownAccount(f"there is no account {body.name}", name=body.name)
    return view((await tx.execute(select(account).where(account.c.name == body.name))).one())


@wallet.react(PaymentMade)
async def give_point(tx: Tx, event: PaymentMade) -> None:
    """Give the payer the payment's point."""
    await tx.execute(update(account).where(account.c.name == event.source).values(points=account.c.points + 1))
    marked = update(payment).where(payment.c.payment_id == event.payment_id)
    await tx.execute(marked.values(points=payment.c.points + 1))


@wallet.read("GET /wallet/accounts/{name}")
async def read_account(db: Read, name: str) -> AccountView | None:
    """An account."""
    found = (await db.execute(select(account).where(account.c.name == name))).one_or_none()
    return None if found is None else view(found)


def view(row: Any) -> AccountView:
    """A row of `account` as it is shown."""
    return AccountView(name=row.name, balance=row.balance, points=row.points)


@wallet.invariant("money is conserved: what is in the accounts was deposited")
async def money_is_conserved(db: Read) -> list[Any]:
    """The two sums, if they differ."""
    sums = select(func.sum(account.c.balance).label("held"), func.sum(account.c.deposited).label("deposited"))
    return [row for row in (await db.execute(sums)).all() if row.held != row.deposited]


@wallet.invariant("no account is overdrawn")
async def nobody_is_overdrawn(db: Read) -> list[Any]:
    """Accounts below zero."""
    return list((await db.execute(select(account).where(account.c.balance < Decimal(0)))).all())


@wallet.invariant("a payment earns one point, within an hour")
async def one_point_for_a_payment(db: Read) -> list[Any]:
    """Payments with several points, and old ones with none."""
    late = (payment.c.points == 0) & (payment.c.made_at < db.now - POINT_WITHIN)
    return list((await db.execute(select(payment).where((payment.c.points > 1) | late))).all())


@wallet.invariant("an account's points are those of its payments")
async def points_add_up(db: Read) -> list[Any]:
    """Accounts whose points differ from their payments'."""
    earned = select(func.coalesce(func.sum(payment.c.points), 0)).where(payment.c.source == account.c.name)
    return list((await db.execute(select(account).where(account.c.points != earned.scalar_subquery()))).all())


app = App(modules=[wallet], title="Wallet")
