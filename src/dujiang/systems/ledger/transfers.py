"""Transfers: money moves at once, or is set aside first; a part of what moved goes back.

    POST transfers ──────────────────────────────────► posted ──► POST refunds: at most what was posted
    POST holds ──► pending ──┬── POST captures ──────► posted
                             ├── POST voids ─────────► voided
                             └── expire_hold, a job ─► expired

Each is declared on lists: calls that wait at the same moment share one transaction. See book.py for locks and order.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from dujiang import Client, Id, Job, Tx, sometimes
from dujiang.systems.ledger.accounts import HOUSE, ledger
from dujiang.systems.ledger.book import Book, each_of
from dujiang.systems.ledger.contract import (
    Capture,
    Deposit,
    NewHold,
    NewRefund,
    NewTransfer,
    TransferView,
    Void,
)
from dujiang.systems.ledger.refusals import (
    AboveHold,
    AboveRefundable,
    AccountFrozen,
    AmountScale,
    CeilingReached,
    CurrencyMismatch,
    HoldClosed,
    InsufficientFunds,
    NotRefundable,
    ReferenceReused,
    SameAccount,
    UnknownAccount,
    UnknownTransfer,
)
from dujiang.systems.ledger.rows import Transfer, Wish

if TYPE_CHECKING:
    from datetime import datetime

BATCH = 64

Moved = (
    TransferView
    | UnknownAccount
    | SameAccount
    | CurrencyMismatch
    | AmountScale
    | AccountFrozen
    | InsufficientFunds
    | CeilingReached
    | ReferenceReused
)


@ledger.write("POST /api/v1/transfers", batch=BATCH, idempotency="required")
async def move_money(tx: Tx, bodies: list[NewTransfer]) -> list[Moved]:
    """Move money between two accounts, one of which is the caller's."""
    legs = {leg for body in bodies for leg in (body.debit, body.credit)}
    book = await Book.opened(tx, legs, (body.reference for body in bodies))
    answers = each_of(bodies, lambda body: book.move(wish_of(body, None), body.user_id))
    await book.write()
    return answers


@ledger.write("POST /api/v1/holds", batch=BATCH, idempotency="required")
async def place_hold(tx: Tx, bodies: list[NewHold]) -> list[Moved]:
    """Set an amount aside until it is captured, voided, or expires."""
    legs = {leg for body in bodies for leg in (body.debit, body.credit)}
    book = await Book.opened(tx, legs, (body.reference for body in bodies))
    known = set(book.transfers)

    def hold(body: NewHold) -> Transfer:
        return book.move(wish_of(body, tx.now + timedelta(seconds=body.expires_in_s)), body.user_id)

    answers = each_of(bodies, hold)
    await book.write()
    for transfer_id in set(book.transfers) - known:
        await tx.enqueue(expire_hold, transfer_id, run_at=book.transfers[transfer_id].expires_at)
    return answers


def wish_of(body: NewTransfer, expires_at: datetime | None) -> Wish:
    """What a client wants."""
    return Wish(
        source="client",
        reference=body.reference,
        kind="transfer" if expires_at is None else "hold",
        debit=body.debit,
        credit=body.credit,
        currency=body.currency,
        amount=body.amount,
        expires_at=expires_at,
    )


Captured = TransferView | UnknownTransfer | HoldClosed | AboveHold | AmountScale | AccountFrozen


@ledger.write("POST /api/v1/captures", batch=BATCH, idempotency="required", status_code=200)
async def capture_hold(tx: Tx, bodies: list[Capture]) -> list[Captured]:
    """Take what is held, whole or in part; the rest is released."""
    book = await Book.opened_at(tx, (body.transfer_id for body in bodies))
    answers = each_of(bodies, lambda body: book.capture(body.transfer_id, body.amount, body.user_id))
    await book.write()
    return answers


@ledger.write("POST /api/v1/voids", batch=BATCH, idempotency="required", status_code=200)
async def void_hold(tx: Tx, bodies: list[Void]) -> list[TransferView | UnknownTransfer | HoldClosed]:
    """Give a hold up; all of it is free again."""
    book = await Book.opened_at(tx, (body.transfer_id for body in bodies))
    answers = each_of(bodies, lambda body: book.release(body.transfer_id, "voided", body.user_id))
    await book.write()
    return answers


@ledger.accept()
async def expire_hold(job: Job, transfer_id: Id) -> str:
    """End a hold whose time is over, unless a capture or a void came first; returns how it ended."""
    return await job.transact(expire, transfer_id)


async def expire(tx: Tx, transfer_id: Id) -> str:
    """The transaction of `expire_hold`: the locks decide who is first, and whoever is second sees it."""
    book = await Book.opened_at(tx, [transfer_id])
    found = book.transfer(transfer_id)
    if found.state == "pending":
        book.release(transfer_id, "expired")
        await book.write()
        sometimes("a hold expired")
    return str(found.state)


Refunded = (
    TransferView
    | UnknownTransfer
    | NotRefundable
    | AboveRefundable
    | AmountScale
    | AccountFrozen
    | InsufficientFunds
    | CeilingReached
    | ReferenceReused
)


@ledger.write("POST /api/v1/refunds", batch=BATCH, idempotency="required")
async def refund_transfer(tx: Tx, bodies: list[NewRefund]) -> list[Refunded]:
    """Give a part of a posted transfer back; all refunds together are at most what was posted."""
    book = await Book.opened_at(tx, (body.transfer_id for body in bodies), (body.reference for body in bodies))
    answers = each_of(
        bodies, lambda body: book.refund(body.transfer_id, "client", body.reference, body.amount, body.user_id)
    )
    await book.write()
    return answers


@ledger.write("POST /_dj/ledger/deposits", idempotency="required")
async def deposit(
    tx: Tx, body: Deposit
) -> TransferView | UnknownAccount | SameAccount | AmountScale | AccountFrozen | CeilingReached | ReferenceReused:
    """Book money that came in from outside."""
    book = await Book.opened(tx, [*HOUSE.values(), body.account_id], [body.reference])
    currency = book.account(body.account_id).currency
    made = book.move(
        Wish(
            source="operator",
            reference=body.reference,
            kind="transfer",
            debit=HOUSE[currency],
            credit=body.account_id,
            currency=currency,
            amount=body.amount,
        )
    )
    await book.write()
    return made.view()


@ledger.workload
async def a_payer(client: Client) -> None:
    """What one customer does in a drill: pay, set aside, and end that near the moment at which it ends by itself."""
    number = int(client.random() * 1_000_000)
    debit, credit = client.choice([("11", "12"), ("12", "11")])
    said = {"user_id": "ann", "debit": debit, "credit": credit}
    paid = {**said, "amount": client.choice(["10.00", "400.00"]), "reference": f"pay-{number}"}
    await client.post("/api/v1/transfers", paid)
    held = {**said, "amount": "30.00", "reference": f"hold-{number}", "expires_in_s": client.choice([1, 2, 60])}
    hold = await client.post("/api/v1/holds", held)
    if hold.status != 201:
        return
    end = {"user_id": "ann", "transfer_id": hold.json["transfer_id"]}
    await client.sleep(client.choice([0.0, 0.8, 0.95, 1.8]))
    if client.random() < 0.75:
        await client.post("/api/v1/captures", {**end, "amount": client.choice(["30.00", "12.50"])})
    else:
        await client.post("/api/v1/voids", end)
    for part in ("a", "b"):
        await client.post("/api/v1/refunds", {**end, "amount": "10.00", "reference": f"back-{part}-{number}"})
