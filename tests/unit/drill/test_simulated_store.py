"""The simulated database: READ COMMITTED for all machines, and what becomes of a transaction whose machine dies."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from dujiang.data.database import Conflict, DatabaseUnreachable, IntegrityFailed, TransactionFailed, WriteInRead
from dujiang.drill.machine import EPOCH_US
from dujiang.drill.tape import Plan, Tape
from tests.unit.drill.serving import CLAIM, Server

READ = "SELECT held FROM pot WHERE name = 'p0'"
ADD = "UPDATE pot SET held = held + 1 WHERE name = 'p0'"
SET = "UPDATE pot SET held = ? WHERE name = 'p0'"
Body = Callable[[Any], Coroutine[Any, Any, Any]]


async def pot(tx: Any, text: str = READ) -> int:
    """What the pot holds."""
    return int((await tx.run(text, ()))[0][0][0])


def adding(server: Server, rest_s: float = 0.0) -> Body:
    """A transaction that adds one, and then rests with the writer."""

    async def body(tx: Any) -> None:
        await tx.run(ADD, ())
        await server.loop.pause(rest_s)

    return body


def claiming(server: Server, rest_s: float = 0.0, word: str = "w") -> Body:
    """A transaction that claims a word, rests with it, and adds one if it was free."""

    async def body(tx: Any) -> bool:
        rows = await tx.fetch(CLAIM, word)
        await server.loop.pause(rest_s)
        if rows:
            await tx.run(ADD, ())
        return bool(rows)

    return body


def fail(server: Server, **keep: int) -> None:
    """Let the first draw of each label be a fault; words are joined by two underscores."""
    tape = Tape("x", Plan(jitter=False), {(label.replace("__", "."), 0): form for label, form in keep.items()})
    tape.on = True
    server.world.tape = tape


class TestReadCommitted:
    def test_a_commit_of_another_is_seen_between_two_selects(self, server: Server) -> None:
        """A transaction that only reads holds nothing, and each of its SELECTs sees the present."""

        async def look(tx: Any) -> tuple[int, int]:
            before = await pot(tx)
            await server.loop.pause(1.0)
            return before, await pot(tx)

        looked = server.writing("a", look)
        server.passing(0.5)
        server.outcome(server.writing("b", adding(server)))

        assert server.outcome(looked) == [(10, 11)]

    def test_what_is_not_committed_is_seen_by_nobody_else(self, server: Server) -> None:
        """Its own transaction sees it, another and a read do not, and after a rollback nobody does."""

        async def change(tx: Any) -> None:
            await tx.run(SET, (99,))
            seen.append(await pot(tx))
            await server.loop.pause(1.0)
            raise KeyError("the body fails")

        seen: list[int] = []
        changed = server.writing("a", change)
        server.passing(0.5)
        others = server.outcome(server.writing("b", pot), server.at("b", lambda database: database.read(pot)))

        assert (seen, others) == ([99], [10, 10])
        assert isinstance(server.outcome(changed)[0], KeyError)
        assert server.held() == 10

    def test_a_decision_on_a_stale_read_can_be_written(self, server: Server) -> None:
        """Read, wait, write: a lost update is possible, as on a server; the history names it."""

        async def careless(tx: Any) -> None:
            seen = await pot(tx)
            await server.loop.pause(0.1)
            await tx.run(SET, (seen + 1,))

        assert server.outcome(*(server.writing(name, careless) for name in "ab")) == [None, None]
        assert server.held() == 11
        stale = [said for _, kind, said in server.world.trace if kind.endswith("stale read")]
        assert len(stale) == 1
        assert "test_simulated_store.py" in stale[0]
        assert "careless" in stale[0]

    @pytest.mark.parametrize("lock", [f"{READ} /* for update */", ADD.replace("+ 1", "+ 0") + " RETURNING held"])
    def test_for_update_and_the_first_write_take_the_writer(self, server: Server, lock: str) -> None:
        """Then what was read stays true until the commit, and nothing is lost."""

        async def careful(tx: Any) -> None:
            seen = await pot(tx, lock)
            await server.loop.pause(0.1)
            await tx.run(SET, (seen + 1,))

        assert server.outcome(*(server.writing(name, careful) for name in "abc")) == [None] * 3
        assert server.held() == 13
        assert not [kind for _, kind, _ in server.world.trace if kind.endswith("stale read")]

    def test_serializable_takes_the_writer_at_its_first_select(self, server: Server) -> None:
        """So that a plain read is no stale one."""

        async def careless(tx: Any) -> None:
            seen = await pot(tx)
            await server.loop.pause(0.1)
            await tx.run(SET, (seen + 1,))

        server.outcome(*(server.writing(name, careless, isolation="serializable") for name in "ab"))

        assert server.held() == 12

    def test_the_writer_goes_round_in_the_order_of_asking(self, server: Server) -> None:
        """First come, first served."""
        order: list[str] = []

        def body(name: str) -> Body:
            async def add(tx: Any) -> None:
                await tx.run(ADD, ())
                order.append(name)
                await server.loop.pause(0.1)

            return add

        tasks = []
        for name in "dbca":
            tasks.append(server.writing(name, body(name)))
            server.passing(0.01)
        server.outcome(*tasks)

        assert "".join(order) == "dbca"
        assert server.held() == 14

    def test_a_read_cannot_write(self, server: Server) -> None:
        """It is refused before anything happens."""
        (found,) = server.outcome(server.at("a", lambda database: database.read(adding(server))))

        assert isinstance(found, WriteInRead)
        assert server.held() == 10

    def test_rows_in_no_promised_order_can_be_turned_round(self, server: Server) -> None:
        """Only those; what has an ORDER BY stays."""

        async def names(tx: Any, order: str = "") -> list[str]:
            return [row[0] for row in (await tx.run(f"SELECT name FROM pot {order}", ()))[0]]

        def seen() -> list[Any]:
            return server.outcome(
                server.writing("a", names), server.writing("a", lambda tx: names(tx, "ORDER BY name"))
            )

        plain = seen()
        server.store.reverse_unordered(on=True)
        turned = seen()

        assert turned[0] == plain[0][::-1]
        assert sorted(plain[0]) == plain[1]
        assert turned[1] == plain[1] == ["p0", "p1", "p2"]

    def test_time_and_chance_in_sql_are_the_worlds(self, server: Server, tmp_path: Any) -> None:
        """`datetime('now')` is virtual, and `random()` is the same in another world."""

        async def ask(tx: Any) -> Any:
            return (await tx.run("SELECT datetime('now'), server_now_us(), random(), hex(randomblob(4))", ()))[0][0]

        def asked(of: Server) -> Any:
            of.passing(3600.0)
            return of.outcome(of.writing("a", ask))[0]

        other = Server(server.world.cluster.image, tmp_path)
        first, second = asked(server), asked(other)
        other.close()

        assert first == second
        assert first[0] == "2026-01-01 01:00:00"
        assert 3600.0 < (first[1] - EPOCH_US) / 1e6 < 3601.0


class TestClaims:
    def test_a_claim_holds_its_key_and_not_the_writer(self, server: Server) -> None:
        """While one transaction rests with a key, another writes and commits, and a third takes another key."""
        first = server.writing("a", claiming(server, 5.0))
        server.passing(0.5)
        others = [server.writing("b", adding(server)), server.writing("c", claiming(server, word="other"))]

        assert server.outcome(*others) == [None, True]
        assert not first.done()
        assert server.held() == 12
        assert server.outcome(first) == [True]

    def test_the_next_waits_for_the_key_until_the_commit(self, server: Server) -> None:
        """And then finds the word taken."""
        first, second = server.writing("a", claiming(server, 5.0)), server.writing("b", claiming(server))
        server.passing(4.0)
        assert not second.done()

        assert server.outcome(first, second) == [True, False]
        assert server.held() == 11
        assert server.store.rows("SELECT word FROM taken") == [("w",)]

    def test_what_a_taken_word_answers_is_what_the_statement_says(self, server: Server) -> None:
        """A statement that returns a row for a word that is there does so here as on a server."""
        careless = replace(
            CLAIM, text="INSERT INTO taken VALUES ($1) ON CONFLICT (word) DO UPDATE SET word = $1 RETURNING 1"
        )

        async def again(tx: Any) -> list[Any]:
            return [tuple(row) for row in await tx.fetch(careless, "w")]

        server.outcome(server.writing("a", claiming(server)))

        assert server.outcome(server.writing("b", again)) == [[(1,)]]

    def test_the_next_has_the_key_after_a_rollback(self, server: Server) -> None:
        """What was claimed in vain is free."""

        async def change_of_mind(tx: Any) -> None:
            await tx.fetch(CLAIM, "w")
            await server.loop.pause(1.0)
            raise KeyError("no")

        found = server.outcome(server.writing("a", change_of_mind), server.writing("b", claiming(server)))

        assert isinstance(found[0], KeyError)
        assert found[1] is True
        assert server.held() == 11

    def test_the_next_has_the_key_after_a_death(self, server: Server) -> None:
        """The server ends what a dead machine has open."""
        server.writing("a", claiming(server, 50.0))
        second = server.writing("b", claiming(server))
        server.passing(1.0)
        server.kill("a")

        assert server.outcome(second) == [True]
        assert server.loop.now < 5.0

    def test_a_claim_alone_is_committed(self, server: Server) -> None:
        """A transaction that claims and does nothing else has claimed."""

        async def only(tx: Any) -> None:
            await tx.fetch(CLAIM, "w")

        server.outcome(server.writing("a", only))

        assert server.store.rows("SELECT word FROM taken") == [("w",)]

    def test_waiting_for_each_other_ends_in_a_second_try(self, server: Server) -> None:
        """Key and writer the other way round: one is sent away, runs again, and both end."""

        async def writer_first(tx: Any) -> bool:
            await tx.run(ADD, ())
            await server.loop.pause(0.5)
            return bool(await tx.fetch(CLAIM, "w"))

        async def key_first(tx: Any) -> bool:
            rows = await tx.fetch(CLAIM, "w")
            await server.loop.pause(0.1)
            await tx.run(ADD, ())
            return bool(rows)

        found = server.outcome(server.writing("a", writer_first), server.writing("b", key_first))

        assert sorted(found) == [False, True]
        assert server.held() == 12
        assert server.store.rows("SELECT word FROM taken") == [("w",)]


class TestFaults:
    def test_a_failed_statement_ends_the_transaction(self, server: Server) -> None:
        """Whatever comes after it is refused, the commit too, even when the body goes on as if nothing was."""
        after: list[type[BaseException]] = []

        async def careless(tx: Any) -> None:
            await tx.run(ADD, ())
            with pytest.raises(IntegrityFailed):
                await tx.run("INSERT INTO pot VALUES ('p1', 0)", ())
            try:
                await pot(tx)
            except TransactionFailed as error:
                after.append(type(error))

        (found,) = server.outcome(server.writing("a", careless))

        assert isinstance(found, TransactionFailed)
        assert after == [TransactionFailed]
        assert server.held() == 10
        assert [said for _, kind, said in server.world.trace if kind == "a statement failed" and "careless" in said]

    def test_a_savepoint_makes_it_whole_again(self, server: Server) -> None:
        """What came before the savepoint is kept, what came after is undone."""

        async def careful(tx: Any) -> None:
            await tx.run(ADD, ())
            await tx.savepoint("s")
            await tx.run("UPDATE pot SET held = 50 WHERE name = 'p1'", ())
            with pytest.raises(IntegrityFailed):
                await tx.run("INSERT INTO pot VALUES ('p1', 0)", ())
            await tx.rollback_to("s")
            await tx.run(ADD, ())

        assert server.outcome(server.writing("a", careful)) == [None]
        assert (server.held(), server.held("p1")) == (12, 10)

    @pytest.mark.parametrize(("label", "held"), [("cut__db__commit__sent", 10), ("cut__db__commit__reply", 11)])
    def test_a_lost_commit_is_settled(self, server: Server, label: str, held: int) -> None:
        """What `settle` finds decides: before COMMIT arrived it runs again, after it not; once in the end, always."""
        asked: list[int] = []
        runs: list[int] = []

        async def body(tx: Any) -> str:
            runs.append(1)
            await tx.run(ADD, ())
            return "answer"

        async def settle(db: Any) -> bool:
            asked.append(await pot(db))
            return asked[-1] == 11

        fail(server, **{label: 1})
        found = server.outcome(server.writing("a", body, settle=settle))

        assert found == ["answer"]
        assert asked == [held]
        assert len(runs) == (2 if held == 10 else 1)
        assert server.held() == 11

    @pytest.mark.parametrize("label", ["cut__db__commit__sent", "cut__db__commit__reply"])
    def test_without_a_settler_the_servers_record_decides(self, server: Server, label: str) -> None:
        """The body's effect is there exactly once."""
        fail(server, **{label: 1})

        assert server.outcome(server.writing("a", adding(server))) == [None]
        assert server.held() == 11

    @pytest.mark.parametrize("label", ["cut__db__request", "cut__db__reply"])
    def test_a_broken_connection_undoes_everything(self, server: Server, label: str) -> None:
        """Nothing of the transaction stays, also when only the rows got lost; nobody is kept waiting."""
        fail(server, **{label: 1})
        cut = server.writing("a", adding(server))
        (found,) = server.outcome(cut)

        assert isinstance(found, DatabaseUnreachable)
        assert server.held() == 10
        assert server.outcome(server.writing("b", adding(server))) == [None]

    def test_a_deadlock_runs_the_body_again(self, server: Server) -> None:
        """Once is mended; what goes on for ever is said after five runs."""
        fail(server, db__deadlock=1)
        assert server.outcome(server.writing("a", adding(server))) == [None]
        assert server.held() == 11

        server.world.tape = Tape("x", Plan(rates={"db.deadlock": 1.0}, jitter=False))
        server.world.tape.on = True
        (found,) = server.outcome(server.writing("a", adding(server)))
        assert isinstance(found, Conflict)
        assert found.runs == 5
        assert server.held() == 11

    def test_a_server_that_is_down_answers_nobody(self, server: Server) -> None:
        """Until it is up again."""
        server.store.down_until_us = server.world.now_us() + 2_000_000

        (found,) = server.outcome(server.writing("a", adding(server)))
        server.passing(2.0)

        assert isinstance(found, DatabaseUnreachable)
        assert server.outcome(server.writing("a", adding(server))) == [None]


class TestDeath:
    def test_an_open_transaction_is_rolled_back(self, server: Server) -> None:
        """Its writes are gone, and the writer is free at once."""
        server.writing("a", adding(server, 100.0))
        server.passing(1.0)
        waits = server.writing("b", adding(server))
        server.passing(1.0)
        assert not waits.done()
        server.kill("a")

        assert server.outcome(waits) == [None]
        assert server.loop.now < 3.0
        assert server.held() == 11
        assert server.store.owned_by(server.machine("a")) == []

    def test_who_dies_in_the_line_gives_up_its_place(self, server: Server) -> None:
        """The writer goes to the next that lives."""
        server.writing("a", adding(server, 1.0))
        server.passing(0.1)
        server.writing("b", adding(server))
        server.passing(0.1)
        last = server.writing("c", adding(server))
        server.passing(0.1)
        server.kill("b")

        assert server.outcome(last) == [None]
        assert server.held() == 12

    @pytest.mark.parametrize("made", [adding, claiming])
    def test_who_dies_when_just_given_what_it_waits_for_hands_it_on(
        self, server: Server, made: Callable[..., Body]
    ) -> None:
        """Between being given the writer, or a key, and going on with it lies a moment in which a machine can die."""
        first = server.writing("a", made(server, 1.0))
        server.passing(0.1)
        server.writing("b", made(server))
        server.passing(0.1)
        last = server.writing("c", made(server))
        server.passing(0.1)
        (mine,) = server.store.owned_by(server.machine("a"))
        server.kill("a")  # Now b has been given it, and its task is ready and has not run.
        server.kill("b")

        assert server.outcome(last)[0] in (None, True)
        assert not first.done()
        assert mine not in server.store.owned_by(server.machine("a"))
        assert server.held() == 11

    def test_a_cancelled_statement_ends_its_transaction(self, server: Server) -> None:
        """Who goes away while it waits for the writer leaves no hole in the line."""
        server.writing("a", adding(server, 1.0))
        server.passing(0.1)
        gone, last = server.writing("b", adding(server)), server.writing("c", adding(server))
        server.passing(0.1)
        gone.cancel()

        assert server.outcome(last) == [None]
        assert gone.cancelled()
        assert server.held() == 12
        assert server.store.owned_by(server.machine("b")) == []
