"""Seats: a customer holds seats for ten minutes and buys them one by one; a line at the door for each show.

POST /seats/holds   ──► all seats or none; a hold that has run out may be taken over
POST /seats/tickets ──► seat held -> sold, the ticket, SeatSold
                            │ relay, in order for each show
                            ▼
queue_up            ──► the next number in the show's line
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, Table, and_, func, insert, or_, select, update

from dujiang import App, Event, Id, Instant, Model, Module, Read, Refusal, Tx, columns, key

HOLD = timedelta(minutes=10)

metadata = MetaData()
seat = Table(
    "seats_seat",
    metadata,
    Column("show", columns.Key(16), primary_key=True),
    Column("seat", columns.Key(8), primary_key=True),
    Column("status", columns.Choice("free", "held", "sold"), nullable=False),
    Column("holder", columns.Key(32), nullable=False),
    Column("held_at", columns.Instant),
    Column("held_until", columns.Instant),
)
ticket = Table(
    "seats_ticket",
    metadata,
    Column("ticket_id", columns.Id, primary_key=True),
    Column("show", columns.Key(16), nullable=False),
    Column("seat", columns.Key(8), nullable=False),
    Column("customer", columns.Key(32), nullable=False),
)
place = Table(
    "seats_place",
    metadata,
    Column("ticket_id", columns.Id, primary_key=True),
    Column("show", columns.Key(16), nullable=False),
    Column("number", Integer, nullable=False),
)

Show = Annotated[str, Field(min_length=1, max_length=16, examples=["opera"])]
Seat = Annotated[str, Field(min_length=1, max_length=8, examples=["A1", "A2", "A3", "A4"])]
Customer = Annotated[str, Field(min_length=1, max_length=32, examples=["ann", "ben"])]


class Hold(Model):
    """Seats that a customer wants to keep for a while."""

    show: Show
    seats: Annotated[list[Seat], Field(min_length=1, max_length=8, examples=[["A1"], ["A1", "A2"], ["A3", "A2"]])]
    customer: Customer


class Purchase(Model):
    """A held seat that its customer buys."""

    show: Show
    seat: Seat
    customer: Customer


class HoldView(Model):
    """How long the seats are kept."""

    held_until: Instant


class TicketView(Model):
    """A ticket."""

    ticket_id: Id
    seat: str


class SeatSold(Event):
    """A seat was sold; the customer has no number in the line yet."""

    show: str = key()
    ticket_id: Id


class SeatTaken(Refusal):
    """Somebody else holds or bought the seat, or there is none of that name."""

    code = "seat_taken"


class NotHeld(Refusal):
    """The customer does not hold the seat any more."""

    code = "not_held"


async def seed(tx: Tx) -> None:
    """One show with twenty seats."""
    names = [f"{row}{number}" for row in "AB" for number in range(1, 11)]
    await tx.execute(insert(seat), [{"show": "opera", "seat": n, "status": "free", "holder": ""} for n in names])


seats = Module("seats", tables=metadata, migrations="bench.planted.apps.migrations.seats", seed=seed)


@seats.write("POST /seats/holds")
async def hold(tx: Tx, body: Hold) -> HoldView:
    """Keep seats for ten minutes, all of them or none; holding again begins anew."""
    until = tx.now + HOLD
    lapsed = and_(seat.c.status == "held", or_(seat.c.held_until < tx.now, seat.c.holder == body.customer))
    for name in sorted(set(body.seats)):
        free = update(seat).where(seat.c.show == body.show, seat.c.seat == name, or_(seat.c.status == "free", lapsed))
        kept = {"status": "held", "holder": body.customer, "held_at": tx.now, "held_until": until}
        if (await tx.execute(free.values(**kept))).rowcount == 0:
            raise SeatTaken(f"{name} is not free", seat=name)
    return HoldView(held_until=until)


@seats.write("POST /seats/tickets")
async def buy(tx: Tx, body: Purchase) -> TicketView:
    """Buy a seat that the customer holds."""
    this = and_(seat.c.show == body.show, seat.c.seat == body.seat)
    mine = and_(seat.c.status == "held", seat.c.holder == body.customer, seat.c.held_until >= tx.now)
    if (await tx.execute(update(seat).where(this, mine).values(status="sold"))).rowcount == 0:
        raise NotHeld(f"{body.customer} does not hold {body.seat}", seat=body.seat)
    ticket_id = tx.new_id()
    sold = {"ticket_id": ticket_id, "show": body.show, "seat": body.seat, "customer": body.customer}
    await tx.execute(insert(ticket), sold)
    tx.publish(SeatSold(show=body.show, ticket_id=ticket_id))
    return TicketView(ticket_id=ticket_id, seat=body.seat)


@seats.react(SeatSold, ordered=True)
async def queue_up(tx: Tx, event: SeatSold) -> None:
    """Give the ticket the next number in its show's line; one after another, so the number is free."""
    last = select(func.coalesce(func.max(place.c.number), 0)).where(place.c.show == event.show)
    number = (await tx.execute(last)).scalar_one() + 1
    await tx.execute(insert(place), {"ticket_id": event.ticket_id, "show": event.show, "number": number})


@seats.invariant("a seat is sold once, to the one who held it")
async def sold_once(db: Read) -> list[Any]:
    """Seats whose tickets are not exactly what their status says."""
    own = and_(ticket.c.show == seat.c.show, ticket.c.seat == seat.c.seat)
    count = select(func.count()).where(own).scalar_subquery()
    theirs = select(func.count()).where(own, ticket.c.customer == seat.c.holder).scalar_subquery()
    unsold = and_(seat.c.status != "sold", count > 0)
    wrong = or_(unsold, and_(seat.c.status == "sold", or_(count != 1, theirs != 1)))
    return list((await db.execute(select(seat).where(wrong))).all())


@seats.invariant("a hold lasts ten minutes")
async def holds_end(db: Read) -> list[Any]:
    """Seats that are kept for another time."""
    kept = select(seat).where(seat.c.status == "held")
    return [row for row in (await db.execute(kept)).all() if row.held_until - row.held_at != HOLD]


@seats.invariant("numbers in a line are given once, without a hole")
async def lines_are_dense(db: Read) -> list[Any]:
    """Shows whose numbers do not run from one to their count."""
    numbers = (func.count(), func.count(place.c.number.distinct()), func.max(place.c.number))
    rows = (await db.execute(select(place.c.show, *numbers).group_by(place.c.show))).all()
    return [row for row in rows if len(set(row[1:])) != 1]


app = App(modules=[seats], title="Seats")
