"""Sagas over processes that really die, and the command that takes a stuck one on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cli.processes import APP, Site, Up, dujiang
from tests.cli.test_jobs import eventually

if TYPE_CHECKING:
    from pathlib import Path

DONE = {"0001": "op.execute('CREATE TABLE desk_done (n BIGINT NOT NULL, word TEXT NOT NULL)')"}
SOURCE = """
import os, signal
from pathlib import Path
from dujiang import Event, Failed, Call, Model, Ok, Retry, Saga, SagaView, Step, Unknown, key, saga_of
from dujiang.data.sql import Sql

ADD = Sql("desk_add", "INSERT INTO desk_done (n, word) VALUES ($1, $2) RETURNING 1", "Notes an effect.")
ALL = Sql("desk_all", "SELECT word, count(*) FROM desk_done GROUP BY word ORDER BY word", "Reads the effects.")

class Asked(Event):
    n: int = key()

class State(Model, frozen=False):
    n: int

async def hold(tx: Tx, state: State) -> int:
    await tx.fetch(ADD, state.n, "held")
    return state.n

async def free(tx: Tx, state: State, done: int) -> None:
    if not Path("unlocked.txt").exists():
        raise OSError("the shelf is locked")
    await tx.fetch(ADD, done, "freed")

async def send(call: Call, state: State) -> Ok[str] | Failed | Unknown:
    with open("sent.txt", "a") as file:
        print(call.key, file=file)
    if state.n == 1 and not Path("go.txt").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Failed("no such street") if state.n == 2 else Ok("sent")

async def unsend(call: Call, state: State, done: str | None) -> None:
    return None

@desk.saga(on=Asked, within="1h", retry=Retry(attempts=3, base="1ms", cap="5ms"), stuck_after=2)
class Sending(Saga[State]):
    hold = Step(hold, undo=free)
    send = Step(send, undo=unsend)

    @staticmethod
    def begin(event: Asked) -> State:
        return State(n=event.n)

@desk.write("POST /ask/{n}")
async def ask(tx: Tx, n: int) -> None:
    tx.publish(Asked(n=n))

@desk.read("GET /sagas/{n}")
async def look(db: Read, n: int) -> SagaView | None:
    return await saga_of(db, Sending, n)

@desk.read("GET /done")
async def done(db: Read) -> dict[str, int]:
    return {row[0]: row[1] for row in await db.fetch(ALL)}
"""


def in_state(up: Up, n: int, state: str) -> dict[str, Any]:
    """The view of a saga in a state."""

    def look() -> Any:
        answer = up.request("GET", f"/sagas/{n}")
        return answer.json if answer.status == 200 and answer.json["state"] == state else None

    return dict(eventually(look))


def test_a_saga_survives_the_death_of_its_process(tmp_path: Path) -> None:
    """Killed behind its call and before that is written down: the next process calls again, with the same key."""
    Site(tmp_path, DONE).write(SOURCE)
    with Up(tmp_path, APP, instance="desk").started() as up:
        up.request("POST", "/ask/1")
        up.wait()
    (tmp_path / "go.txt").touch()
    with Up(tmp_path, APP, instance="desk").started() as up:
        found = in_state(up, 1, "done")
        done = up.request("GET", "/done").json
        assert up.stop() == 0

    assert [(entry["step"], entry["what"]) for entry in found["timeline"]] == [
        ("hold", "done"),
        ("send", "started"),
        ("send", "done"),
    ]
    assert done == {"held": 1}
    sent = (tmp_path / "sent.txt").read_text().split()
    assert (len(sent), len(set(sent))) == (2, 1)


def test_a_stuck_saga_is_seen_and_taken_on_by_the_command(tmp_path: Path) -> None:
    """Through the process that owns the store, and in the store itself when nobody does."""
    Site(tmp_path, DONE).write(SOURCE)
    (tmp_path / "state.json").write_text('{"n": "two"}')

    def run(*words: str) -> Any:
        ended = dujiang(tmp_path, "sagas", *words, "--app", APP)
        assert ended.code == 0, ended.err
        return ended.out

    with Up(tmp_path, APP, instance="desk").started() as up:
        up.request("POST", "/ask/2")
        in_state(up, 2, "stuck")
        (listed,) = json.loads(run("list", "--stuck", "--json"))["sagas"]
        saga_id = listed["saga_id"]
        assert (listed["key"], listed["state"]) == ("2", "stuck")
        assert "the shelf is locked" in listed["why"] or "no such street" in listed["why"]
        assert "held" in up.request("GET", "/done").json
        assert up.stop() == 0
    shown = run("show", saga_id)
    refused = dujiang(tmp_path, "sagas", "resume", saga_id, "--state", "state.json", "--why", "x", "--app", APP)
    unknown = dujiang(tmp_path, "sagas", "retry", "5", "--app", APP)
    (tmp_path / "unlocked.txt").touch()
    assert run("retry", saga_id, "--why", "unlocked it").strip() == f"retried {saga_id}"
    with Up(tmp_path, APP, instance="desk").started() as up:
        found = in_state(up, 2, "compensated")
        done = up.request("GET", "/done").json
        assert up.stop() == 0

    assert "no such street" in shown
    assert (refused.code, unknown.code) == (65, 65), (refused.err, unknown.err)
    assert "does not fit" in refused.err
    assert "no saga has the id 5" in unknown.err
    assert done == {"freed": 1, "held": 1}
    assert "retry: unlocked it" in [entry["note"] for entry in found["timeline"]]
    assert run("list").strip() == "no sagas"
