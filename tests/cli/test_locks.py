"""Locks over processes that really die, or stand still: the next one gets it after the ttl, and the sleeper changes nothing."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.cli.processes import APP, Run, Site
from tests.cli.test_jobs import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from dujiang.testing.servers import PostgresServer

TABLE = {"0001": "op.execute('CREATE TABLE desk_note (who TEXT NOT NULL, token BIGINT NOT NULL)')"}
SOURCE = """
import asyncio
from pathlib import Path
from dujiang import Held, Job, LockLost, Retry, lock
from dujiang.data.sql import Sql

NOTE = Sql("desk_write", "INSERT INTO desk_note (who, token) VALUES ($1, $2) RETURNING 1", "Notes who was there.")
NOTES = Sql("desk_notes", "SELECT who, token FROM desk_note ORDER BY token, who", "Reads the notes.")

async def note(tx: Tx, who: str, held: Held) -> None:
    held.fence(tx)
    await tx.fetch(NOTE, who, held.token)

@desk.accept("POST /hold/{who}", timeout="10m", retry=Retry(attempts=100, base="100ms", cap="1s"))
async def hold(job: Job, who: str) -> str:
    try:
        async with lock("desk", ttl="3s", wait="120s") as held:
            await job.transact(note, who, held)
            Path(f"{who}-{held.token}.in").touch()
            while not Path(f"{who}.go").exists():
                await asyncio.sleep(0.01)
            await job.transact(note, who + " again", held)
    except (LockLost, asyncio.CancelledError):
        Path(f"{who}.lost").touch()
        raise
    return who

@desk.read("GET /notes")
async def notes(db: Read) -> list[list[str | int]]:
    return [[row[0], row[1]] for row in await db.fetch(NOTES)]
"""


def test_the_next_one_gets_it_when_the_holder_was_killed_and_a_sleeper_finds_it_lost(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """A worker is stopped for longer than the ttl and another one takes the lock; the sleeper's write is refused.

    The second holder is killed with -9; its job runs again in the first worker, with the next token.
    """
    Site(tmp_path, TABLE).write(SOURCE)
    database = postgres.create_database()

    def inside(who: str) -> list[int]:
        return sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.glob(f"{who}-*.in"))

    with ExitStack() as stack:
        gateway = stack.enter_context(Run(tmp_path, "gateway,relay", APP, database=database)).started()
        first = stack.enter_context(Run(tmp_path, "worker", APP, instance="w1", database=database)).started()
        assert gateway.request("POST", "/hold/one").status == 202
        eventually(lambda: inside("one"))
        first.process.send_signal(signal.SIGSTOP)
        second = stack.enter_context(Run(tmp_path, "worker", APP, instance="w2", database=database)).started()
        assert gateway.request("POST", "/hold/two").status == 202
        eventually(lambda: inside("two"))
        slept = inside("one")
        (tmp_path / "one.go").touch()
        first.process.send_signal(signal.SIGCONT)
        eventually((tmp_path / "one.lost").exists)
        second.kill()
        killed = inside("two")
        (tmp_path / "two.go").touch()
        eventually(lambda: ["two again", max(inside("two"))] in gateway.request("GET", "/notes").json, 180.0)
        found = gateway.request("GET", "/notes").json
        assert first.stop() == 0

    assert max(inside("two")) > max(killed) > min(slept)
    assert [note for note in found if note in [["one again", token] for token in slept]] == []
    assert [note for note in found if note in [["two again", token] for token in killed]] == []
