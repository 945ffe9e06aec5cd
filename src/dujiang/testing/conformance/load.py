"""Conformance of `Database` under load: the line of callers (D8), cancelled callers (C4), and the end (D9)."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from dujiang.data.sql import Sql
from dujiang.kernel.context import Context, entered
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.connection import ADD, ONE, ConnectionCases, stored

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


class LoadCases(ConnectionCases):
    """The cases of many callers at once.

    Attributes:
        waiters_max: Callers that may wait beyond the lanes before Overloaded.
    """

    waiters_max: ClassVar[int] = 0

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
            node, tasks = Node.system("conformance"), Tasks("conformance")
            reached, leave = asyncio.Event(), asyncio.Event()

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
