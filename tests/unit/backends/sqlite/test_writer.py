"""The writer: groups, what leaves when, lost groups, and who may hold it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from dujiang.backends.sqlite import line, watch, writer
from dujiang.backends.sqlite.store import OPEN
from dujiang.data.database import (
    Conflict,
    DatabaseUnreachable,
    IntegrityFailed,
    StatementFailed,
    StatementsOverlap,
    TransactionFailed,
    TransactionHeld,
)
from dujiang.data.sql import Sql
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.context import Context, entered
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dujiang.backends.sqlite.database import SqliteDatabase
    from dujiang.data.database import Connection

ADD = Sql("add_item", "INSERT INTO item (id, n) VALUES ($1, $2)", "Adds an item.")
RAISE = Sql("raise_item", "UPDATE item SET n = n + 1 WHERE id = $1", "Raises an item.")
ALL = Sql("all_items", "SELECT id, n FROM item ORDER BY id", "Lists the items.")
ONE = Sql("one", "SELECT 1", "Answers one.")


def driver_of(database: SqliteDatabase) -> apsw.Connection:
    """The connection that writes, for faults that only SQLite can make."""
    return OPEN[database.path].writer.driver


async def items(database: SqliteDatabase) -> list[tuple[int, int]]:
    """What a reader sees."""

    async def body(connection: Connection) -> list[tuple[int, int]]:
        return [(row[0], row[1]) for row in await connection.fetch(ALL)]

    return await database.read(body)


class Commits:
    """Counts the COMMITs that reach SQLite, and refuses the first `refused` of them."""

    def __init__(self, database: SqliteDatabase, *, refused: int = 0, note: Callable[[], None] | None = None) -> None:
        self.count = 0
        self.refused = refused
        self._note = note
        driver_of(database).set_commit_hook(self._hook)

    def _hook(self) -> bool:
        self.count += 1
        if self.count <= self.refused:
            return True
        if self._note is not None:
            self._note()
        return False


class HandClock(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        """The machine's time plus what the test added."""
        return super().monotonic() + self.ahead_s


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    """Tasks that a test starts beside itself."""
    tasks = Tasks("test")
    yield tasks
    assert len(tasks) == 0


class TestGroups:
    async def test_many_writers_share_few_commits(self, database: SqliteDatabase) -> None:
        """256 transactions at once need at most one COMMIT per 64, and one more for the first that came."""
        commits = Commits(database)

        await all_of(*(database.statement(ADD, id_, 0) for id_ in range(256)))

        assert commits.count <= 5
        assert len(await items(database)) == 256

    async def test_a_group_of_reads_is_not_synced(self, database: SqliteDatabase) -> None:
        """Transactions that change nothing end without the thread."""
        before = database.stats()["commits_synced"]

        await all_of(*(database.statement(ONE) for _ in range(10)))

        assert database.stats()["commits_synced"] == before

    async def test_a_body_sees_what_its_group_wrote_and_a_reader_does_not(self, database: SqliteDatabase) -> None:
        """Bodies are serial; readers see committed data only."""
        seen: list[Any] = []

        async def second(connection: Connection) -> None:
            seen.append([tuple(row) for row in await connection.fetch(ALL)])
            seen.append(await items(database))

        await all_of(database.statement(ADD, 1, 1), database.write(second))

        assert seen == [[(1, 1)], []]
        assert await items(database) == [(1, 1)]

    async def test_an_error_waits_for_the_commit_of_what_it_saw(self, database: SqliteDatabase) -> None:
        """A refusal that rests on another's uncommitted row leaves after that row's COMMIT, not before."""
        events: list[str] = []
        Commits(database, note=lambda: events.append("commit"))

        async def refusing(connection: Connection) -> None:
            assert await connection.fetch(ALL)
            events.append("refused inside")
            raise LookupError("sold out")

        async def caller() -> None:
            with pytest.raises(LookupError):
                await database.write(refusing)
            events.append("refused outside")

        await all_of(database.statement(ADD, 1, 1), caller())

        assert events == ["refused inside", "commit", "refused outside"]

    async def test_waiters_are_served_in_order(self, database: SqliteDatabase, tasks: Tasks) -> None:
        """Callers that came while a body ran begin in the order in which they came."""
        order: list[int] = []
        leave = asyncio.Event()

        async def first(_connection: Connection) -> None:
            await leave.wait()

        async def body(number: int) -> None:
            order.append(number)

        holder = tasks.spawn(database.write(first), name="first")
        others = [tasks.spawn(database.write(lambda _, n=n: body(n)), name="other") for n in range(200)]  # type: ignore[misc]
        tasks.spawn(self.release(leave), name="release")
        await outcomes_of(holder, *others)
        await tasks.wait_idle()

        assert order == list(range(200))

    async def release(self, event: asyncio.Event) -> None:
        """Set the event, from a task that came after all others."""
        event.set()

    async def test_a_deferred_key_fails_its_own_body_only(self, database: SqliteDatabase) -> None:
        """A dangling deferred foreign key is found before the group's COMMIT, which would fail for all."""
        text = "CREATE TABLE part (id INTEGER, item INTEGER REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)"
        await database.statement(Sql("make_part", text, "Makes a table with a deferred key."))
        dangling = Sql("dangling", "INSERT INTO part VALUES (1, 99)", "Points nowhere.")

        outcomes = await outcomes_of(
            database.statement(ADD, 1, 1), database.statement(dangling), database.statement(ADD, 2, 2)
        )

        assert isinstance(outcomes[1], IntegrityFailed)
        assert outcomes[1].kind == "foreign_key"
        assert await items(database) == [(1, 1), (2, 2)]
        assert database.stats()["groups_lost"] == 0


class TestLostGroups:
    async def test_every_member_runs_again_in_the_old_order(self, database: SqliteDatabase) -> None:
        """A refused COMMIT costs a second run of each member and nothing else."""
        Commits(database, refused=1)
        runs: list[int] = []

        async def body(connection: Connection, id_: int) -> int:
            runs.append(id_)
            await connection.execute(ADD, id_, id_)
            return id_

        answers = await all_of(*(database.write(lambda c, n=n: body(c, n)) for n in range(10)))  # type: ignore[misc]

        assert answers == list(range(10))
        assert runs == list(range(10)) * 2
        assert await items(database) == [(n, n) for n in range(10)]

    async def test_a_refusal_based_on_a_lost_row_is_never_seen(self, database: SqliteDatabase) -> None:
        """What a body concluded from a row of a lost group is forgotten with the group."""
        Commits(database, refused=1)
        buys = 0

        async def buy_the_last(connection: Connection) -> None:
            nonlocal buys
            buys += 1
            if buys == 1:
                await connection.execute(ADD, 1, 1)

        async def buy(connection: Connection) -> str:
            if await connection.fetch(ALL):
                raise LookupError("sold out")
            await connection.execute(ADD, 2, 2)
            return "bought"

        _, answer = await outcomes_of(database.write(buy_the_last), database.write(buy))

        assert answer == "bought"

    async def test_a_commit_that_never_works_ends_in_conflict(self, database: SqliteDatabase) -> None:
        """After five lost groups the caller gets Conflict; nothing is written, and the writer works on."""
        commits = Commits(database, refused=5)

        outcomes = await outcomes_of(*(database.statement(ADD, n, n) for n in range(3)))

        assert [(type(outcome), getattr(outcome, "runs", 0)) for outcome in outcomes] == [(Conflict, 5)] * 3
        assert commits.count == 5
        await database.statement(ADD, 1, 1)
        assert await items(database) == [(1, 1)]

    async def test_a_held_transaction_cannot_run_again(self, database: SqliteDatabase) -> None:
        """The end of a held block raises when its group is lost."""
        Commits(database, refused=1)

        with pytest.raises(Conflict):
            async with database.held() as connection:
                await connection.execute(ADD, 1, 1)

        assert await items(database) == []

    async def test_a_rollback_by_sqlite_costs_its_causer_alone(self, database: SqliteDatabase) -> None:
        """A statement that makes SQLite end the transaction fails its own body; the others run again and commit."""
        await database.statement(ADD, 1, 1)
        bad = Sql("or_rollback", "INSERT OR ROLLBACK INTO item (id, n) VALUES (1, 2)", "Ends the transaction.")

        outcomes = await outcomes_of(
            database.statement(ADD, 2, 2), database.statement(bad), database.statement(ADD, 3, 3)
        )

        assert outcomes[0] == outcomes[2] == []
        assert isinstance(outcomes[1], IntegrityFailed)
        assert await items(database) == [(1, 1), (2, 2), (3, 3)]

    async def test_a_swallowed_rollback_by_sqlite_is_raised_all_the_same(self, database: SqliteDatabase) -> None:
        """A body that hides the error after which SQLite ended its transaction does not look committed."""
        await database.statement(ADD, 1, 1)
        bad = Sql("or_rollback", "INSERT OR ROLLBACK INTO item (id, n) VALUES (1, 2)", "Ends the transaction.")

        async def body(connection: Connection) -> None:
            await connection.execute(ADD, 2, 2)
            await outcomes_of(connection.execute(bad))

        (outcome,) = await outcomes_of(database.write(body))

        assert isinstance(outcome, IntegrityFailed)
        assert await items(database) == [(1, 1)]

    async def test_a_full_disk_is_told_and_passes(self, database: SqliteDatabase) -> None:
        """A write that finds no room raises DatabaseUnreachable; smaller ones, and later ones, work."""
        driver = driver_of(database)
        await database.statement(Sql("make_blob", "CREATE TABLE heap (b BLOB)", "Makes a table for large values."))
        driver.pragma("max_page_count", driver.pragma("page_count") + 2)
        large = Sql("add_blob", "INSERT INTO heap VALUES (zeroblob($1))", "Adds a large value.")

        outcomes = await outcomes_of(database.statement(ADD, 1, 1), database.statement(large, 10_000_000))
        driver.pragma("max_page_count", 1_000_000)
        await database.statement(large, 10_000_000)

        assert outcomes[0] == []
        assert isinstance(outcomes[1], DatabaseUnreachable)
        assert await items(database) == [(1, 1)]


class TestHolding:
    async def test_a_body_that_waits_is_named_and_then_rolled_back(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Waiting for something that is no statement is logged with file and line, then ends in TransactionHeld."""
        monkeypatch.setattr(watch, "LOOK_S", 0.001)

        async def body(connection: Connection) -> None:
            await connection.execute(ADD, 1, 1)
            await asyncio.Event().wait()

        with caplog.at_level(logging.WARNING, "dujiang.sqlite"):
            outcomes = await outcomes_of(database.write(body), database.statement(ADD, 2, 2))

        assert isinstance(outcomes[0], TransactionHeld)
        assert "test_writer.py:" in outcomes[0].where
        assert "in body" in outcomes[0].where
        assert "test_writer.py:" in caplog.text
        assert await items(database) == [(2, 2)]

    async def test_a_held_block_is_watched_too(self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        """The block of `held` ends in TransactionHeld, and its task is not left cancelled."""
        monkeypatch.setattr(watch, "LOOK_S", 0.001)

        async def hold() -> None:
            async with database.held() as connection:
                await connection.execute(ADD, 1, 1)
                await asyncio.Event().wait()

        with pytest.raises(TransactionHeld):
            await hold()

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await items(database) == []

    async def test_a_body_that_swallows_its_eviction_gets_it_anyway(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Catching the cancellation does not make a rolled-back body look committed."""
        monkeypatch.setattr(watch, "LOOK_S", 0.001)
        late: list[object] = []

        async def body(connection: Connection) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                late.extend(await outcomes_of(connection.execute(ADD, 1, 1)))
            return "done"

        (outcome,) = await outcomes_of(database.write(body))

        assert isinstance(outcome, TransactionHeld)
        assert isinstance(late[0], TransactionHeld)
        assert await items(database) == []

    async def test_a_transaction_inside_a_transaction_is_refused_at_once(self, database: SqliteDatabase) -> None:
        """The writer cannot wait for itself."""

        async def body(_connection: Connection) -> None:
            await database.statement(ADD, 1, 1)

        (outcome,) = await outcomes_of(database.write(body))

        assert isinstance(outcome, StatementsOverlap)

    async def test_a_deadline_is_looked_at_between_statements(self, database: SqliteDatabase) -> None:
        """A statement that would begin after the deadline does not, and what the body did is undone."""
        clock = HandClock()
        node = Node(name="hand", clock=clock, entropy=SystemEntropy())

        async def body(connection: Connection) -> None:
            await connection.execute(ADD, 1, 1)
            clock.ahead_s = 10.0
            await connection.execute(ADD, 2, 2)

        with entered(Context(node=node, deadline=clock.monotonic() + 5.0)):
            (outcome,) = await outcomes_of(database.write(body))

        assert isinstance(outcome, DeadlinePassed)
        assert await items(database) == []

    async def test_the_line_is_bounded(
        self, database: SqliteDatabase, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One caller more than may wait is refused at once."""
        monkeypatch.setattr(line, "WAITERS_MAX", 3)
        leave, begun = asyncio.Event(), asyncio.Event()

        async def first(_connection: Connection) -> None:
            begun.set()
            await leave.wait()

        holder = tasks.spawn(database.write(first), name="first")
        await begun.wait()
        outcomes = outcomes_of(*(database.statement(ADD, n, n) for n in range(5)))
        gathered = tasks.spawn(outcomes, name="others")
        refused = [outcome for outcome in await self.after(leave, gathered) if outcome != []]
        await holder
        await tasks.wait_idle()

        assert [type(outcome) for outcome in refused] == [Overloaded, Overloaded]
        assert len(await items(database)) == 3

    async def after(self, leave: asyncio.Event, gathered: asyncio.Task[list[Any]]) -> list[Any]:
        """Let the holder go once the others had their chance to come."""
        for _ in range(5):
            await SystemClock().sleep(0)
        leave.set()
        return await gathered


class TestCancellation:
    async def test_a_cancelled_caller_lets_the_commit_go_on(self, database: SqliteDatabase, tasks: Tasks) -> None:
        """Who leaves while the group commits leaves its work behind, whole."""
        ended = asyncio.Event()

        async def body(connection: Connection) -> None:
            await connection.execute(ADD, 1, 1)
            ended.set()

        task = tasks.spawn(database.write(body), name="leaver")
        await ended.wait()
        task.cancel()
        (outcome,) = await outcomes_of(task)
        await database.statement(ONE)
        await database.statement(ADD, 2, 2)
        await tasks.wait_idle()

        assert isinstance(outcome, asyncio.CancelledError)
        assert await items(database) == [(1, 1), (2, 2)]

    async def test_a_waiter_cancelled_as_its_turn_comes_is_passed_over(
        self, database: SqliteDatabase, tasks: Tasks
    ) -> None:
        """A caller that was cancelled, and has not run since, is given no turn; the next one is.

        Method: in one round of the loop the holder is let go first and the waiter cancelled second, so the holder's end
        meets a waiter whose future is cancelled and whose task does not know it yet.
        """
        leave, begun = asyncio.Event(), asyncio.Event()

        async def hold(_connection: Connection) -> None:
            begun.set()
            await leave.wait()

        holder = tasks.spawn(database.write(hold), name="holder")
        await begun.wait()
        waiter = tasks.spawn(database.statement(ADD, 1, 1), name="waiter")
        later = tasks.spawn(database.statement(ADD, 2, 2), name="later")
        await SystemClock().sleep(0)
        leave.set()
        waiter.cancel()
        outcomes = await outcomes_of(holder, waiter, later)
        await tasks.wait_idle()

        assert outcomes[0] is None
        assert isinstance(outcomes[1], asyncio.CancelledError)
        assert outcomes[2] == []
        assert await items(database) == [(2, 2)]
        assert database.stats()["waiting"] == 0

    async def test_a_storm_of_cancels_leaves_whole_pairs_and_a_free_writer(
        self, database: SqliteDatabase, tasks: Tasks
    ) -> None:
        """Cancels at every state: each body's two rows are both there or both not, and who was answered is there."""
        entropy, clock = SystemEntropy(), SystemClock()
        Commits(database, refused=3)

        async def body(connection: Connection, id_: int) -> int:
            await connection.execute(ADD, id_, 1)
            if id_ % 3 == 0:
                await clock.sleep(0)
            await connection.execute(ADD, id_ + 10_000, 1)
            return id_

        running = [tasks.spawn(database.write(lambda c, n=n: body(c, n)), name=f"{n}") for n in range(600)]  # type: ignore[misc]
        for task in running:
            if entropy.random() < 0.5:
                task.cancel()
            if entropy.random() < 0.2:
                await clock.sleep(0)
        outcomes = await outcomes_of(*running)
        await tasks.wait_idle()
        stored = {id_ for id_, _ in await items(database)}

        assert {id_ + 10_000 for id_ in stored if id_ < 10_000} == {id_ for id_ in stored if id_ >= 10_000}
        assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= stored
        await database.statement(ADD, 99_999, 1)
        assert database.stats()["waiting"] == 0


class TestTransaction:
    async def test_a_body_may_not_end_the_transaction_of_others(self, database: SqliteDatabase) -> None:
        """COMMIT and its like are refused wherever they hide."""
        for text in ("COMMIT", " /* x */ -- y\n rollback", ";BEGIN", "SAVEPOINT a", "vacuum"):
            (outcome,) = await outcomes_of(database.statement(Sql("ending", text, "Would end it.")))
            assert isinstance(outcome, StatementFailed)

    async def test_an_ended_transaction_takes_no_statement(self, database: SqliteDatabase) -> None:
        """A connection that was kept beyond its body is dead."""
        kept: list[Connection] = []

        async def body(connection: Connection) -> None:
            kept.append(connection)

        await database.write(body)

        with pytest.raises(TransactionFailed):
            await kept[0].fetch(ONE)

    async def test_what_triggers_do_is_not_matched(self, database: SqliteDatabase) -> None:
        """Matched rows are the statement's own, in every way to run it."""
        trigger = "CREATE TRIGGER twice AFTER UPDATE ON item BEGIN INSERT INTO item VALUES (NEW.id + 100, 0); END"
        await database.statement(Sql("make_trigger", trigger, "Writes a row for each raised one."))

        async def body(connection: Connection) -> list[int]:
            await connection.run_many("INSERT INTO item VALUES (?, ?)", [(n, n) for n in range(3)])
            return [
                await connection.execute(RAISE, 0),
                (await connection.run("UPDATE item SET n = 9 WHERE id = ?", (1,)))[1],
                await connection.run_many("UPDATE item SET n = 9 WHERE id = ?", [(2,), (77,)]),
                (await connection.run("SELECT id FROM item WHERE id >= 100", ()))[1],
            ]

        assert await database.write(body) == [1, 1, 1, 3]

    async def test_a_foreign_program_that_holds_the_lock_is_waited_for(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The sqlite3 shell may write too; a write waits for it, and at last gives up with Conflict."""
        shell = apsw.Connection(database.path)
        shell.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(writer, "FOREIGN_LOCK_LOOK_S", 0.001)
        monkeypatch.setattr(writer, "FOREIGN_LOCK_MAX_S", 0.01)

        (outcome,) = await outcomes_of(database.statement(ADD, 1, 1))
        shell.execute("ROLLBACK")
        shell.close()
        await database.statement(ADD, 1, 1)

        assert isinstance(outcome, Conflict)
