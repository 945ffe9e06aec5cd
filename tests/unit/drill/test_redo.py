"""The two sides of the simulated database hold the same rows after every commit, whatever the statements were told."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.data.database import IntegrityFailed
from tests.unit.drill.serving import Server

SCHEMA = """
CREATE TABLE told (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP, chance INTEGER, secret BLOB, us INTEGER);
CREATE TABLE seen (id INTEGER PRIMARY KEY AUTOINCREMENT, told INTEGER);
CREATE TRIGGER notes AFTER INSERT ON told BEGIN INSERT INTO seen (told) VALUES (new.id); END;
"""
TELL = "INSERT INTO told (chance, secret, us) VALUES (random(), randomblob(8), server_now_us())"
TELL_ALL = "INSERT INTO told (chance, secret, us) SELECT random(), randomblob(4), server_now_us() FROM told"
LOOK = "SELECT random(), server_now_us()"


@pytest.fixture
def told(server: Server) -> Server:
    """A server with tables whose rows depend on time and chance."""
    for driver in (server.store.primary, server.store.committed):
        driver.execute(SCHEMA)
    return server


def sides(server: Server) -> list[list[Any]]:
    """All rows of both sides."""
    store, names = server.store, server.store.tables()
    return [
        [driver.execute(f'SELECT * FROM "{name}"').fetchall() for name in names]
        for driver in (store.primary, store.committed)
    ]


class TestRedo:
    def test_time_and_chance_are_the_same_on_both_sides(self, told: Server) -> None:
        """A transaction writes at two moments, draws between them, and commits later: one answer was given once."""

        async def body(tx: Any) -> None:
            await tx.run(TELL, ())
            await told.loop.pause(5.0)
            await tx.run(LOOK, ())
            await tx.run(TELL_ALL, ())
            await told.loop.pause(5.0)

        assert told.outcome(told.writing("a", body)) == [None]
        primary, committed = sides(told)

        assert primary == committed
        rows = told.store.rows("SELECT at, chance, us FROM told")
        assert len({each[1] for each in rows}) == len(rows) == 2
        assert rows[1][2] - rows[0][2] >= 5_000_000
        assert rows[0][0] < rows[1][0]

    def test_what_a_savepoint_took_back_is_on_neither_side(self, told: Server) -> None:
        """A failed statement and a savepoint rolled back leave nothing; what came before and after stays."""

        async def body(tx: Any) -> None:
            await tx.run(TELL, ())
            await tx.savepoint("s")
            await tx.run(TELL, ())
            with pytest.raises(IntegrityFailed):
                await tx.run("INSERT INTO told (id, chance) SELECT 7, random() FROM told", ())
            await tx.rollback_to("s")
            await tx.run(TELL, ())
            await tx.release("s")

        assert told.outcome(told.writing("a", body)) == [None]
        primary, committed = sides(told)

        assert primary == committed
        assert len(told.store.rows("SELECT 1 FROM told")) == len(told.store.rows("SELECT 1 FROM seen")) == 2

    def test_what_was_rolled_back_is_not_done_with_the_next(self, told: Server) -> None:
        """A transaction that fails leaves nothing for the one after it."""

        async def fails(tx: Any) -> None:
            await tx.run(TELL, ())
            raise KeyError("the body fails")

        async def body(tx: Any) -> None:
            await tx.run(TELL, ())

        (error,) = told.outcome(told.writing("a", fails))
        assert told.outcome(told.writing("a", body)) == [None]
        primary, committed = sides(told)

        assert isinstance(error, KeyError)
        assert primary == committed
        assert len(told.store.rows("SELECT 1 FROM told")) == 1

    def test_many_rows_of_parameters_are_done_one_by_one(self, told: Server) -> None:
        """A statement run for a list of parameters is done again for each of them."""

        async def body(tx: Any) -> int:
            return int(await tx.run_many("INSERT INTO told (chance, us) VALUES (?, random())", [(1,), (2,), (3,)]))

        assert told.outcome(told.writing("a", body)) == [3]
        primary, committed = sides(told)

        assert primary == committed
        assert [row[0] for row in told.store.rows("SELECT chance FROM told")] == [1, 2, 3]
