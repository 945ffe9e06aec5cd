"""Commands on a store that works: serve, stop, look, migrate, replay, audit; beside a running process and without one."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.testing.processes import children_of
from dujiang.testing.servers import PostgresServer
from tests.cli.processes import APP, Site, Up, dujiang

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORDER = {"user_id": 1, "items": ["itemA", "itemB"]}
LETTERS = """
from dujiang import Model, Refusal, key
from dujiang.data.sql import Sql

class Note(Model):
    text: str

class Noted(Event):
    text: str = key()

COUNT = Sql("desk_count", "SELECT count(*) FROM desk_note", "Counts notes.")
ADD = Sql("desk_add", "INSERT INTO desk_note (id, body) VALUES ($1, $2)", "Adds a note.")

@desk.write("POST /notes")
async def take(tx: Tx, body: Note) -> Note:
    tx.publish(Noted(text=body.text))
    return body

@desk.react(Noted, ordered=True)
async def file_note(tx: Tx, event: Noted) -> None:
    if event.text == "bad":
        raise Refusal("a bad note")
    await tx.fetch(ADD, tx.new_id(), event.text)

@desk.invariant("at most one note")
async def one_note(db: Read) -> list[Any]:
    count = (await db.fetch(COUNT))[0][0]
    return [{"notes": count}] if count > 1 else []
"""
NOTES = {"0001": "op.execute('CREATE TABLE desk_note (id BIGINT PRIMARY KEY, body TEXT NOT NULL)')"}


def eventually(holds: Callable[[], Any]) -> Any:
    """The first true answer of `holds`, asked for at most 20 s; each question goes to another process and takes its time."""
    until_s = time.monotonic() + 20.0
    while not (found := holds()):
        assert time.monotonic() < until_s, "it did not come to hold"
    return found


class TestUp:
    def test_the_shop_serves_and_stops(self, store: dict[str, str], tmp_path: Path) -> None:
        """A first start makes and seeds the store, an order is reserved, SIGTERM ends with 0; a second start keeps all.

        The operator's token guards operations and outlives the restart.
        """
        with Up(tmp_path, **store).started() as up:
            placed = up.request("POST", "/api/v1/orders", ORDER, idempotency_key="k1")
            path = f"/api/v1/orders/{placed.json['order_id']}"
            eventually(lambda: up.request("GET", path).json["status"] == "reserved")
            refused = up.request("GET", "/_dj/deadletters")
            token = (tmp_path / "var" / "operator.token").read_text()
            assert up.stop() == 0

        assert (placed.status, placed.json["total_amount"]) == (201, "100.00")
        assert (refused.status, refused.json["code"]) == (401, "operator_only")
        assert not (tmp_path / "var" / "up.json").exists()
        assert up.err == ""
        with Up(tmp_path, **store).started() as up:
            again = up.request("POST", "/api/v1/orders", ORDER, idempotency_key="k1")
            stock = up.operate("GET", "/_dj/shop/stock/itemA").json
            assert up.stop(signal.SIGINT) == 130

        assert again.body == placed.body
        assert (stock["on_hand"], stock["reserved"]) == (1000, 1)
        assert (tmp_path / "var" / "operator.token").read_text() == token

    def test_workers_share_a_port_and_are_started_again(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """Two workers serve; one that is killed is started again under its name at once; SIGTERM ends all with 0."""
        with Up(tmp_path, "--workers", "2", database=postgres.create_database(), instance="site").started() as up:
            first = children_of(up.process.pid)
            os.kill(first[0], signal.SIGKILL)
            second = eventually(lambda: [p for p in [children_of(up.process.pid)] if len(p) == 2 and p != first])[0]
            names = eventually(lambda: living(tmp_path, postgres, up))
            placed = up.request("POST", "/api/v1/orders", ORDER)
            path = f"/api/v1/orders/{placed.json['order_id']}"
            eventually(lambda: up.request("GET", path).json["status"] == "reserved")
            assert up.stop() == 0

        assert names == ["site-1", "site-2"]
        assert not any(os.path.exists(f"/proc/{pid}") for pid in {*first, *second})  # noqa: PTH110
        assert "SIGKILL" in up.err

    def test_production_does_not_seed(self, tmp_path: Path) -> None:
        """The profile production leaves an empty store empty, for good: a later demo start does not fill it."""
        for profile in ("production", "demo"):
            with Up(tmp_path, profile=profile).started() as up:
                answer = up.request("POST", "/api/v1/orders", ORDER)
                assert up.stop() == 0

            assert (answer.status, answer.json["code"]) == (422, "unknown_product")

    def test_a_start_that_loses_its_database_ends(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """While the database is away requests are 503 and the process lives; when it is back they are answered."""
        with PostgresServer(fsync=False) as server, Up(tmp_path, database=server.url()).started() as up:
            server.kill()
            away = up.request("POST", "/api/v1/orders", ORDER)
            server.start()
            back = eventually(lambda: [a for a in [up.request("POST", "/api/v1/orders", ORDER)] if a.status == 201])
            assert up.stop() == 0

        assert (away.status, away.json["code"]) == (503, "database_unreachable")
        assert back


def living(folder: Path, server: PostgresServer, up: Up) -> list[str]:
    """The instance names of two living processes, when there are exactly two; read by `doctor`."""
    database = server.url(f"test_{server._made}")
    report = json.loads(dujiang(folder, "doctor", "--json", database=database).out)
    infos = [json.loads(process["info"]) for process in report["processes"]]
    return sorted(info["instance"] for info in infos) if len(infos) == 2 else []


class TestCommands:
    def test_an_empty_store_is_looked_at_and_made(self, store: dict[str, str], tmp_path: Path) -> None:
        """`migrate --check` tells that all is missing and makes nothing; `migrate` makes it once; `doctor` is content."""
        check = dujiang(tmp_path, "migrate", "--check", "--json", **store)
        first = dujiang(tmp_path, "migrate", **store)
        again = dujiang(tmp_path, "migrate", "--json", **store)
        doctor = dujiang(tmp_path, "doctor", "--json", **store)
        shown = dujiang(tmp_path, "doctor", **store)

        assert (check.code, json.loads(check.out)["state"], json.loads(check.out)["done"]) == (78, "empty", [])
        assert (first.code, first.out.startswith("done: dujiang 0001  "), "done: shop 0001  " in first.out) == (
            0,
            True,
            True,
        )
        assert (again.code, json.loads(again.out)) == (0, {"state": "current", "names": [], "done": []})
        report = json.loads(doctor.out)
        assert (doctor.code, report["problems"], report["schema"]["state"]) == (0, [], "current")
        assert report["durability"]["safe"] == ("no" if store else "yes")
        assert (shown.code, "an acknowledged write" in shown.out, "no problems" in shown.out) == (0, True, True)
        assert {run.err for run in (check, first, again, doctor, shown)} == {""}

    def test_routes_are_listed_without_a_store(self, tmp_path: Path) -> None:
        """Each route and reaction is a row; nothing is made."""
        routes = dujiang(tmp_path, "routes", "--json")

        rows = {(row["method"], row["path"], row["kind"]) for row in json.loads(routes.out)["routes"]}
        assert ("POST", "/orders/", "write") in rows
        assert ("", "OrderPlaced", "react") in rows
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("store", "beside"),
        [("sqlite", True), ("sqlite", False), ("postgres", True)],
        indirect=["store"],
        ids=["sqlite-through-the-owner", "sqlite-alone", "postgres"],
    )
    def test_dead_letters_are_looked_at_replayed_and_discarded(
        self, store: dict[str, str], tmp_path: Path, beside: bool
    ) -> None:
        """List, show, replay with another payload, discard, unknown id; through the running process or in the store."""
        Site(tmp_path, NOTES).write("from typing import Any\n" + LETTERS)
        with Up(tmp_path, APP, **store).started() as up:
            for _ in range(3):
                assert up.request("POST", "/notes", {"text": "bad"}).status == 201
            # The key is parked by its first dead event; a replay and a discard let the others come.
            eventually(lambda: up.operate("GET", "/_dj/deadletters").json)
            if not beside:
                assert up.stop() == 0
            (tmp_path / "good.json").write_text('{"text": "bad\\u0020no more"}')

            def run(*words: str) -> Any:
                return dujiang(tmp_path, "deadletter", *words, "--app", APP, **store)

            (letter,) = json.loads(run("list", "--json").out)["deadletters"]
            shown = run("show", letter["id"])
            replayed = run("replay", letter["id"], "--payload", "good.json")
            unknown = run("discard", letter["id"])
            nobody = run("list", "--subscription", "no such one")

            with up if beside else Up(tmp_path, APP, **store).started() as later:
                second = eventually(lambda: later.operate("GET", "/_dj/deadletters").json)[0]
                discarded = run("discard", second["id"])
                third = eventually(
                    lambda: [x for x in later.operate("GET", "/_dj/deadletters").json if x["id"] != second["id"]]
                )
                audit = dujiang(tmp_path, "audit", APP, "--json", **store)
                assert later.stop() == 0

        assert (letter["reason"], letter["key"], letter["event"]) == ("refused", "bad", "Noted")
        assert "a bad note" in shown.out
        assert (replayed.code, replayed.out) == (0, f"replayed {letter['id']}\n")
        assert (unknown.code, unknown.out) == (65, "")
        assert unknown.err.startswith(f"error: no dead letter has the id {letter['id']}")
        assert nobody.out == "no dead letters\n"
        assert discarded.code == 0
        assert len(third) == 1
        assert (audit.code, json.loads(audit.out)) == (0, {"violations": []})

    def test_an_audit_shows_violations(self, store: dict[str, str], tmp_path: Path) -> None:
        """Violated laws end with 1 and name their rows, beside the owner and without one."""
        Site(tmp_path, NOTES).write("from typing import Any\n" + LETTERS)
        with Up(tmp_path, APP, **store).started() as up:
            for text in ("a", "b"):
                up.request("POST", "/notes", {"text": text})
            beside = eventually(lambda: [a for a in [dujiang(tmp_path, "audit", APP, **store)] if a.code == 1])[0]
            assert up.stop() == 0
        alone = dujiang(tmp_path, "audit", APP, **store)

        assert (alone.code, alone.out) == (1, "violated: at most one note (1 rows)\n  {'notes': 2}\n")
        assert beside == alone

    def test_an_audit_in_the_wrong_folder_is_no_good_news(self, tmp_path: Path) -> None:
        """Where there is no store, none is made and none is praised."""
        audit = dujiang(tmp_path, "audit")

        assert (audit.code, audit.out) == (78, "")
        assert "there is no store at" in audit.err
        assert list(tmp_path.iterdir()) == []
