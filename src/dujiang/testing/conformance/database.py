"""Conformance of `Database`: what every adapter promises, each case under the number of its promise.

    class TestSqlite(DatabaseConformance, capabilities=SqliteDatabase.capabilities):
        lanes = 1             # write transactions that run at once
        waiters_max = 50      # callers that may wait beyond them

        async def open_database(self) -> Database:
            database = SqliteDatabase(...)      # this test's store, the same one on every call
            await database.start()
            return database

An adapter's own faults (a killed server, a lost reply to COMMIT, a full disk) stand beside it in tests/conformance, because
each is made another way. Those are promises 4 and 6.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from dujiang.data.database import Conflict, OutcomeUnknown, WriteInRead
from dujiang.data.sql import Sql
from dujiang.kernel.context import Context, entered
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.connection import (
    ADD,
    ALL,
    GET,
    ONE,
    RAISE,
    WRONG,
    ConnectionCases,
    pairs,
    stored,
)

if TYPE_CHECKING:
    from dujiang.data.database import Connection, Database

CANCEL_COUNT = 300
ECHO = Sql("scratch_echo", "SELECT CAST($1 AS BIGINT)", "Answers its argument.")


class Gate:
    """Transactions that stay open until they are let go, one by one."""

    def __init__(self, database: Database, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._entered = asyncio.Event()
        self._exits: list[asyncio.Event] = []

    async def block(self, count: int) -> None:
        """Open `count` transactions and keep them open."""
        for _ in range(count):
            leave = asyncio.Event()
            self._exits.append(leave)
            self._entered.clear()
            self._tasks.spawn(self._database.write(self._stay(leave)), name="blocker")
            await self._entered.wait()

    def _stay(self, leave: asyncio.Event) -> Any:
        async def body(connection: Connection) -> None:
            await connection.fetch(ONE)
            self._entered.set()
            await leave.wait()

        return body

    def let_go(self, count: int | None = None) -> None:
        """Let `count` of the open transactions commit; all without an argument."""
        for _ in range(len(self._exits) if count is None else count):
            self._exits.pop().set()


async def settled(node: Node) -> None:
    """Let every task that is ready run until it waits for something outside."""
    for _ in range(20):
        await node.clock.sleep(0)


class DatabaseConformance(ConnectionCases):
    """All cases of the port `database`. Subclass it; see the module's docstring.

    Attributes:
        lanes: Write transactions that the tested database lets run at once.
        waiters_max: Callers that may wait beyond them before Overloaded.
    """

    waiters_max: ClassVar[int] = 0

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

    @case("D8.1")
    async def test_waiters_are_served_in_the_order_of_their_arrival(self) -> None:
        """With one lane free and the others busy, twenty callers begin in the order in which they came."""
        async with self.opened() as database:
            node, tasks, order = Node.system("conformance"), Tasks("conformance"), list[int]()
            gate = Gate(database, tasks)
            await gate.block(self.lanes)

            async def come(number: int) -> None:
                async def body(connection: Connection) -> None:
                    order.append(number)
                    await connection.fetch(ONE)

                await database.write(body)

            waiting = []
            for number in range(20):
                waiting.append(tasks.spawn(come(number), name=f"caller {number}"))
                await settled(node)
            gate.let_go(1)
            await outcomes_of(*waiting)
            gate.let_go()
            await tasks.wait_idle()

            assert order == list(range(20))

    @case("D8.2")
    async def test_the_number_of_waiters_is_bounded(self) -> None:
        """One caller more than may wait gets Overloaded at once; those before it are served."""
        async with self.opened() as database:
            node, tasks = Node.system("conformance"), Tasks("conformance")
            gate = Gate(database, tasks)
            await gate.block(self.lanes)

            async def body(connection: Connection) -> int:
                return int((await connection.fetch(ECHO, 7))[0][0])

            waiting = [tasks.spawn(database.write(body), name="waiter") for _ in range(self.waiters_max)]
            await settled(node)
            (outcome,) = await outcomes_of(database.write(body))
            gate.let_go()
            answers = await outcomes_of(*waiting)
            await tasks.wait_idle()

            assert isinstance(outcome, Overloaded)
            assert answers == [7] * self.waiters_max

    @case("D8.3")
    async def test_a_caller_waits_no_longer_than_its_deadline(self) -> None:
        """A waiting caller gets DeadlinePassed when its time is over, and its place in the line is gone."""
        async with self.opened() as database:
            node, tasks = Node.system("conformance"), Tasks("conformance")
            gate = Gate(database, tasks)
            await gate.block(self.lanes)

            async def body(connection: Connection) -> None:
                await connection.fetch(ONE)

            with entered(Context(node=node, deadline=node.clock.monotonic() + 0.05)):
                (outcome,) = await outcomes_of(database.write(body))
            gate.let_go()
            await tasks.wait_idle()

            assert isinstance(outcome, DeadlinePassed)
            await database.write(body)

    @case("C4.1")
    async def test_a_cancelled_caller_leaves_no_half_used_connection(self) -> None:
        """Hundreds of cancels at random instants: every pair of rows is whole, every later answer is the right one."""
        async with self.opened() as database:
            node, tasks, counted = Node.system("conformance"), Tasks("conformance"), 0

            async def body(connection: Connection, id_: int) -> None:
                await connection.execute(ADD, 2 * id_, id_)
                rows = await connection.fetch(ECHO, id_)
                await connection.execute(ADD, 2 * id_ + 1, int(rows[0][0]))

            async def ask(number: int) -> bool:
                async def look(connection: Connection) -> int:
                    return int((await connection.fetch(ECHO, number))[0][0])

                return await database.read(look) == number and await database.write(look) == number

            for number in range(CANCEL_COUNT):

                def work(connection: Connection, id_: int = number) -> Any:
                    return body(connection, id_)

                task = tasks.spawn(database.write(work), name=f"victim {number}")
                # Half of them are cut after a number of turns of the loop, half after a real time.
                if number % 2:
                    await node.clock.sleep(node.entropy.uniform(0, 0.006))
                else:
                    for _ in range(node.entropy.below(30)):
                        await node.clock.sleep(0)
                task.cancel()
                (outcome,) = await outcomes_of(task)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
                counted += outcome is None
                if number % 20 == 0:
                    assert all(await all_of(*(ask(number * 100 + i) for i in range(5))))

            rows = await stored(database)
            assert all(n == id_ // 2 for id_, n in rows)
            assert {id_ for id_, _ in rows} == {id_ ^ 1 for id_, _ in rows}
            # A commit whose caller left may still have happened; one that was acknowledged must have.
            assert len(rows) >= 2 * counted

    @case("D9.1")
    async def test_stop_leaves_no_task_and_no_thread(self) -> None:
        """After stop nothing of the database runs; stopping twice, or without a start, does nothing."""
        tasks_before, threads_before = len(asyncio.all_tasks()), len(sys._current_frames())  # noqa: SLF001  (counts threads)
        for _ in range(2):
            async with self.opened() as database:
                await all_of(*(database.statement(ADD, id_, id_) for id_ in range(self.lanes)))
                await stored(database)
                await database.notify("somebody")
            await database.stop()

        assert len(asyncio.all_tasks()) == tasks_before
        assert len(sys._current_frames()) <= threads_before  # noqa: SLF001

    @case("D9.2")
    async def test_stop_waits_for_an_open_transaction(self) -> None:
        """A transaction that is open when stop begins still commits."""
        async with self.opened() as database:
            node, tasks, reached, leave = Node.system("conformance"), Tasks("conformance"), asyncio.Event(), asyncio.Event()

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                reached.set()
                await leave.wait()
                await connection.execute(ADD, 2, 2)

            writing = tasks.spawn(database.write(body), name="writer")
            await reached.wait()
            stopping = tasks.spawn(database.stop(), name="stopper")
            await settled(node)
            leave.set()
            assert await outcomes_of(writing, stopping) == [None, None]

            again = await self.open_database()
            try:
                assert await stored(again) == [(1, 1), (2, 2)]
            finally:
                await again.stop()

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
