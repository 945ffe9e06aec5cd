"""Payments: a bank outside charges the customer; what came of it is written down by an operation of our own.

    POST /payments ──► one transaction: credit held, the payment `due`, PaymentDue
                            │ relay
                            ▼
    charge         ──► the bank, under the call's stable key; then `settle` in a transaction
    settle         ──► `paid`: what was held is spent;  `declined`: what was held is free again

A crash between the bank and `settle` runs `charge` again: the bank knows the key, and `settle` looks at the status.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, MetaData, Table, func, insert, or_, select, update

from dujiang import App, Call, Event, Id, Model, Module, Money, Read, Refusal, Tx, columns, key, sleep

# The bank declines what is above the one, and looks for ten seconds at what is above the other.
BANK_LIMIT, EXAMINED = Decimal("500.00"), Decimal("200.00")

metadata = MetaData()
customer = Table(
    "payments_customer",
    metadata,
    Column("name", columns.Key(32), primary_key=True),
    Column("credit", columns.Money(2), nullable=False),
    Column("held", columns.Money(2), nullable=False),
    Column("spent", columns.Money(2), nullable=False),
)
payment = Table(
    "payments_payment",
    metadata,
    Column("payment_id", columns.Id, primary_key=True),
    Column("customer", columns.Key(32), nullable=False),
    Column("amount", columns.Money(2), nullable=False),
    Column("status", columns.Choice("due", "paid", "declined"), nullable=False),
    Column("reference", columns.Key(128), nullable=False),
)


class NewPayment(Model):
    """A payment that a customer owes."""

    customer: Annotated[str, Field(min_length=1, max_length=32, examples=["ann", "ben"])]
    amount: Annotated[Money, Field(gt=0, le=100_000, examples=["20.00", "20.00", "700.00", "300.00"])]


class PaymentView(Model):
    """A payment that was accepted."""

    payment_id: Id


class Settlement(Model):
    """What the bank said; an empty reference means that it declined."""

    payment_id: Id
    reference: str


class PaymentDue(Event):
    """A payment was accepted; the bank has not been asked yet."""

    payment_id: Id = key()
    customer: str
    amount: Money


class NoCredit(Refusal):
    """The customer's credit does not cover the payment."""

    code = "no_credit"


async def seed(tx: Tx) -> None:
    """Two customers."""
    start = {"credit": Decimal(5000), "held": Decimal(0), "spent": Decimal(0)}
    await tx.execute(insert(customer), [{"name": "ann", **start}, {"name": "ben", **start}])


payments = Module("payments", tables=metadata, migrations="bench.planted.apps.migrations.payments", seed=seed)


@payments.write("POST /payments", idempotency="required")
async def owe(tx: Tx, body: NewPayment) -> PaymentView:
    """Accept a payment that the customer's credit covers."""
    left = customer.c.credit - customer.c.held - customer.c.spent
    covered = update(customer).where(customer.c.name == body.customer, left >= body.amount)
    if (await tx.execute(covered.values(held=customer.c.held + body.amount))).rowcount == 0:
        raise NoCredit(f"{body.customer} has no credit for {body.amount}")
    payment_id = tx.new_id()
    row = {"payment_id": payment_id, "customer": body.customer, "amount": body.amount}
    await tx.execute(insert(payment), {**row, "status": "due", "reference": ""})
    tx.publish(PaymentDue(payment_id=payment_id, customer=body.customer, amount=body.amount))
    return PaymentView(payment_id=payment_id)


@payments.react(PaymentDue)
async def charge(call: Call, event: PaymentDue) -> None:
    """Ask the bank, then write down what it said."""
    reference = await charge_card(call.key, event.amount)
    await app.run(settle, Settlement(payment_id=event.payment_id, reference=reference))


@payments.write()
async def settle(tx: Tx, body: Settlement) -> None:
    """Move what was held to where the bank's answer puts it; a second answer changes nothing."""
    found = (await tx.execute(select(payment).where(payment.c.payment_id == body.payment_id))).one()
    decided = {"status": "paid" if body.reference else "declined", "reference": body.reference}
    due = update(payment).where(payment.c.payment_id == body.payment_id, payment.c.status == "due")
    if (await tx.execute(due.values(**decided))).rowcount == 0:
        return
    moved = {"held": customer.c.held - found.amount}
    if body.reference:
        moved["spent"] = customer.c.spent + found.amount
    await tx.execute(update(customer).where(customer.c.name == found.customer).values(**moved))


def amounts(status: str) -> Any:
    """The sum of one customer's payments of a status, as a subquery of `customer`."""
    own = select(func.coalesce(func.sum(payment.c.amount), Decimal(0)))
    return own.where(payment.c.customer == customer.c.name, payment.c.status == status).scalar_subquery()


@payments.invariant("what is held is due, what is spent is paid")
async def customers_add_up(db: Read) -> list[Any]:
    """Customers whose figures differ from their payments."""
    wrong = or_(customer.c.held != amounts("due"), customer.c.spent != amounts("paid"))
    return list((await db.execute(select(customer).where(wrong))).all())


@payments.invariant("a charge of the bank pays one payment")
async def charges_are_single(db: Read) -> list[Any]:
    """References of the bank that stand at several payments."""
    paid = select(payment.c.reference).where(payment.c.reference != "").group_by(payment.c.reference)
    return list((await db.execute(paid.having(func.count() > 1))).all())


app = App(modules=[payments], title="Payments")


@app.external
async def charge_card(stable_key: str, amount: Decimal) -> str:
    """Stands for the bank: the same key gets the same charge; the charge's reference, or empty when it declines."""
    if EXAMINED < amount <= BANK_LIMIT:
        await sleep(10.0)
    return "" if amount > BANK_LIMIT else f"charge-{stable_key}"
