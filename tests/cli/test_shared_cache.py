"""Two serving processes, one PostgreSQL, one Redis: what clients see while Redis is emptied, frozen and killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.processes import BinaryMissing
from dujiang.testing.redis import RedisServer
from dujiang.testing.servers import PostgresServer
from tests.cli.processes import APP, Site, Up, dujiang

NOTES = {"0001": "op.execute('CREATE TABLE desk_note (id BIGINT PRIMARY KEY, body TEXT NOT NULL)')"}
SOURCE = """
from dujiang import Id, Model
from dujiang.data.sql import Sql

GET = Sql("desk_get", "SELECT body FROM desk_note WHERE id = $1", "Reads a note.")
SET = Sql(
    "desk_set",
    "INSERT INTO desk_note (id, body) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body RETURNING 1",
    "Writes a note.",
)

class Note(Model):
    text: str

@desk.read("GET /notes/{note_id}", ttl="1h", absent="1h")
async def read_note(db: Read, note_id: Id) -> Note | None:
    rows = await db.fetch(GET, note_id)
    return Note(text=rows[0][0]) if rows else None

@desk.write("PUT /notes/{note_id}")
async def put_note(tx: Tx, note_id: Id, body: Note) -> Note:
    await tx.fetch(SET, note_id, body.text)
    tx.forget(read_note, note_id)
    return body
"""


def eventually(holds: Callable[[], Any]) -> None:
    """Return once something holds; each question goes to another process and takes its time."""
    until_s = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < until_s, "it did not come to hold"


class Client(threading.Thread):
    """Writes a note of its own to one process and reads it there, again and again; keeps whatever is wrong."""

    def __init__(self, up: Up, note: int) -> None:
        super().__init__(daemon=True)
        self.up, self.note = up, note
        self.ended = False
        self.rounds = 0
        self.wrong: list[Any] = []

    def run(self) -> None:
        """Until it is ended."""
        while not self.ended:
            self.rounds += 1
            text = f"{self.rounds}"
            written = self.up.request("PUT", f"/notes/{self.note}", {"text": text})
            read = self.up.request("GET", f"/notes/{self.note}")
            absent = self.up.request("GET", f"/notes/{self.note * 1_000_000 + self.rounds}")
            if (written.status, read.status, read.json, absent.status) != (200, 200, {"text": text}, 404):
                self.wrong.append((written, read, absent))


def test_clients_of_two_processes_see_no_trouble_of_redis(tmp_path: Path, postgres: PostgresServer) -> None:
    """Redis is emptied, frozen, thawed, killed and started again under traffic: every request succeeds.

    Whoever wrote reads its write; the other process sees it soon; and the pages say how Redis is.
    """
    Site(tmp_path, NOTES).write(SOURCE)
    try:
        redis = RedisServer()
        redis.start()
    except BinaryMissing as missing:
        pytest.skip(str(missing))
    settings = {"database": postgres.create_database(), "cache": redis.url("two", timeout_s=0.05)}
    assert dujiang(tmp_path, "migrate", APP, **settings).code == 0
    with redis, Up(tmp_path, APP, **settings) as one, Up(tmp_path, APP, **settings) as other:
        one.started()
        other.started()

        def asked(up: Up) -> bool:
            return bool(up.operate("GET", "/_dj/cache").json["shared"]["up"])

        def seen(up: Up, note: int, text: str) -> bool:
            return bool(up.request("GET", f"/notes/{note}").json == {"text": text})

        assert asked(one)
        assert asked(other)
        one.request("PUT", "/notes/1", {"text": "tea"})
        eventually(lambda: seen(other, 1, "tea"))
        clients = [Client(up, note) for note, up in enumerate((one, other), start=10)]
        for client in clients:
            client.start()

        def go_on() -> None:
            before = [client.rounds for client in clients]
            eventually(lambda: all(c.rounds > was + 20 for c, was in zip(clients, before, strict=True)))

        go_on()
        redis.command("FLUSHALL")
        go_on()
        redis.pause()
        go_on()
        eventually(lambda: not asked(one) and not asked(other))
        assert one.request("GET", "/health/ready").json["checks"]["cache"]["status"] == "degraded"
        redis.resume()
        eventually(lambda: asked(one) and asked(other))
        go_on()
        redis.kill()
        go_on()
        one.request("PUT", "/notes/1", {"text": "green tea"})
        eventually(lambda: seen(other, 1, "green tea"))
        redis.start()
        eventually(lambda: asked(one) and asked(other))
        go_on()
        for client in clients:
            client.ended = True
        for client in clients:
            client.join(60.0)
            assert client.wrong == []

        shown = dujiang(tmp_path, "cache", "show", "--app", APP, **settings)
        assert (shown.code, "redis_version" in shown.out) == (0, True), shown
        assert "allkeys-lru" in dujiang(tmp_path, "doctor", APP, **settings).out
