"""Orders as most people write them: FastAPI and SQLAlchemy's async ORM, on asyncpg or aiosqlite. One uvicorn process.

Faster than the plain form in these points: `synchronize_session=False` on the bulk statements, no expiry on commit, the
answer's bytes made once and sent as they are stored, JSON by Pydantic's own encoder. On SQLite: WAL, synchronous=FULL,
BEGIN IMMEDIATE, and five pooled connections: with 1 and with 20 the same program was slower.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from shapes import (
    CONSUMER_BATCH,
    CONSUMER_IDLE_S,
    CONSUMES,
    DATABASE,
    IN_FLIGHT,
    KEY_REUSED,
    OUT_OF_STOCK,
    POOL_SIZE,
    TOPIC,
    fingerprint,
)
from sqlalchemy import BigInteger, delete, event, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ON_SQLITE = DATABASE.startswith("sqlite")
BigId = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
upsert = sqlite.insert if ON_SQLITE else postgresql.insert
NO_SYNC = {"synchronize_session": False}


class Base(DeclarativeBase):
    """The mapped tables; schema in bench/orders.py."""


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int]
    sku: Mapped[int]
    quantity: Mapped[int]
    status: Mapped[str]


class Stock(Base):
    __tablename__ = "stock"
    sku: Mapped[int] = mapped_column(primary_key=True)
    quantity: Mapped[int]


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    topic: Mapped[str]
    payload: Mapped[str]


class Key(Base):
    __tablename__ = "keys"
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    status: Mapped[int | None]
    answer: Mapped[bytes | None]


class Handled(Base):
    __tablename__ = "handled"
    order_id: Mapped[int] = mapped_column(BigId, primary_key=True)


class NewOrder(BaseModel):
    """A request for one product."""

    model_config = ConfigDict(extra="forbid", strict=True)
    user_id: int = Field(ge=1)
    sku: int = Field(ge=1)
    quantity: int = Field(ge=1, le=100)


class OrderView(BaseModel):
    """An order as the customer sees it; also the event's payload."""

    id: int
    user_id: int
    sku: int
    quantity: int
    status: str


def engine_options() -> dict[str, Any]:
    """Pool sizes; on SQLite the driver's own transaction control is off, so that ours begins IMMEDIATE."""
    if ON_SQLITE:
        return {"pool_size": 5, "max_overflow": 0, "pool_timeout": 60, "connect_args": {"isolation_level": None}}
    return {"pool_size": POOL_SIZE, "max_overflow": 0}


engine = create_async_engine(DATABASE.replace("postgresql://", "postgresql+asyncpg://"), **engine_options())
sessions = async_sessionmaker(engine, expire_on_commit=False)

if ON_SQLITE:

    @event.listens_for(engine.sync_engine, "connect")
    def make_durable(connection: Any, record: Any) -> None:
        """The settings under which SQLite loses nothing at a power cut."""
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_immediate(connection: Any) -> None:
        """A transaction that writes takes the writer's lock at once; a later upgrade could fail."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the consumer if asked; close the pool."""
    consumer = asyncio.create_task(consume()) if CONSUMES else None
    yield
    if consumer is not None:
        consumer.cancel()
        await asyncio.wait([consumer])
    await engine.dispose()


async def session() -> AsyncIterator[AsyncSession]:
    """One session per request."""
    async with sessions() as opened:
        yield opened


app = FastAPI(lifespan=lifespan)
Session = Annotated[AsyncSession, Depends(session)]


async def write(db: AsyncSession, wanted: NewOrder) -> bytes | None:
    """Stock, order and outbox row; the order as JSON, or None when stock is short."""
    enough = (Stock.sku == wanted.sku, Stock.quantity >= wanted.quantity)
    taking = update(Stock).where(*enough).values(quantity=Stock.quantity - wanted.quantity)
    if (await db.execute(taking, execution_options=NO_SYNC)).rowcount != 1:
        return None
    order = Order(user_id=wanted.user_id, sku=wanted.sku, quantity=wanted.quantity, status="new")
    db.add(order)
    await db.flush()
    view = OrderView(id=order.id, user_id=order.user_id, sku=order.sku, quantity=order.quantity, status=order.status)
    placed = view.model_dump_json()
    db.add(Outbox(topic=TOPIC, payload=placed))
    return placed.encode()


@app.post("/orders", status_code=201, response_model=OrderView)
async def place(
    wanted: NewOrder, request: Request, db: Session, idempotency_key: Annotated[str | None, Header()] = None
) -> Response:
    """POST /orders with an Idempotency-Key."""
    if idempotency_key is None:
        return await place_plain(wanted, db)
    print_ = fingerprint(await request.body())  # FastAPI has read it; this is the copy that the request keeps.
    async with db.begin() as transaction:
        claim = upsert(Key).values(key=idempotency_key, fingerprint=print_).on_conflict_do_nothing()
        if (await db.execute(claim)).rowcount != 1:
            stored = await db.get(Key, idempotency_key)
            return replay(stored, print_)
        placed = await write(db, wanted)
        if placed is None:
            await transaction.rollback()
            return answer(409, OUT_OF_STOCK)
        storing = update(Key).where(Key.key == idempotency_key).values(status=201, answer=placed)
        await db.execute(storing, execution_options=NO_SYNC)
    return answer(201, placed)


@app.post("/plain", status_code=201)
async def place_plain(wanted: NewOrder, db: Session) -> Response:
    """POST /plain: no key, nothing stored."""
    async with db.begin():
        placed = await write(db, wanted)
        if placed is None:
            raise HTTPException(409, "out_of_stock")
    return answer(201, placed)


@app.post("/durability")
async def durability(db: Session) -> dict[str, Any]:
    """The settings of a session of this pool."""
    if ON_SQLITE:
        pragmas = ("journal_mode", "synchronous")
        return {name: (await db.execute(text(f"PRAGMA {name}"))).scalar_one() for name in pragmas}
    names = ("fsync", "full_page_writes", "synchronous_commit")
    return {name: (await db.execute(text(f"SHOW {name}"))).scalar_one() for name in names}


def replay(stored: Key | None, print_: bytes) -> Response:
    """The stored answer, or why there is none."""
    if stored is None or stored.answer is None or stored.status is None:
        return answer(409, IN_FLIGHT)
    if stored.fingerprint != print_:
        return answer(422, KEY_REUSED)
    return Response(stored.answer, stored.status, {"Idempotent-Replayed": "true"}, "application/json")


def answer(status: int, body: bytes) -> Response:
    """A JSON answer."""
    return Response(body, status, media_type="application/json")


async def consume() -> None:
    """Take outbox rows in batches and note each order as handled, in one transaction per batch."""
    batch = select(Outbox.id).order_by(Outbox.id).limit(CONSUMER_BATCH).with_for_update(skip_locked=True)
    taking = delete(Outbox).where(Outbox.id.in_(batch)).returning(Outbox.payload)
    while True:
        async with sessions() as db, db.begin():
            payloads = (await db.execute(taking, execution_options=NO_SYNC)).scalars().all()
            if payloads:
                rows = [{"order_id": OrderView.model_validate_json(payload).id} for payload in payloads]
                await db.execute(upsert(Handled).on_conflict_do_nothing(), rows)
        if not payloads:
            await asyncio.sleep(CONSUMER_IDLE_S)
