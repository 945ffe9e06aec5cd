"""PostgreSQL alone: lost replies, killed servers, refused connections, and what its sessions look like from the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from dujiang.backends.postgres.database import PostgresDatabase
from dujiang.data.database import (
    VITAL,
    Conflict,
    Connection,
    DatabaseRefused,
    DatabaseUnreachable,
    OutcomeUnknown,
    StatementFailed,
)
from dujiang.data.sql import Sql
from dujiang.kernel.context import Context, entered
from dujiang.kernel.errors import DeadlinePassed
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, Threads, all_of, outcomes_of
from dujiang.testing.conformance.connection import ADD, ALL, CREATE, DROP, GET, ONE, RAISE, pairs, stored
from dujiang.testing.proxy import Proxy
from dujiang.testing.servers import PostgresServer

SLEEP = Sql("test_sleep", "SELECT pg_sleep($1::float8)", "Takes its time.")
MANY = Sql(
    "test_many",
    """SELECT cardinality($1::bigint[]), cardinality($2::text[]), cardinality($3::bytea[]), cardinality($4::float8[]),
              cardinality($5::boolean[])""",
    "Counts what is in arrays.",
)
PID = Sql("test_pid", "SELECT pg_backend_pid()", "Says which process answers.")
SESSIONS = Sql(
    "test_sessions",
    "SELECT pid, state, query FROM pg_stat_activity WHERE application_name = $1",
    "Reads the sessions of one node.",
)


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresServer]:
    """A server that no test of this module stops."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that the test may kill."""
    with PostgresServer() as server:
        yield server


@asynccontextmanager
async def opened(url: str, options: str = "pool_size=4&reader_pool_size=4") -> AsyncIterator[PostgresDatabase]:
    """A database with an empty scratch table."""
    database = PostgresDatabase(f"{url}?{options}", Node.system("test"))
    await database.start()
    try:
        await database.statement(DROP)
        await database.statement(Sql(CREATE.name, CREATE.text.format(octets="BYTEA"), CREATE.says))
        yield database
    finally:
        await database.stop()


@asynccontextmanager
async def proxied(server: PostgresServer) -> AsyncIterator[tuple[Proxy, PostgresDatabase]]:
    """A database behind a proxy."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
        url = server.url().replace(str(server.port), str(proxy.port))
        yield proxy, await stack.enter_async_context(opened(url))


class Adding:
    """A body that adds row 1 and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, connection: Connection) -> int:
        """Add the row."""
        self.runs += 1
        await connection.execute(ADD, 1, self.runs)
        return self.runs


async def by_row(connection: Connection) -> bool | None:
    """Settle by what the body left."""
    return bool(await connection.fetch(GET, 1))


async def cannot_say(connection: Connection) -> bool | None:
    """Settle nothing."""
    return None


async def breaks(connection: Connection) -> bool | None:
    """Fail to settle."""
    await connection.fetch(Sql("test_wrong", "SELECT nothing_of_this_name", "Is wrong."))
    return None


def slow_commit(server: PostgresServer, seconds: float) -> None:
    """Make every COMMIT that inserted a scratch row take so long."""
    server.execute(
        "CREATE OR REPLACE FUNCTION dj_slow() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER dj_slow AFTER INSERT ON dj_scratch"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dj_slow();"
    )


class TestLostCommit:
    @pytest.mark.parametrize("settle", [None, by_row, cannot_say, breaks])
    async def test_a_lost_reply_is_found_to_be_a_commit(self, shared: PostgresServer, settle: Any) -> None:
        """The server committed and its answer was lost: the write returns its answer, having run once."""
        async with proxied(shared) as (proxy, database):
            dropped, body = proxy.drop_commit_reply(), Adding()

            assert await database.write(body, settle=settle) == 1
            assert dropped.is_set()
            assert await stored(database) == [(1, 1)]

    @pytest.mark.parametrize("settle", [None, by_row, cannot_say, breaks])
    async def test_a_lost_request_is_found_to_be_none_and_runs_again(self, shared: PostgresServer, settle: Any) -> None:
        """The COMMIT never arrived: the body runs again, and its row is there once."""
        async with proxied(shared) as (proxy, database):
            dropped, body = proxy.drop_commit_request(), Adding()

            assert await database.write(body, settle=settle) == 2
            assert dropped.is_set()
            assert await stored(database) == [(1, 2)]

    async def test_a_held_transaction_is_settled_and_never_runs_again(self, shared: PostgresServer) -> None:
        """A lost reply of a held transaction is a success, a lost request is Conflict."""
        async with proxied(shared) as (proxy, database):
            proxy.drop_commit_reply()
            async with database.held() as connection:
                await connection.execute(ADD, 1, 1)
            proxy.drop_commit_request()
            with pytest.raises(Conflict):
                async with database.held() as connection:
                    await connection.execute(ADD, 2, 2)

            assert await stored(database) == [(1, 1)]

    async def test_after_a_crash_the_record_alone_proves_no_commit(self, server: PostgresServer) -> None:
        """The reply is lost, then the server crashes: its ids may have been given out again, so nobody guesses.

        Method: `settle` itself kills the server, and later cannot say.
        """
        crashed = False

        async def crash(connection: Connection) -> bool | None:
            nonlocal crashed
            if not crashed:
                crashed = True
                server.kill()
                server.start()
            return None

        async with proxied(server) as (proxy, database):
            proxy.drop_commit_reply()
            with pytest.raises(OutcomeUnknown):
                await database.write(Adding(), settle=crash)

    async def test_after_a_crash_what_the_transaction_left_still_settles(self, server: PostgresServer) -> None:
        """The reply is lost and the server crashes; the row that is there settles it."""
        crashed = False

        async def crash_then_look(connection: Connection) -> bool | None:
            nonlocal crashed
            if not crashed:
                crashed = True
                server.kill()
                server.start()
            return await by_row(connection)

        async with proxied(server) as (proxy, database):
            proxy.drop_commit_reply()

            assert await database.write(Adding(), settle=crash_then_look) == 1
            assert await stored(database) == [(1, 1)]

    async def test_a_commit_that_is_still_under_way_is_ended_before_anybody_looks(self, shared: PostgresServer) -> None:
        """The connection breaks while the server still commits: its process is ended, then the body runs again.

        Without that, "its row is not there" would be true for a moment only. Method: a deferred trigger makes COMMIT take
        5 s, and the connection is cut in that time.
        """
        async with proxied(shared) as (proxy, database):
            slow_commit(shared, 5.0)
            node, tasks, body = Node.system("test"), Tasks("test"), Adding()
            writing = tasks.spawn(database.write(body, settle=by_row), name="writer")
            async with asyncio.timeout(5):
                while "COMMIT" not in shared.execute("SELECT query FROM pg_stat_activity WHERE state = 'active'"):
                    await node.clock.sleep(0.01)
            proxy.cut()

            assert await writing == 2
            assert await stored(database) == [(1, 2)]

    async def test_a_single_statement_without_a_reply_is_unknown(self, shared: PostgresServer) -> None:
        """`statement` leaves nothing by which it could be settled."""
        async with proxied(shared) as (proxy, database):
            tasks = Tasks("test")
            await proxy.become("hang_down")
            running = tasks.spawn(database.statement(ADD, 1, 1), name="statement")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.Event().wait()
            proxy.cut()
            (outcome,) = await outcomes_of(running)
            await proxy.become("ok")

            assert isinstance(outcome, OutcomeUnknown)

    async def test_a_caller_that_leaves_during_commit_takes_nothing_along(self, shared: PostgresServer) -> None:
        """Cancelled while COMMIT runs: it is completed, and its connection is used again.

        Method: a deferred trigger makes COMMIT take 0.3 s.
        """
        async with opened(shared.url(), "pool_size=1") as database:
            slow_commit(shared, 0.3)
            pids: list[int] = []
            done = asyncio.Event()

            async def body(connection: Connection) -> None:
                pids.append((await connection.fetch(PID))[0][0])
                await connection.execute(ADD, 1, 1)
                connection.note_xid((await connection.fetch(Sql("x", "SELECT pg_current_xact_id()::text", "")))[0][0])
                done.set()

            tasks, node = Tasks("test"), Node.system("test")
            writing = tasks.spawn(database.write(body), name="writer")
            await done.wait()
            await node.clock.sleep(0.1)
            writing.cancel()
            (outcome,) = await outcomes_of(writing)
            rows = await database.statement(ALL)
            pids.append((await database.statement(PID))[0][0])

            assert isinstance(outcome, asyncio.CancelledError)
            assert pairs(rows) == [(1, 1)]
            assert pids[0] == pids[1]


class TestAway:
    async def test_a_killed_server_that_comes_back_is_used_again(self, server: PostgresServer) -> None:
        """A kill -9 under load: every acknowledged row is there, only the port's errors come out, work goes on by itself."""
        async with opened(server.url()) as database:
            node, threads = Node.system("test"), Threads(1, name="server")
            acknowledged: list[int] = []
            errors: list[BaseException] = []
            stop = False

            async def work(worker: int) -> None:
                number = 0
                while not stop:
                    number += 1
                    id_ = number * 10 + worker

                    async def body(connection: Connection, id_: int = id_) -> None:
                        await connection.execute(ADD, id_, worker)

                    (outcome,) = await outcomes_of(database.write(body))
                    if outcome is None:
                        acknowledged.append(id_)
                    else:
                        errors.append(outcome)
                        await node.clock.sleep(0.02)

            tasks = Tasks("test")
            for worker in range(8):
                tasks.spawn(work(worker), name=f"worker {worker}")
            for _ in range(2):
                count = len(acknowledged)
                while len(acknowledged) < count + 200:
                    await node.clock.sleep(0.01)
                server.kill()
                await node.clock.sleep(0.2)
                await threads.run(server.start)
            count = len(acknowledged)
            while len(acknowledged) < count + 200:
                await node.clock.sleep(0.01)
            stop = True
            await tasks.wait_idle()
            threads.close()

            ids = {id_ for id_, _ in await stored(database)}
            assert set(acknowledged) <= ids
            assert errors
            assert {type(error) for error in errors} <= {DatabaseUnreachable, OutcomeUnknown, Conflict}

    async def test_sessions_ended_while_idle_are_replaced_unseen(self, shared: PostgresServer) -> None:
        """An administrator ends every idle session: neither a write, a read nor a statement fails."""
        async with opened(shared.url()) as database:
            node = Node.system("test")
            for _ in range(3):
                await stored(database)
                shared.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dujiang/%'"
                )
                await node.clock.sleep(0)

                await database.write(lambda connection: connection.fetch(ONE))
                await stored(database)
                await database.statement(ONE)
                await database.health()

    async def test_a_silent_server_costs_no_more_than_the_deadline(self, shared: PostgresServer) -> None:
        """A black hole between us and the server: DeadlinePassed in time, health says so, and afterwards all works."""
        async with proxied(shared) as (proxy, database):
            node = Node.system("test")
            await database.health()
            await proxy.become("hang")
            began = node.clock.monotonic()
            with entered(Context(node=node, deadline=began + 0.3)):
                (outcome,) = await outcomes_of(database.write(lambda connection: connection.fetch(ONE)))
            took_s = node.clock.monotonic() - began
            (health,) = await outcomes_of(database.health())
            await proxy.become("ok")

            assert isinstance(outcome, DeadlinePassed)
            assert took_s < 1.0
            assert isinstance(health, DatabaseUnreachable)
            assert await database.write(Adding()) == 1

    async def test_a_wrong_password_is_refused_and_never_shown(self, server: PostgresServer) -> None:
        """DatabaseRefused, with the cure, without any password."""
        server.require_password("secret1")
        url = server.url().replace("secret1", "secret2")
        database = PostgresDatabase(url, Node.system("test"))

        (outcome,) = await outcomes_of(database.start())

        assert isinstance(outcome, DatabaseRefused)
        assert "secret" not in f"{outcome}{outcome.hint}{database!r}{database.url}"

    async def test_a_missing_database_is_refused(self, shared: PostgresServer) -> None:
        """DatabaseRefused names what is missing."""
        (outcome,) = await outcomes_of(PostgresDatabase(shared.url("nowhere"), Node.system("test")).start())

        assert isinstance(outcome, DatabaseRefused)
        assert "nowhere" in str(outcome)

    async def test_a_closed_port_is_unreachable(self, server: PostgresServer) -> None:
        """DatabaseUnreachable, at start and later; stop then works all the same."""
        url = server.url()
        async with opened(url) as database:
            server.stop()
            (later,) = await outcomes_of(database.write(Adding()))
            (start,) = await outcomes_of(PostgresDatabase(url, Node.system("test")).start())

            assert isinstance(later, DatabaseUnreachable)
            assert isinstance(start, DatabaseUnreachable)


class TestSessions:
    async def test_the_sessions_of_a_dead_holder_are_ended(self, shared: PostgresServer) -> None:
        """Its open transaction loses its locks; it can work again with new sessions if it lives after all."""
        async with opened(shared.url()) as database:
            await database.statement(ADD, 1, 0)
            node = Node.system("n" * 100)  # Longer than the server keeps a name.
            holder = PostgresDatabase(f"{shared.url()}?pool_size=2", node)
            await holder.start()
            with pytest.raises(DatabaseUnreachable):
                async with holder.held() as connection:
                    await connection.execute(RAISE, 5, 1)
                    assert await database.terminate_sessions(node.name) >= 1
                    await database.statement(RAISE, 1, 1)
                    await connection.execute(RAISE, 5, 1)
            await holder.statement(RAISE, 1, 1)
            await holder.stop()

            assert await database.terminate_sessions(node.name) == 0
            assert await stored(database) == [(1, 2)]

    async def test_a_cancelled_statement_ends_on_the_server(self, shared: PostgresServer) -> None:
        """No session keeps working for a caller that left, and no more sessions exist than the pool has places."""
        async with opened(shared.url(), "pool_size=2&reader_pool_size=1") as database:
            node, tasks = Node.system("test"), Tasks("test")
            name = f"dujiang/{database._node.name}"
            for _ in range(10):
                sleeping = [tasks.spawn(database.statement(SLEEP, 20.0), name="sleeper") for _ in range(2)]
                await node.clock.sleep(0.02)
                for task in sleeping:
                    task.cancel()
                await outcomes_of(*sleeping)
                assert len(await database._ask(SESSIONS, name)) <= 4

            async with asyncio.timeout(3):
                while any("pg_sleep" in row[2] and row[1] == "active" for row in await database._ask(SESSIONS, name)):
                    await node.clock.sleep(0.01)
            await database.statement(ONE)

    async def test_the_connection_of_a_cancelled_statement_is_never_used_again(self, shared: PostgresServer) -> None:
        """In a write and in a read: the next caller works on another server process."""
        async with opened(shared.url(), "pool_size=1&reader_pool_size=1") as database:
            node, tasks = Node.system("test"), Tasks("test")

            async def pid(connection: Connection) -> int:
                return int((await connection.fetch(PID))[0][0])

            async def sleep(connection: Connection) -> None:
                await connection.fetch(SLEEP, 20.0)

            for run in (database.write, database.read):
                before = await run(pid)
                sleeping = tasks.spawn(run(sleep), name="sleeper")
                await node.clock.sleep(0.05)
                sleeping.cancel()
                await outcomes_of(sleeping)

                assert await run(pid) != before

    async def test_a_caller_that_leaves_while_its_connection_is_made_leaves_it_whole(
        self, shared: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cancelled in the instant in which the socket opens: nobody complains of a lost answer, and the next one uses it."""
        loop, complaints, opened_count = asyncio.get_running_loop(), list[str](), [0]
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        tasks, original = Tasks("leaver"), loop.create_connection

        async def leaving(make: Any, *args: Any, **options: Any) -> Any:
            def made() -> Any:
                opened_count[0] += 1
                leaver.cancel()
                return make()

            return await original(made, *args, **options)

        async with opened(shared.url(), "pool_size=2") as database, database.held():
            monkeypatch.setattr(loop, "create_connection", leaving)
            leaver = tasks.spawn(database.statement(ONE), name="leaver")
            (left,) = await outcomes_of(leaver)
            rows = await database.statement(ONE)
            monkeypatch.undo()
            gc.collect()

        assert isinstance(left, asyncio.CancelledError)
        assert len(rows) == 1
        assert opened_count == [1]
        assert complaints == []

    async def test_stop_leaves_no_session(self, shared: PostgresServer) -> None:
        """After stop the server knows nobody of that node."""
        async with opened(shared.url()) as witness:
            async with opened(shared.url()) as database:
                await all_of(*(database.statement(ONE) for _ in range(4)), stored(database))
                await database.notify("x")
            left = await witness.statement(SESSIONS, f"dujiang/{database._node.name}")

            assert left == []

    async def test_a_session_has_our_settings(self, shared: PostgresServer) -> None:
        """Name, limits, isolation and time zone are set when the connection is made."""
        async with opened(shared.url(), "statement_timeout=7s&lock_timeout=300ms") as database:
            shown = Sql(
                "test_shown",
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
                " current_setting('idle_in_transaction_session_timeout'), current_setting('TimeZone'),"
                " current_setting('transaction_isolation'), current_setting('transaction_read_only')",
                "Reads the settings.",
            )

            async def body(connection: Connection) -> tuple[Any, ...]:
                return tuple((await connection.fetch(shown))[0])

            limits = ("7s", "300ms", "5s", "UTC")
            assert await database.write(body) == (*limits, "read committed", "off")
            assert await database.write(body, isolation="serializable") == (*limits, "serializable", "off")
            assert await database.read(body) == (*limits, "read committed", "on")

    async def test_a_slow_statement_is_ended_by_the_server(self, shared: PostgresServer) -> None:
        """statement_timeout comes as DeadlinePassed, and the connection stays."""
        async with opened(shared.url(), "pool_size=1&statement_timeout=100ms") as database:
            before = (await database.statement(PID))[0][0]
            (outcome,) = await outcomes_of(database.write(lambda connection: connection.fetch(SLEEP, 5.0)))

            assert isinstance(outcome, DeadlinePassed)
            assert (await database.statement(PID))[0][0] == before

    async def test_a_lock_that_never_comes_is_a_conflict(self, shared: PostgresServer) -> None:
        """lock_timeout runs the body again, five times in all."""
        async with opened(shared.url(), "pool_size=2&lock_timeout=30ms") as database:
            await database.statement(ADD, 1, 0)
            runs = 0

            async def body(connection: Connection) -> None:
                nonlocal runs
                runs += 1
                await connection.execute(RAISE, 1, 1)

            async with database.held() as holder:
                await holder.execute(RAISE, 1, 1)
                (outcome,) = await outcomes_of(database.write(body))

            assert isinstance(outcome, Conflict)
            assert (runs, outcome.runs) == (5, 5)

    async def test_what_keeps_the_lease_waits_for_no_pool(self, shared: PostgresServer) -> None:
        """While every connection is held by transactions that wait, a vital call is served at once."""
        async with opened(shared.url(), "pool_size=1&reader_pool_size=1&wait=50ms") as database, database.held():
            (refused,) = await outcomes_of(database.statement(ONE))
            token = VITAL.set(True)
            try:
                rows = await database.statement(ONE)
                again = await database.write(lambda connection: connection.fetch(ONE))
            finally:
                VITAL.reset(token)

        assert isinstance(refused, DeadlinePassed)
        assert len(rows) == len(again) == 1

    async def test_a_migration_under_prepared_statements_is_not_noticed(self, shared: PostgresServer) -> None:
        """A column that is added between two writes, or two statements, fails neither."""
        async with opened(shared.url(), "pool_size=1&reader_pool_size=1") as database:
            whole = Sql("test_whole", "SELECT * FROM dj_scratch", "Reads every column.")

            async def body(connection: Connection) -> int:
                await connection.execute(RAISE, 1, 1)
                return len((await connection.fetch(whole))[0])

            await database.statement(ADD, 1, 0)
            assert await database.write(body) == 5
            shared.execute("ALTER TABLE dj_scratch ADD COLUMN more INT")
            assert await database.write(body) == 6
            shared.execute("ALTER TABLE dj_scratch ADD COLUMN yet_more INT")
            assert len((await database.statement(whole))[0]) == 7
            assert await stored(database) == [(1, 2)]

    async def test_an_acknowledgement_is_worded_by_the_settings(self, shared: PostgresServer) -> None:
        """That fsync is off is said plainly."""
        async with opened(shared.url()) as database:
            settings = await database.durability()

            assert settings["fsync"] == "off"
            assert "fsync is off" in settings["means"]
            assert settings["server_version"]

    async def test_a_transaction_ended_by_its_own_body_is_no_success(self, shared: PostgresServer) -> None:
        """A body that sends ROLLBACK itself does not get an acknowledgement."""
        async with opened(shared.url(), "pool_size=1") as database:

            async def body(connection: Connection) -> None:
                await connection.execute(ADD, 1, 1)
                await connection.execute(Sql("test_rollback", "ROLLBACK", "Ends the transaction behind our back."))

            (outcome,) = await outcomes_of(database.write(body))

            assert getattr(outcome, "code", "") == "transaction_failed"
            assert await stored(database) == []

    async def test_a_text_with_a_wrong_number_of_arguments_is_a_failed_statement(self, shared: PostgresServer) -> None:
        """What the driver refuses comes as StatementFailed."""
        async with opened(shared.url()) as database:
            (outcome,) = await outcomes_of(database.statement(ADD, 1))

            assert isinstance(outcome, StatementFailed)


class TestRoundTrips:
    async def test_five_statements_are_seven_round_trips(self, shared: PostgresServer) -> None:
        """BEGIN, five statements, COMMIT: seven, once prepared; eight when nobody notes the transaction's id."""
        counted = 0

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
            nonlocal counted
            with contextlib.suppress(OSError):
                while chunk := await reader.read(65536):
                    counted += chunk.count(b"Z\0\0\0\x05") if count else 0
                    writer.write(chunk)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", shared.port)
            await all_of(pump(reader, server_writer, count=False), pump(server_reader, writer, count=True))

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with opened(shared.url().replace(str(shared.port), str(port)), "pool_size=1") as database:
            await database.statement(ADD, 1, 0)
            seen = []
            for note in (True, False, True, False):

                async def body(connection: Connection, note: bool = note) -> None:
                    for _ in range(5):
                        await connection.execute(RAISE, 1, 1)
                    if note:
                        connection.note_xid("1")

                before = counted
                await database.write(body)
                seen.append(counted - before)
        listening.close()

        assert seen[2:] == [7, 8]


class TestArrays:
    async def test_a_new_connection_asks_the_catalog_for_no_array(
        self, shared: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first connection learns what arrays are made of; a transaction on a later one sends its own statements only."""
        asked: list[Any] = []
        introspect = asyncpg.Connection._introspect_types

        async def counted(self: Any, numbers: Any, limit_s: Any) -> Any:
            asked.append(numbers)
            return await introspect(self, numbers, limit_s)

        monkeypatch.setattr(asyncpg.Connection, "_introspect_types", counted)
        async with opened(shared.url()) as database:
            assert len(asked) == 1

            together = asyncio.Barrier(3)

            async def body(connection: Connection) -> Any:
                await together.wait()  # Each has a connection of its own.
                return await connection.fetch(MANY, [1, 2], ["a"], [b"b"], [0.5], [True])

            found = await all_of(*(database.write(body) for _ in range(3)))

            assert [tuple(row) for rows in found for row in rows] == [(2, 1, 1, 1, 1)] * 3
            assert len(asked) == 1


class TestGone:
    async def test_a_backend_whose_client_is_gone_ends(self, shared: PostgresServer) -> None:
        """A cut connection's statement, which would take a minute, is over within seconds: it holds no locks for nobody."""
        async with proxied(shared) as (proxy, database):
            clock, tasks = Node.system("test").clock, Tasks("test")
            running = tasks.spawn(database.statement(SLEEP, 29.0), name="statement")
            sleeping = """SELECT count(*) FROM pg_stat_activity
                WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%' AND pid <> pg_backend_pid()"""
            async with asyncio.timeout(15):
                while "1" not in shared.execute(sleeping):
                    await clock.sleep(0.01)
                proxy.cut()
                await outcomes_of(running)
                while "0" not in shared.execute(sleeping):
                    await clock.sleep(0.01)
