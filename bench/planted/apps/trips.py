"""Trips: money held, a room at a hotel outside, somebody's approval; then it is paid, or everything is taken back.

    POST /trips ──► the trip `asked`, TripAsked
    open        the trip `open`                      undo: `refused`
    hold        credit held, the trip `held`         undo: free again, the trip `open`
    room        the hotel books, under a stable key  undo: the hotel lets go of that key, booked or not
    approved    TripApproved within 5 s              small trips are approved by a reaction, others by POST /approvals
    pay         what was held is spent, the trip `booked`

The hotel remembers a key that it was told to let go of: a booking that arrives after that is none.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Column, MetaData, Table, func, insert, or_, select, update

from dujiang import (
    App,
    Call,
    Event,
    Failed,
    Id,
    Model,
    Module,
    Money,
    Ok,
    Read,
    Refusal,
    Retry,
    Saga,
    SagaView,
    Step,
    Tx,
    Unknown,
    Wait,
    columns,
    key,
    saga_of,
)

# Trips up to the one are approved at once; the hotel has no room for what costs more than the other.
SMALL, HOTEL_LIMIT = Decimal("100.00"), Decimal("300.00")
BOOKED, LET_GO = "booked", "let go"
# What the hotel knows: key -> (trip, what is true of it).
rooms: dict[str, tuple[int, str]] = {}

metadata = MetaData()
traveller = Table(
    "trips_traveller",
    metadata,
    Column("name", columns.Key(32), primary_key=True),
    Column("credit", columns.Money(2), nullable=False),
    Column("held", columns.Money(2), nullable=False),
    Column("spent", columns.Money(2), nullable=False),
)
trip = Table(
    "trips_trip",
    metadata,
    Column("trip_id", columns.Id, primary_key=True),
    Column("traveller", columns.Key(32), nullable=False),
    Column("amount", columns.Money(2), nullable=False),
    Column("status", columns.Choice("asked", "open", "held", "booked", "refused"), nullable=False),
)


class NewTrip(Model):
    """A trip that somebody wants to make."""

    traveller: Annotated[str, Field(min_length=1, max_length=32, examples=["ann", "ben"])]
    amount: Annotated[Money, Field(gt=0, le=100_000, examples=["20.00", "20.00", "150.00", "400.00", "9000.00"])]


class TripView(Model):
    """A trip that was asked for."""

    trip_id: Id


class Approval(Model):
    """Somebody approves a trip."""

    trip_id: Id


class TripAsked(Event):
    """A trip was asked for; nothing is held or booked yet."""

    trip_id: Id = key()
    traveller: str
    amount: Money


class TripApproved(Event):
    """Somebody has approved a trip."""

    trip_id: Id = key()


class NoCredit(Refusal):
    """The traveller's credit does not cover the trip."""

    code = "no_credit"


class OtherStatus(Exception):
    """A trip is not where its saga has left it."""


class TripState(Model, frozen=False):
    """What the saga of a trip knows."""

    trip_id: Id
    traveller: str
    amount: Money


async def seed(tx: Tx) -> None:
    """Two travellers."""
    start = {"credit": Decimal(1000), "held": Decimal(0), "spent": Decimal(0)}
    await tx.execute(insert(traveller), [{"name": "ann", **start}, {"name": "ben", **start}])


trips = Module("trips", tables=metadata, migrations="bench.planted.apps.migrations.trips", seed=seed)


@trips.write("POST /trips")
async def ask(tx: Tx, body: NewTrip) -> TripView:
    """Ask for a trip."""
    trip_id = tx.new_id()
    row = {"trip_id": trip_id, "traveller": body.traveller, "amount": body.amount}
    await tx.execute(insert(trip), {**row, "status": "asked"})
    tx.publish(TripAsked(trip_id=trip_id, traveller=body.traveller, amount=body.amount))
    return TripView(trip_id=trip_id)


@trips.write("POST /approvals")
async def approve(tx: Tx, body: Approval) -> None:
    """Approve a trip; also one that does not wait for it yet, or any more."""
    tx.publish(TripApproved(trip_id=body.trip_id))


@trips.react(TripAsked)
async def approve_small(tx: Tx, event: TripAsked) -> None:
    """Approve what is small: it may come before the saga waits for it."""
    if event.amount <= SMALL:
        tx.publish(TripApproved(trip_id=event.trip_id))


async def put(tx: Tx, state: TripState, before: str, after: str) -> None:
    """Give a trip another status."""
    found = update(trip).where(trip.c.trip_id == state.trip_id, trip.c.status == before)
    if (await tx.execute(found.values(status=after))).rowcount == 0:
        raise OtherStatus(f"trip {state.trip_id} is not {before}")


async def open_file(tx: Tx, state: TripState) -> None:
    """Begin."""
    await put(tx, state, "asked", "open")


async def close_file(tx: Tx, state: TripState, _: None) -> None:
    """Nothing of it is left."""
    await put(tx, state, "open", "refused")


async def hold_money(tx: Tx, state: TripState) -> Money:
    """Hold what the trip costs."""
    left = traveller.c.credit - traveller.c.held - traveller.c.spent
    covered = update(traveller).where(traveller.c.name == state.traveller, left >= state.amount)
    if (await tx.execute(covered.values(held=traveller.c.held + state.amount))).rowcount == 0:
        raise NoCredit(f"{state.traveller} has no credit for {state.amount}")
    await put(tx, state, "open", "held")
    return state.amount


async def free_money(tx: Tx, state: TripState, done: Money) -> None:
    """What was held is free again."""
    await put(tx, state, "held", "open")
    own = update(traveller).where(traveller.c.name == state.traveller)
    await tx.execute(own.values(held=traveller.c.held - done))


async def book_room(call: Call, state: TripState) -> Ok[str] | Failed | Unknown:
    """Ask the hotel."""
    try:
        reference = await book(call.key, state.trip_id, state.amount)
    except TimeoutError as error:
        return Unknown(str(error))
    return Ok(reference) if reference else Failed("there is no room")


async def cancel_room(call: Call, state: TripState, _: str | None) -> None:
    """Let the hotel let go of it, whether it has booked or not."""
    await let_go(call.undoes, state.trip_id)


async def pay(tx: Tx, state: TripState) -> None:
    """What was held is spent."""
    await put(tx, state, "held", "booked")
    own = update(traveller).where(traveller.c.name == state.traveller)
    moved = {"held": traveller.c.held - state.amount, "spent": traveller.c.spent + state.amount}
    await tx.execute(own.values(**moved))


@trips.saga(on=TripAsked, within="15s", retry=Retry(attempts=4))
class Booking(Saga[TripState]):
    """Hold, book, have it approved, pay; or let go, free and refuse, in that order."""

    open = Step(open_file, undo=close_file)
    hold = Step(hold_money, undo=free_money)
    room = Step(book_room, undo=cancel_room, attempts=1)
    approved = Wait(TripApproved, by=lambda event: event.trip_id, within="5s")
    pay = Step(pay)

    @staticmethod
    def begin(event: TripAsked) -> TripState:
        """A trip as it was asked for."""
        return TripState(trip_id=event.trip_id, traveller=event.traveller, amount=event.amount)


@trips.read("GET /trips/{trip_id}")
async def look(db: Read, trip_id: Id) -> SagaView | None:
    """How a trip stands."""
    return await saga_of(db, Booking, trip_id)


def amounts(status: str) -> Any:
    """The sum of one traveller's trips of a status, as a subquery of `traveller`."""
    own = select(func.coalesce(func.sum(trip.c.amount), Decimal(0)))
    return own.where(trip.c.traveller == traveller.c.name, trip.c.status == status).scalar_subquery()


@trips.invariant("what is held is held for a trip, what is spent was spent for one")
async def money_is_conserved(db: Read) -> list[Any]:
    """Travellers whose figures differ from their trips."""
    wrong = or_(traveller.c.held != amounts("held"), traveller.c.spent != amounts("booked"))
    return list((await db.execute(select(traveller).where(wrong))).all())


@trips.invariant("a trip is done as a whole, or taken back as a whole")
async def all_or_nothing(db: Read) -> list[Any]:
    """Trips whose saga has ended in another way than they have."""
    wrong: list[Any] = []
    for row in (await db.execute(select(trip.c.trip_id, trip.c.status))).all():
        found = await saga_of(db, Booking, row.trip_id)
        booked = [place for place in rooms.values() if place == (row.trip_id, BOOKED)]
        if found is None or found.state not in ("done", "compensated"):
            continue
        # One whose time was over before its first step has never been opened.
        expected = [("booked", 1)] if found.state == "done" else [("refused", 0), ("asked", 0)]
        if (row.status, len(booked)) not in expected:
            wrong.append([row.trip_id, found.state, row.status, len(booked)])
    return wrong


app = App(modules=[trips], title="Trips")


@app.external
async def book(stable_key: str, trip_id: int, amount: Decimal) -> str:
    """Stands for the hotel: the same key gets the same room; its reference, or empty when there is none."""
    if rooms.get(stable_key, (trip_id, ""))[1] == LET_GO or amount > HOTEL_LIMIT:
        return ""
    rooms[stable_key] = (trip_id, BOOKED)
    return f"room-{stable_key}"


@app.external
async def let_go(stable_key: str, trip_id: int) -> None:
    """Stands for the hotel: the room of a key is free, and a booking that comes later gets none."""
    rooms[stable_key] = (trip_id, LET_GO)
