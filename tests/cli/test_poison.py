"""Messages that end the process that handles them: killed, crashed in C code, out of memory, hanging; with 49 neighbours.

The processes are real, and they really die. On the embedded store the whole system dies with them and is started again,
as a service manager would; on PostgreSQL two workers are kept alive by their supervisor.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import APP, Site, Up, dujiang

if TYPE_CHECKING:
    from pathlib import Path

SEEN = {"0001": "op.execute('CREATE TABLE desk_seen (n BIGINT PRIMARY KEY)')"}
SOURCE = """
import ctypes, os, signal, time
from dujiang import Model
from dujiang.data.sql import Sql

class Told(Event):
    n: int
    how: str

class Asked(Model):
    first: int
    count: int
    killer: int
    how: str

class Seen(Model):
    numbers: list[int]

ADD = Sql("desk_add", "INSERT INTO desk_seen (n) VALUES ($1) RETURNING 1", "Notes an effect.")
ALL = Sql("desk_all", "SELECT n FROM desk_seen ORDER BY n", "Reads the effects.")

@desk.write("POST /tell")
async def tell(tx: Tx, body: Asked) -> Seen:
    for n in range(body.first, body.first + body.count):
        tx.publish(Told(n=n, how=body.how if n == body.killer else ""))
    return Seen(numbers=[])

@desk.read("GET /seen")
async def seen(db: Read) -> Seen:
    return Seen(numbers=[row[0] for row in await db.fetch(ALL)])

@desk.react(Told)
async def hear(tx: Tx, event: Told) -> None:
    await tx.fetch(ADD, event.n)
    if event.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif event.how == "segfault":
        ctypes.string_at(0)
    elif event.how == "exit":
        os._exit(0)
    elif event.how == "alone" and "solitary" not in open(f"/proc/{os.getpid()}/cmdline").read():
        os.kill(os.getpid(), signal.SIGKILL)
    elif event.how == "memory":
        if "solitary" not in open(f"/proc/{os.getpid()}/cmdline").read():
            os.kill(os.getpid(), signal.SIGKILL)  # What the kernel does to whoever takes too much.
        bytearray(1 << 31)
    elif event.how == "hang":
        if "solitary" not in open(f"/proc/{os.getpid()}/cmdline").read():
            os.kill(os.getpid(), signal.SIGKILL)  # What a supervisor does to whoever does not answer.
        time.sleep(600)
"""
KILLER, COUNT = 25, 50
INNOCENT = [n for n in range(COUNT) if n != KILLER]
LIMIT_S = 180.0


def lived(folder: Path, settings: dict[str, str], how: str) -> tuple[list[int], list[dict[str, Any]]]:
    """Publish 50 events of which one ends its process, and let the system live until nothing is open: effects, letters."""
    Site(folder, SEEN).write(SOURCE)
    more = ["--workers", "2"] if "database" in settings else []
    asked, until = False, time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        with Up(folder, APP, *more, instance="desk", crash_memory="256MiB", **settings) as up:
            if not up.ready():
                continue
            while time.monotonic() < until and up.process.poll() is None:
                try:
                    if not asked:
                        body = {"first": 0, "count": COUNT, "killer": KILLER, "how": how}
                        asked = up.request("POST", "/tell", body, idempotency_key="once").status == 200
                    numbers = up.request("GET", "/seen").json["numbers"]
                    letters = up.operate("GET", "/_dj/deadletters").json
                except (OSError, HTTPException):
                    numbers, letters = [], []
                if len(numbers) + len(letters) >= COUNT:
                    assert up.stop() == 0
                    return numbers, letters
                with suppress(subprocess.TimeoutExpired):
                    up.process.wait(0.1)
    raise AssertionError(f"not within {LIMIT_S} s")


@pytest.mark.parametrize(
    ("store", "how", "says"),
    [
        ("sqlite", "segfault", "ended by SIGSEGV"),
        ("sqlite", "hang", "blocked its event loop"),
        ("postgres", "kill", "ended by SIGKILL"),
        ("postgres", "memory", "more memory than crash_memory allows (256 MiB)"),
    ],
    indirect=["store"],
)
def test_a_message_that_ends_its_process_becomes_a_dead_letter_and_49_succeed(
    store: dict[str, str], tmp_path: Path, how: str, says: str
) -> None:
    """Two processes die of it, then one of its own: a letter says how; every neighbour has its effect, once."""
    numbers, letters = lived(tmp_path, store, how)

    assert numbers == INNOCENT
    assert [(one["reason"], one["crashes"], json.loads(one["payload"])["n"]) for one in letters] == [
        ("crash_loop", 2, KILLER)
    ]
    assert says in letters[0]["error"]
    if how == "segfault":
        assert "site_app.py" in letters[0]["error"]  # The fault handler names the line.


def test_a_message_that_lives_alone_is_done(tmp_path: Path) -> None:
    """A suspect is no culprit: what succeeds in a process of its own has its effect, written beside the store's owner."""
    numbers, letters = lived(tmp_path, {}, "alone")

    assert (numbers, letters) == (list(range(COUNT)), [])


def test_a_letter_of_a_crash_loop_is_replayed_after_the_repair(tmp_path: Path) -> None:
    """With the handler corrected the letter is put back, from zero crashes, and has its effect."""
    _, (letter,) = lived(tmp_path, {}, "exit")
    module = tmp_path / "site_app.py"
    module.write_text(module.read_text().replace("os._exit(0)", "pass"))

    with Up(tmp_path, APP, instance="desk").started() as up:
        assert dujiang(tmp_path, "deadletter", "replay", letter["id"], "--app", APP).code == 0
        until = time.monotonic() + 20
        while KILLER not in (numbers := up.request("GET", "/seen").json["numbers"]):
            assert time.monotonic() < until, up.err

    assert numbers == list(range(COUNT))
