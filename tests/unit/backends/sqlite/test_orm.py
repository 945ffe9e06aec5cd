"""SQLAlchemy on the embedded store: the ORM and Core in one transaction, types, and the engine for migrations."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dujiang.backends.sqlite.dialect import sync_engine
from dujiang.data.database import (
    DatabaseRefused,
    IntegrityFailed,
    StatementFailed,
    StoreInUse,
    TransactionFailed,
    WriteInRead,
)
from dujiang.data.sql import Sql
from dujiang.data.values import ColumnRefused

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.backends.sqlite.database import SqliteDatabase
    from dujiang.data.database import Connection

ADD = Sql("add_item", "INSERT INTO item (id, n) VALUES ($1, $2)", "Adds an item.")
ALL = Sql("all_items", "SELECT id, n FROM item ORDER BY id", "Lists the items.")


class Root(DeclarativeBase):
    """The declarative root of the tests."""


class Item(Root):
    """One row of `item`."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


class Colour(enum.Enum):
    """A choice."""

    RED = 1
    BLUE = 2


async def items(database: SqliteDatabase) -> list[Any]:
    """What is committed."""
    return [tuple(row) for row in await database.statement(ALL)]


class TestSession:
    async def test_core_and_orm_are_one_transaction(self, database: SqliteDatabase) -> None:
        """Rows of both styles see each other, commit together, and a session's own commit and rollback change nothing."""

        async def body(connection: Connection) -> None:
            async with AsyncSession(connection.orm_engine()) as session:
                await connection.execute(ADD, 1, 1)
                session.add(Item(id=2, n=2))
                found = await session.get(Item, 1)
                assert found is not None
                found.n = 10
                await session.commit()
                await session.execute(sa.update(Item).where(Item.id == 2).values(n=20))
                await session.rollback()
                assert len(await connection.fetch(ALL)) == 2

        await database.write(body)

        assert await items(database) == [(1, 10), (2, 20)]

    async def test_an_integrity_error_in_a_nested_block_spares_the_rest(self, database: SqliteDatabase) -> None:
        """The port's error comes out of a nested block, as on PostgreSQL, and the transaction goes on."""

        async def body(connection: Connection) -> None:
            async with AsyncSession(connection.orm_engine()) as session:
                session.add(Item(id=1, n=1))
                await session.flush()
                session.expunge_all()
                with pytest.raises(IntegrityFailed, match=r"UNIQUE constraint failed: item\.id"):
                    async with session.begin_nested():
                        session.add(Item(id=1, n=2))
                session.add(Item(id=3, n=3))
                await session.flush()

        await database.write(body)

        assert await items(database) == [(1, 1), (3, 3)]

    async def test_a_failed_orm_statement_fails_the_transaction(self, database: SqliteDatabase) -> None:
        """Without a nested block the transaction takes nothing more, in either style."""

        async def body(connection: Connection) -> None:
            async with connection.orm_connection() as orm:
                with pytest.raises(StatementFailed, match="no_such_table"):
                    await orm.execute(sa.text("SELECT * FROM no_such_table"))
                with pytest.raises(TransactionFailed):
                    await orm.execute(sa.text("SELECT 1"))
            await connection.execute(ADD, 1, 1)

        with pytest.raises(TransactionFailed):
            await database.write(body)

    async def test_a_read_session_of_the_orm_cannot_write(self, database: SqliteDatabase) -> None:
        """The reader refuses the ORM as it refuses everybody."""
        await database.statement(ADD, 1, 1)

        async def look(connection: Connection) -> int:
            async with AsyncSession(connection.orm_engine()) as session:
                return (await session.execute(sa.select(sa.func.count(Item.id)))).scalar_one()

        async def write(connection: Connection) -> None:
            async with connection.orm_connection() as orm:
                await orm.execute(sa.insert(Item).values(id=2, n=2))

        assert await database.read(look) == 1
        with pytest.raises(WriteInRead):
            await database.read(write)

    async def test_statements_are_compiled_once_for_all_transactions(self, database: SqliteDatabase) -> None:
        """The engines of two transactions share one cache of compiled statements."""
        caches: list[object] = []

        async def body(connection: Connection) -> None:
            engine = connection.orm_engine().sync_engine
            caches.append(engine._compiled_cache)

        await database.write(body)
        await database.write(body)

        assert caches[0] is caches[1]
        assert caches[0] is not None

    async def test_returning_upsert_many_and_empty_results(self, database: SqliteDatabase) -> None:
        """RETURNING, ON CONFLICT, many rows at once, and a result without rows that still knows its columns."""

        async def body(connection: Connection) -> list[Any]:
            async with connection.orm_connection() as orm:
                added = await orm.execute(sa.insert(Item).returning(Item.id), [{"id": n, "n": n} for n in range(3)])
                upsert = insert(Item).values(id=1, n=7)
                upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"n": upsert.excluded.n})
                merged = await orm.execute(upsert)
                updated = await orm.execute(sa.update(Item).values(n=Item.n).where(Item.id < 2))
                nothing = await orm.execute(sa.select(Item.id, Item.n).where(Item.id == 99))
                return [added.scalars().all(), merged.rowcount, updated.rowcount, list(nothing.keys()), nothing.all()]

        assert await database.write(body) == [[0, 1, 2], 1, 2, ["id", "n"], []]

    async def test_generic_types_come_back_as_they_went_in(self, database: SqliteDatabase) -> None:
        """The types that the dialect's page lists survive the way there and back."""
        values: dict[str, tuple[Any, Any]] = {
            "integer": (sa.BigInteger(), -(2**63)),
            "string": (sa.String(20), "江"),
            "boolean": (sa.Boolean(), True),
            "octets": (sa.LargeBinary(), b"\x00\xff"),
            "json": (sa.JSON(), {"a": [1, None, "x"]}),
            "choice": (sa.Enum(Colour), Colour.BLUE),
            "uuid": (sa.Uuid(), uuid.UUID(int=5)),
            "real": (sa.Float(), 0.1),
            "moment": (sa.DateTime(), dt.datetime(2026, 1, 2, 3, 4, 5, 678901)),  # noqa: DTZ001  (naive on purpose)
            "day": (sa.Date(), dt.date(2026, 1, 2)),
            "span": (sa.Interval(), dt.timedelta(days=1, microseconds=1)),
        }
        table = sa.Table("kinds", sa.MetaData(), *(sa.Column(name, kind) for name, (kind, _) in values.items()))

        async def body(connection: Connection) -> dict[str, Any]:
            async with connection.orm_connection() as orm:
                await orm.run_sync(table.metadata.create_all)
                await orm.execute(table.insert().values({name: value for name, (_, value) in values.items()}))
                return dict((await orm.execute(table.select())).mappings().one())

        assert await database.write(body) == {name: value for name, (_, value) in values.items()}

    async def test_the_schema_can_be_inspected(self, database: SqliteDatabase) -> None:
        """SQLAlchemy's inspector works inside a transaction."""

        async def body(connection: Connection) -> list[Any]:
            async with connection.orm_connection() as orm:
                columns = await orm.run_sync(lambda sync: sa.inspect(sync).get_columns("item"))
                return [column["name"] for column in columns]

        assert await database.write(body) == ["id", "n"]


class TestSyncEngine:
    def test_ddl_is_transactional(self, tmp_path: Path) -> None:
        """A migration that fails half-way leaves no table behind."""
        engine = sync_engine(tmp_path / "app.db")

        def half_way() -> None:
            with engine.begin() as connection:
                Operations(MigrationContext.configure(connection)).create_table("one", sa.Column("id", sa.Integer))
                connection.execute(sa.text("INSERT INTO no_such_table VALUES (1)"))

        with pytest.raises(sa.exc.ProgrammingError, match="no such table"):
            half_way()
        with engine.begin() as connection:
            Operations(MigrationContext.configure(connection)).create_table("two", sa.Column("id", sa.Integer))
        with engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()

        assert names == ["two"]

    def test_batch_operations_of_alembic_work(self, tmp_path: Path) -> None:
        """A column can be dropped and another made NOT NULL, by copying the table."""
        engine = sync_engine(tmp_path / "app.db")
        Root.metadata.create_all(engine)

        with engine.begin() as connection:
            operations = Operations(MigrationContext.configure(connection, opts={"transactional_ddl": True}))
            with operations.batch_alter_table("item") as batch:
                batch.alter_column("n", nullable=True)
                batch.add_column(sa.Column("note", sa.String(10)))
        with engine.connect() as connection:
            columns = {c["name"]: c["nullable"] for c in sa.inspect(connection).get_columns("item")}

        assert columns == {"id": False, "n": True, "note": True}

    def test_a_copied_parent_keeps_its_children(self, tmp_path: Path) -> None:
        """Changing a table by copying it deletes no row that refers to it; a key left dangling refuses the commit."""
        engine = sync_engine(tmp_path / "app.db")
        Root.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE part (item INTEGER REFERENCES item (id) ON DELETE CASCADE)"))
            connection.execute(sa.text("INSERT INTO item VALUES (1, 1)"))
            connection.execute(sa.text("INSERT INTO part VALUES (1)"))

        with engine.begin() as connection:
            operations = Operations(MigrationContext.configure(connection))
            with operations.batch_alter_table("item") as batch:
                batch.alter_column("n", nullable=True)
            assert connection.scalar(sa.text("SELECT count(*) FROM part")) == 1
        with pytest.raises(sa.exc.IntegrityError, match="row 1 of part"), engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM item"))
        with engine.connect() as connection:
            counts = [connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) for name in ("item", "part")]

        assert counts == [1, 1]

    async def test_the_file_must_be_free(self, database: SqliteDatabase, tmp_path: Path) -> None:
        """Migrating a store that is open is refused, also in the same process; a store opens after the engine is done."""
        engine = sync_engine(database.path)
        with pytest.raises(StoreInUse):
            engine.connect()
        await database.stop()

        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO item VALUES (1, 1)"))
            with pytest.raises(StoreInUse):
                await database.start()
        await database.start()

        assert await items(database) == [(1, 1)]
        (tmp_path / "text.db").write_text("no database" * 100)
        with pytest.raises(DatabaseRefused):
            sync_engine(tmp_path / "text.db").connect()

    async def test_many_parameters_that_do_not_fit_are_told(self, database: SqliteDatabase) -> None:
        """A value that no column can hold is refused in our words, not Python's."""
        for value in (2**64, "\ud800", object()):
            with pytest.raises(ColumnRefused):
                await database.statement(ADD, 1, value)
