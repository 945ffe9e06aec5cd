"""Conformance of `Database`: what every adapter promises, each case under the number of its promise.

    class TestSqlite(DatabaseConformance, capabilities=SqliteDatabase.capabilities):
        lanes = 1             # write transactions that run at once
        waiters_max = 50      # callers that may wait beyond them

        async def open_database(self) -> Database:
            database = SqliteDatabase(...)      # this test's store, the same one on every call
            await database.start()
            return database

An adapter's own faults (a killed server, a lost reply to COMMIT, a full disk) stand beside it in tests/conformance,
because each is made another way. Those are promises 4 and 6.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from dujiang.data.database import Conflict, OutcomeUnknown, WriteInRead
from dujiang.data.sql import Sql
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.connection import ADD, ALL, GET, RAISE, WRONG, pairs, stored
from dujiang.testing.conformance.load import LoadCases
from dujiang.testing.conformance.meanings import MeaningCases

if TYPE_CHECKING:
    from dujiang.data.database import Connection, Database


class DatabaseConformance(LoadCases, MeaningCases):
    """All cases of the port `database`. Subclass it; see the module's docstring."""

    @case("D1.1")
    async def test_what_is_written_is_read_by_all_and_after_a_restart(self) -> None:
        """A committed row is seen by a reader, by a writer, and by the next process on the same store."""
        async with self.opened() as database:

            async def add(connection: Connection) -> str:
                assert await connection.execute(ADD, 1, 10) == 1
                return "answer"

            async def look(connection: Connection) -> list[tuple[int, int]]:
                return pairs(await connection.fetch(ALL))

            assert await database.write(add) == "answer"
            assert await database.read(look) == [(1, 10)]
            assert await database.write(look) == [(1, 10)]
            await database.stop()
            again = await self.open_database()
            try:
                assert await again.read(look) == [(1, 10)]
            finally:
                await again.stop()

    @case("D1.2")
    async def test_a_single_statement_is_a_whole_transaction(self) -> None:
        """`statement` commits at once and returns rows; one that fails leaves nothing."""
        async with self.opened() as database:
            adding = Sql("adding", "INSERT INTO dj_scratch (id, n) VALUES ($1, $2) RETURNING id", "Adds and tells.")

            rows = await database.statement(adding, 5, 50)
            (outcome,) = await outcomes_of(database.statement(adding, 5, 51))

            assert [row[0] for row in rows] == [5]
            assert getattr(outcome, "code", "") == "integrity"
            assert await stored(database) == [(5, 50)]

    @case("D1.3")
    async def test_hundred_writers_at_once_lose_no_update(self) -> None:
        """Concurrent increments of one row all count."""
        async with self.opened() as database:
            await database.statement(ADD, 1, 0)

            async def body(connection: Connection) -> None:
                await connection.execute(RAISE, 1, 1)

            for _ in range(4):
                await all_of(*(database.write(body) for _ in range(25)))

            assert await stored(database) == [(1, 100)]

    @case("D2.1")
    async def test_an_error_of_the_body_undoes_everything_and_is_raised_unchanged(self) -> None:
        """The very object that the body raised comes out, and nothing of the body stays."""
        async with self.opened() as database:
            error = ValueError("the business says no")

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                raise error

            (outcome,) = await outcomes_of(database.write(body))

            assert outcome is error
            assert await stored(database) == []

    @case("D2.2")
    async def test_a_cancelled_body_undoes_everything(self) -> None:
        """A caller that goes away between two statements leaves no row and no lock."""
        async with self.opened() as database:
            tasks, reached = Tasks("conformance"), asyncio.Event()

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                reached.set()
                await asyncio.Event().wait()

            task = tasks.spawn(database.write(body), name="leaver")
            await reached.wait()
            task.cancel()
            (outcome,) = await outcomes_of(task)

            assert isinstance(outcome, asyncio.CancelledError)
            await database.statement(ADD, 1, 2)
            assert await stored(database) == [(1, 2)]

    @case("D2.3")
    async def test_a_held_transaction_commits_or_rolls_back_with_its_block(self) -> None:
        """`held` commits at the end of the block and rolls back on an error."""
        async with self.opened() as database:
            async with database.held() as connection:
                await connection.execute(ADD, 1, 1)
            try:
                async with database.held() as connection:
                    await connection.execute(ADD, 2, 2)
                    raise ValueError("undo")
            except ValueError:
                pass

            assert await stored(database) == [(1, 1)]

    @case("D3.1", needs="many_writers")
    async def test_a_deadlock_runs_again_and_both_sides_commit(self) -> None:
        """Two transactions that lock two rows in opposite order both count once, and one of them ran twice."""
        async with self.opened() as database:
            await database.statement(ADD, 1, 0)
            await database.statement(ADD, 2, 0)
            runs: list[int] = []
            both = asyncio.Barrier(2)

            async def body(connection: Connection, first: int, second: int) -> None:
                runs.append(first)
                await connection.execute(RAISE, 1, first)
                if runs.count(first) == 1:
                    await both.wait()
                await connection.execute(RAISE, 1, second)

            await all_of(
                database.write(lambda connection: body(connection, 1, 2)),
                database.write(lambda connection: body(connection, 2, 1)),
            )

            assert len(runs) > 2
            assert await stored(database) == [(1, 2), (2, 2)]

    @case("D3.2", needs="many_writers")
    async def test_a_lasting_conflict_ends_after_five_runs(self) -> None:
        """A serializable body that always loses runs 5 times and then raises Conflict; a held one runs once."""
        async with self.opened() as database:
            await database.statement(ADD, 1, 0)
            runs = 0

            async def body(connection: Connection) -> None:
                nonlocal runs
                runs += 1
                await connection.fetch(GET, 1)
                await database.statement(RAISE, 1, 1)
                await connection.execute(RAISE, 100, 1)

            (outcome,) = await outcomes_of(database.write(body, isolation="serializable"))

            assert isinstance(outcome, Conflict)
            assert (runs, outcome.runs) == (5, 5)
            assert await stored(database) == [(1, 5)]

    @case("D3.3", needs="many_writers")
    async def test_a_body_that_hides_a_conflict_runs_again_all_the_same(self) -> None:
        """Swallowing the error of a lost run does not turn the run into a success."""
        async with self.opened() as database:
            await database.statement(ADD, 1, 0)
            runs = 0

            async def body(connection: Connection) -> int:
                nonlocal runs
                runs += 1
                await connection.fetch(GET, 1)
                if runs == 1:
                    await database.statement(RAISE, 1, 1)
                await outcomes_of(connection.execute(RAISE, 100, 1))
                return runs

            assert await database.write(body, isolation="serializable") == 2
            assert await stored(database) == [(1, 101)]

    @case("D5.1")
    async def test_a_read_cannot_write(self) -> None:
        """A write in a read raises WriteInRead, writes nothing, and leaves the readers usable."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)

            outcomes = [(await outcomes_of(database.read(body)))[0] for _ in range(self.lanes + 2)]

            assert {type(outcome) for outcome in outcomes} == {WriteInRead}
            assert await stored(database) == []

    @case("D5.2")
    async def test_a_read_sees_what_is_committed_when_each_statement_starts(self) -> None:
        """Within one read a later statement sees a commit that an earlier one did not; open work is never seen."""
        async with self.opened() as database:

            async def look(connection: Connection) -> list[int]:
                counts = [len(await connection.fetch(ALL))]
                async with database.held() as writer:
                    await writer.execute(ADD, 1, 1)
                    counts.append(len(await connection.fetch(ALL)))
                counts.append(len(await connection.fetch(ALL)))
                return counts

            assert await database.read(look) == [0, 0, 1]

    @case("D5.3")
    async def test_a_failed_read_spoils_no_later_one(self) -> None:
        """After a wrong statement in a read the next read works."""
        async with self.opened() as database:

            async def wrong(connection: Connection) -> None:
                await connection.fetch(WRONG)

            for _ in range(self.lanes + 2):
                (outcome,) = await outcomes_of(database.read(wrong))
                assert getattr(outcome, "code", "") == "statement_failed"

            assert await stored(database) == []

    @case("D10.1")
    async def test_what_an_acknowledgement_means_is_read_back(self) -> None:
        """`durability` gives settings by name and one sentence; `health` returns on a living database."""
        async with self.opened() as database:
            settings = await database.durability()
            await database.health()

            assert settings["means"]
            assert all(isinstance(value, str) for value in settings.values())

    @case("D10.2", needs="listen")
    async def test_a_notice_wakes_the_other_process_and_not_its_sender(self) -> None:
        """With `listen`, what one database object sends another one on the same store hears."""
        node, heard, echo, arrived = Node.system("conformance"), set[str](), list[str](), asyncio.Event()

        def hear(payload: str) -> None:
            heard.add(payload)
            arrived.set()

        async with AsyncExitStack() as stack:
            first, second = await self.open_listening(echo.append), await self.open_listening(hear)
            stack.push_async_callback(first.stop)
            stack.push_async_callback(second.stop)
            # A notice may get lost, so it is repeated; hearing none in 10 s is a failure.
            async with asyncio.timeout(10):
                while not {"a", "b"} <= heard:
                    await first.notify("a")
                    await first.notify("b")
                    await node.clock.sleep(0.05)

        assert heard == {"a", "b"}
        assert echo == []

    async def open_listening(self, hear: Any) -> Database:
        """Like `open_database`, with `listen(hear)` called before the start. Only for adapters with `listen`."""
        raise NotImplementedError

    @case("D4.1")
    async def test_the_transaction_id_may_be_noted(self) -> None:
        """`note_xid` is accepted on every database and changes nothing where there is no such id."""
        async with self.opened() as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                if database.capabilities.xid_horizon:
                    own = Sql("own_xid", "SELECT pg_current_xact_id()::text", "Reads the transaction's id.")
                    connection.note_xid((await connection.fetch(own))[0][0])
                else:
                    connection.note_xid("")

            (outcome,) = await outcomes_of(database.write(body))

            assert not isinstance(outcome, OutcomeUnknown)
            assert await stored(database) == [(1, 1)]
