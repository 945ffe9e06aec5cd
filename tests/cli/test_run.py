"""`dujiang run`: an application as several processes, each with some of the roles, on one PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import APP, Run, Site, Up, dujiang, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dujiang.testing.servers import PostgresServer

ORDER = {"user_id": 1, "items": ["itemA"]}
SLOW = """
import asyncio
from pathlib import Path
from dujiang import Model, key
from dujiang.data.sql import Sql

class Note(Model):
    text: str

class Noted(Event):
    text: str = key()

ADD = Sql("desk_add", "INSERT INTO desk_note (id, body) VALUES ($1, $2)", "Adds a note.")
STILL = Sql("desk_still", "SELECT 1", "Keeps the transaction from being idle.")
ALL = Sql("desk_all", "SELECT body FROM desk_note", "Reads all notes.")

@desk.write("POST /notes")
async def take(tx: Tx, body: Note) -> Note:
    tx.publish(Noted(text=body.text))
    return body

@desk.read("GET /notes")
async def notes(db: Read) -> list[str]:
    return [row[0] for row in await db.fetch(ALL)]

@desk.react(Noted)
async def file_note(tx: Tx, event: Noted) -> None:
    await tx.fetch(ADD, tx.new_id(), event.text)
    with open("began.txt", "a") as file:
        print(event.text, file=file)
    while not Path("go.txt").exists():
        await tx.fetch(STILL)
        await asyncio.sleep(0.01)
"""
NOTES = {"0001": "op.execute('CREATE TABLE desk_note (id BIGINT PRIMARY KEY, body TEXT NOT NULL)')"}


def eventually(holds: Callable[[], Any]) -> Any:
    """The first true answer of `holds`, asked for at most 20 s; each question goes to another process and takes its time."""
    until_s = time.monotonic() + 20.0
    while not (found := holds()):
        assert time.monotonic() < until_s, "it did not come to hold"
    return found


class TestRoles:
    def test_three_processes_are_one_system(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """A gateway, a relay and a worker, started at once on an empty database, place and reserve an order.

        Each shows its health and metrics on a port of its own, a process without HTTP roles answers nothing else, and
        SIGTERM ends each with 0.
        """
        database = postgres.create_database()
        with (
            Run(tmp_path, "gateway", database=database) as gateway,
            Run(tmp_path, "relay", database=database) as relay,
            Run(tmp_path, "worker", database=database) as worker,
        ):
            for process in (gateway, relay, worker):
                process.started()
            placed = gateway.request("POST", "/api/v1/orders", ORDER)
            path = f"/api/v1/orders/{placed.json['order_id']}"
            eventually(lambda: gateway.request("GET", path).json["status"] == "reserved")
            health = [process.request("GET", "/health/ready") for process in (gateway, relay, worker)]
            counted = {name: process.request("GET", "/metrics").body.decode() for name, process in
                       (("relay", relay), ("worker", worker))}  # fmt: skip
            refused = worker.request("POST", "/api/v1/orders", ORDER)
            page = relay.request("GET", "/docs")
            ends = [process.stop() for process in (gateway, relay, worker)]

        assert [answer.status for answer in health] == [200, 200, 200]
        assert "dujiang_outbox_published_total 0.0" not in counted["relay"]
        assert 'dujiang_work_total{outcome="done"' in counted["worker"]
        assert (refused.status, refused.json["code"], refused.json["move"]) == (421, "not_served_here", "fix")
        assert "this process is worker" in refused.json["detail"]
        assert page.status == 421
        assert ends == [0, 0, 0]
        assert [process.err for process in (gateway, relay, worker)] == ["", "", ""]

    def test_a_process_for_writes_refuses_reads(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """The role `write` takes an order and answers no read; its refusal names its role."""
        with Run(tmp_path, "write", database=postgres.create_database()).started() as write:
            placed = write.request("POST", "/api/v1/orders", ORDER)
            read = write.request("GET", f"/api/v1/orders/{placed.json['order_id']}")
            assert write.stop() == 0

        assert placed.status == 201
        assert (read.status, read.json["code"]) == (421, "not_served_here")

    def test_a_process_without_a_port_says_ready_as_json(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """Without HTTP roles and without --port nothing listens; with --json the line `ready` and the log are JSON."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dujiang.cli", "run", "relay,worker", "--json", "--grace", "2s"],
            cwd=tmp_path,
            env=environment(database=postgres.create_database(), log_level="debug"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)

        assert json.loads(line) == {"ready": ["relay", "worker"], "url": ""}
        assert process.returncode == 130
        assert all(json.loads(each) for each in err.splitlines())

    def test_an_event_before_the_first_worker_finds_it(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """On an empty database the first process makes the subscriptions: what is published before a worker comes waits."""
        Site(tmp_path, NOTES).write(SLOW)
        (tmp_path / "go.txt").touch()
        database = postgres.create_database()
        with Run(tmp_path, "gateway,relay", APP, database=database).started() as gateway:
            assert gateway.request("POST", "/notes", {"text": "early"}).status == 201
            published = "dujiang_outbox_published_total 1"
            eventually(lambda: published in gateway.request("GET", "/metrics").body.decode())
            with Run(tmp_path, "worker", APP, database=database).started():
                eventually(lambda: gateway.request("GET", "/notes").json == ["early"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("roles", "says"),
        [
            ("gatway", "'gatway' is no role (did you mean 'gateway'?); there are gateway, write, relay, worker"),
            ("gardener", "'gardener' is no role; there are gateway, write, relay, worker, scheduler"),
            ("relay,", "'' is no role"),
            ("relay worker", "'relay worker' is no role"),
        ],
    )
    def test_an_unknown_role_names_those_there_are(self, roles: str, says: str, tmp_path: Path) -> None:
        """Usage, 64; nothing is made."""
        ended = dujiang(tmp_path, "run", roles)

        assert (ended.code, ended.out) == (64, "")
        assert says in ended.err
        assert ended.err.count("\n") == 2
        assert list(tmp_path.iterdir()) == []

    def test_the_embedded_store_takes_all_roles_or_none(self, tmp_path: Path) -> None:
        """Some of the roles are refused with the cure and 78, and nothing is made; all of them are a system."""
        ended = dujiang(tmp_path, "run", "gateway,worker")
        made = list(tmp_path.iterdir())
        with Run(tmp_path, "gateway,relay,worker").started() as whole:
            placed = whole.request("POST", "/api/v1/orders", ORDER)
            second = dujiang(tmp_path, "run", "gateway,relay,worker", "--json", "--port", "1")
            assert whole.stop() == 0

        assert (ended.code, made) == (78, [])
        assert "nobody would run what gateway, worker leaves out [one_process]" in ended.err
        assert "run `dujiang up`" in ended.err
        assert placed.status == 201
        assert json.loads(second.out)["error"]["exit"] in (69, 78)


class TestDrain:
    def test_work_in_hand_goes_to_another_process_at_once(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """SIGTERM: not ready, nothing is claimed; what does not end within the grace is run by another worker at once.

        Method: a handler that waits for a file holds its event; its process is told to stop, with a short grace; another
        worker begins the same event while the lease of the first would still have run for long.
        """
        Site(tmp_path, NOTES).write(SLOW)
        database = postgres.create_database()
        began = tmp_path / "began.txt"
        with (
            Run(tmp_path, "gateway,relay", APP, database=database).started() as gateway,
            Run(tmp_path, "worker", APP, "--grace", "1s", database=database).started() as first,
        ):
            gateway.request("POST", "/notes", {"text": "held"})
            eventually(lambda: began.exists() and began.read_text() == "held\n")
            with Run(tmp_path, "worker", APP, database=database).started() as second:
                first.process.send_signal(signal.SIGTERM)
                seen = eventually(lambda: unready(first))
                assert first.wait() == 0
                eventually(lambda: began.read_text() == "held\nheld\n")
                (tmp_path / "go.txt").touch()
                eventually(lambda: gateway.request("GET", "/notes").json == ["held"])
                assert second.stop() == 0

        assert (seen["status"], seen["checks"]["database"]["status"]) == ("stopping", "ok")

    def test_the_second_signal_ends_at_once(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """A worker whose handler hangs is given a minute; asked twice, it is gone."""
        Site(tmp_path, NOTES).write(SLOW)
        with Run(
            tmp_path, "gateway,relay,worker", APP, "--grace", "60s", database=postgres.create_database()
        ).started() as whole:
            whole.request("POST", "/notes", {"text": "hangs"})
            eventually((tmp_path / "began.txt").exists)
            whole.process.send_signal(signal.SIGTERM)
            eventually(lambda: unready(whole))
            whole.process.send_signal(signal.SIGTERM)

            assert whole.wait() == 143


def unready(process: Up) -> Any:
    """What a process that is not ready says of itself; False while it is, or when it no longer answers."""
    try:
        answer = process.request("GET", "/health/ready")
    except OSError:
        return False
    return answer.status == 503 and answer.json
