"""Provider: what the payment provider tells, signed; late, doubled and in any order.

    X-Provider-Signature: t=1767225600,v1=<64 hexadecimal digits>[,v1=...]

`v1` is HMAC-SHA256 over the bytes `t`, a dot, and the body as it was sent. One signature that one trusted secret made is
enough, so that a secret is exchanged by trusting the new one, telling the provider, and giving up the old one. The time
bounds how long a request that somebody recorded can be sent again; within that, its event id refuses it.

An event is stored under its id once, in the transaction that does what it says:

    payment.succeeded    the amount comes from the house's account to the customer's, under the payment's id: once
    payment.refunded     the amount goes back; before the payment is known it waits for it
    anything else        stored and ignored: `unknown` and `failed` move nothing, the settlement file has the last word

What cannot be booked (a frozen account, money that was spent) is kept as `refused`, with the reason, and answered with 200:
asking again would not help the provider, and `POST /_dj/ledger/provider/events/{event_id}/retry` does help the operator.
All of it stands behind the locks of the house's accounts, so two deliveries of one event follow each other.

Secrets come from the environment (`LEDGER_PROVIDER_SECRETS`, separated by commas), through what the app provides, or from an
operator while the system runs. With none, every request is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Request
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import bindparam, delete, insert, select, update

from dujiang import Client, Instant, Read, Refusal, Tx
from dujiang.systems.ledger.accounts import HOUSE, ledger
from dujiang.systems.ledger.book import Book
from dujiang.systems.ledger.contract import Outcome, ProviderEvent, ProviderReceipt, Reference, Secret, SecretView
from dujiang.systems.ledger.refusals import (
    BadProviderEvent,
    BadSignature,
    EventIdReused,
    NotRetriable,
    SignatureTooOld,
    UnknownEvent,
)
from dujiang.systems.ledger.rows import Wish
from dujiang.systems.ledger.tables import provider_event, provider_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER = "x-provider-signature"
VARIABLE = "LEDGER_PROVIDER_SECRETS"
TOLERANCE = timedelta(minutes=5)
BODY_BYTES_MAX = 65_536
SIGNATURES_MAX = 8
PAID, TAKEN_BACK = "payment.succeeded", "payment.refunded"

SecretName = Annotated[str, Path(min_length=1, max_length=32, pattern=r"^[a-z0-9-]+$", examples=["spring", "autumn"])]
EventId = Annotated[Reference, Path()]

SECRETS = select(provider_secret.c.secret)
EVENT = select(provider_event).where(provider_event.c.event_id == bindparam("of"))
WAITING = (
    select(provider_event)
    .where(provider_event.c.payment_id == bindparam("payment_id"), provider_event.c.outcome == "waiting")
    .order_by(provider_event.c.event_id)
)
DECIDE = (
    update(provider_event)
    .where(provider_event.c.event_id == bindparam("of"))
    .values(outcome=bindparam("decided"), reason=bindparam("why"))
)


@dataclass(frozen=True)
class ProviderKeys:
    """The secrets that are given to the process; to be provided by the app."""

    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> ProviderKeys:
        """Those of the environment."""
        return cls(tuple(each.strip() for each in environment.get(VARIABLE, "").split(",") if each.strip()))


def signature(secret: str, at: datetime, body: bytes) -> str:
    """The value of the header for a body that is sent at a time."""
    moment = int(at.timestamp())
    return f"t={moment},v1={signed(secret, moment, body)}"


def signed(secret: str, moment: int, body: bytes) -> str:
    """HMAC-SHA256 of time and body, in hexadecimal digits."""
    return digest(secret.encode(), b"%d." % moment + body, "sha256").hex()


def verify(header: str, body: bytes, secrets: Iterable[str], now: datetime) -> None:
    """Raise BadSignature or SignatureTooOld; says nothing if one of the signatures is one of a trusted secret.

    Every pair is compared, each in a time that does not depend on where it differs.
    """
    pairs = [each.strip().partition("=") for each in header.split(",")]
    moments = [value for name, _, value in pairs if name == "t"]
    given = [value for name, _, value in pairs if name == "v1"][:SIGNATURES_MAX]
    if len(moments) != 1 or not (moments[0].isascii() and moments[0].isdigit() and len(moments[0]) <= 11):
        raise BadSignature(f"{HEADER} says no time; it reads t=<seconds>,v1=<hexadecimal digits>")
    moment = int(moments[0])
    right = [
        compare_digest(signed(secret, moment, body).encode(), each.encode()) for secret in secrets for each in given
    ]
    if not any(right):
        raise BadSignature("no signature of a trusted secret")
    if abs(now - datetime.fromtimestamp(moment, UTC)) > TOLERANCE:
        raise SignatureTooOld(f"signed at {moment}, which is more than {TOLERANCE.seconds} s away from now")


@ledger.write("POST /api/v1/provider/events", status_code=200)
async def receive_event(
    tx: Tx, request: Request, keys: ProviderKeys
) -> ProviderReceipt | BadSignature | SignatureTooOld | BadProviderEvent | EventIdReused:
    """Take an event of the provider; the same event again changes nothing."""
    body = await request.body()
    header = request.headers.get(HEADER, "")
    if not header or len(body) > BODY_BYTES_MAX:
        raise BadSignature(f"there is no {HEADER}, or the body has more than {BODY_BYTES_MAX} bytes")
    stored = (await tx.execute(SECRETS)).scalars().all()
    verify(header, body, (*keys.secrets, *stored), tx.now)
    try:
        event = ProviderEvent.model_validate_json(body)
    except ValidationError as error:
        raise BadProviderEvent(str(error.errors()[0]["msg"])) from None
    return await take(tx, event)


async def take(tx: Tx, event: ProviderEvent) -> ProviderReceipt:
    """Store an event and do what it says, or find that it came before. Raises EventIdReused."""
    # The references by which this payment and its refunds are known; the locks come first.
    book = await opened(tx, event)
    before = (await tx.execute(EVENT, {"of": event.event_id})).one_or_none()
    if before is not None:
        return repeated(before, event)
    outcome, reason = apply(book, event)
    row = {**event.model_dump(), "received_at": tx.now, "outcome": outcome, "reason": reason}
    await tx.execute(insert(provider_event), row)
    await book.write()
    if event.kind == PAID and outcome == "applied":
        await catch_up(tx, event)
    return ProviderReceipt(event_id=event.event_id, outcome=outcome, reason=reason)


async def opened(tx: Tx, event: Any) -> Book:
    """The book of the house and of a customer, with the payment and the event's refund if they are there.

    All accounts of the house, whatever the currency: an event's id is looked up and stored behind their locks.
    """
    return await Book.opened(tx, [*HOUSE.values(), event.account_id], [event.payment_id, event.event_id])


def repeated(before: Any, event: ProviderEvent) -> ProviderReceipt:
    """The receipt of an event that came again. Raises EventIdReused if it is another one."""
    said = event.model_dump()
    if any(getattr(before, name) != value for name, value in said.items()):
        raise EventIdReused(f"the event {event.event_id} came before with another content")
    return ProviderReceipt(event_id=event.event_id, outcome=before.outcome, reason=before.reason, duplicate=True)


def apply(book: Book, event: Any) -> tuple[Outcome, str]:
    """Do what an event says; its outcome and the reason."""
    if event.kind not in (PAID, TAKEN_BACK):
        return "ignored", event.kind
    try:
        if event.kind == PAID:
            book.move(
                Wish(
                    source="provider",
                    reference=event.payment_id,
                    kind="transfer",
                    debit=HOUSE[event.currency],
                    credit=event.account_id,
                    currency=event.currency,
                    amount=event.amount,
                )
            )
            return "applied", ""
        paid = book.named(HOUSE[event.currency], "provider", "transfer", event.payment_id)
        if paid is None:
            return "waiting", "its payment is not known yet"
        if paid.credit != event.account_id:
            return "refused", "account_differs"
        book.refund(paid.transfer_id, "provider", event.event_id, event.amount, None)
    except Refusal as refusal:
        return "refused", refusal.code
    return "applied", ""


async def catch_up(tx: Tx, event: Any) -> None:
    """Do what waited for a payment that has just become known; behind the same locks."""
    for row in (await tx.execute(WAITING, {"payment_id": event.payment_id})).all():
        if (row.currency, row.account_id) == (event.currency, event.account_id):
            await book_again(tx, row)


async def book_again(tx: Tx, row: Any) -> tuple[Outcome, str]:
    """Do what a stored event says, behind the locks of its accounts; its new outcome and the reason."""
    book = await opened(tx, row)
    outcome, reason = apply(book, row)
    await book.write()
    await tx.execute(DECIDE, {"of": row.event_id, "decided": outcome, "why": reason})
    return outcome, reason


@ledger.write("POST /_dj/ledger/provider/events/{event_id}/retry", status_code=200)
async def retry_event(tx: Tx, event_id: EventId) -> ProviderReceipt | UnknownEvent | NotRetriable:
    """Try again to book an event that was refused or waits, once what stood in its way is gone."""
    row = (await tx.execute(EVENT, {"of": event_id})).one_or_none()
    if row is None:
        raise UnknownEvent(f"no event {event_id} came", event_id=event_id)
    await opened(tx, row)
    row = (await tx.execute(EVENT, {"of": event_id})).one()  # Behind the locks.
    if row.outcome not in ("refused", "waiting"):
        raise NotRetriable(f"the event is {row.outcome}", outcome=row.outcome)
    outcome, reason = await book_again(tx, row)
    if row.kind == PAID and outcome == "applied":
        await catch_up(tx, row)
    return ProviderReceipt(event_id=event_id, outcome=outcome, reason=reason)


@ledger.read("GET /_dj/ledger/provider/events/{event_id}")
async def read_event(db: Read, event_id: EventId) -> ProviderReceipt | None:
    """What became of an event."""
    row = (await db.execute(EVENT, {"of": event_id})).one_or_none()
    if row is None:
        return None
    return ProviderReceipt(event_id=row.event_id, outcome=row.outcome, reason=row.reason)


@ledger.write("PUT /_dj/ledger/provider/secrets/{name}")
async def trust_secret(tx: Tx, name: SecretName, body: Secret) -> SecretView:
    """Trust a secret from now on, beside the others."""
    await Book.opened(tx, [HOUSE["EUR"]])  # Two of one name at once follow each other.
    await tx.execute(delete(provider_secret).where(provider_secret.c.name == name))
    await tx.execute(insert(provider_secret), {"name": name, "secret": body.secret, "active_from": tx.now})
    return SecretView(name=name, active_from=tx.now)


@ledger.write("DELETE /_dj/ledger/provider/secrets/{name}")
async def give_up_secret(tx: Tx, name: SecretName) -> None:
    """Trust a secret no more; one that is not known is given up already."""
    await tx.execute(delete(provider_secret).where(provider_secret.c.name == name))


@ledger.workload
async def a_provider(client: Client) -> None:
    """What the provider does in a drill: a refund before its payment, the payment twice, a refund that is too much."""
    number = int(client.random() * 1_000_000)
    secret = f"drill-{number:020}"
    told = await client.put(f"/_dj/ledger/provider/secrets/drill-{number}", {"secret": secret})
    if told.status != 200:
        return
    at: datetime = TypeAdapter(Instant).validate_python(told.json["active_from"])
    payment = {"payment_id": f"pay-{number}", "account_id": client.choice(["11", "12"]), "currency": "EUR"}
    for event, kind, amount in (
        ("back", TAKEN_BACK, "20.00"),
        ("paid", PAID, "50.00"),
        ("paid", PAID, "50.00"),
        ("more", TAKEN_BACK, "40.00"),
        ("fate", "payment.unknown", "1.00"),
    ):
        said = {
            "event_id": f"{event}-{number}",
            "kind": kind,
            "amount": amount,
            "occurred_at": told.json["active_from"],
        }
        body = json.dumps({**payment, **said}).encode()
        await client.post("/api/v1/provider/events", body, headers={HEADER: signature(secret, at, body)})
    await client.post(f"/_dj/ledger/provider/events/more-{number}/retry")
