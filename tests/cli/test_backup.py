"""`dujiang backup` under load and beside nobody, `dujiang restore` after it, and a backup that is killed half-way."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.cli.processes import Up, dujiang, environment
from tests.cli.test_running import eventually

ORDER = {"user_id": 1, "items": ["itemA"]}
CLIENTS = 4

# Begins a backup whose pages are copied one at a time, says that it is half-way, and waits to be killed.
HALF = """
import sys, threading
from pathlib import Path
from dujiang.backends.sqlite.backup import SqliteKeeper
from dujiang.backends.sqlite import backup
from dujiang.data.backup import Progress

class Half(Progress):
    @property
    def cancelled(self):
        if self.done:
            print("half", flush=True)
            threading.Event().wait()
        return False
    @cancelled.setter
    def cancelled(self, value):
        pass

backup.PAGES = 1
SqliteKeeper(sys.argv[1]).copy(Path(sys.argv[2]), Half(), "0.1.0", "2026-01-01T00:00:00Z")
"""


class Load:
    """Clients that place orders until they are told to stop.

    Attributes:
        answered: The ids of orders that were answered 201, by key, in the order of the answers.
    """

    def __init__(self, up: Up) -> None:
        self._up = up
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.answered: dict[str, str] = {}
        self._running = [self._pool.submit(self._client) for _ in range(CLIENTS)]

    def _client(self) -> None:
        while not self._stop.is_set():
            key = f"load-{next(self._numbers)}"
            answer = self._up.request("POST", "/api/v1/orders", ORDER, idempotency_key=key)
            if answer.status == 201:
                self.answered[key] = answer.json["order_id"]

    def end(self) -> None:
        """Stop the clients; raises what one of them met."""
        self._stop.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()


def rows(path: Path, statement: str) -> list[Any]:
    """Rows of a closed store, read by Python's own SQLite."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute(statement))


class TestUnderLoad:
    def test_what_was_acknowledged_before_it_began_comes_back_and_is_finished_once(self, tmp_path: Path) -> None:
        """A backup of a store that works, restored elsewhere: whole, lawful, and its open events are handled once.

        Method: four clients order while the backup is made; the store it restores is then served until no order is
        pending, and every order has exactly one reservation and one handled event.
        """
        with Up(tmp_path).started() as up:
            load = Load(up)
            eventually(lambda: len(load.answered) > 40)
            before = dict(load.answered)
            done = dujiang(tmp_path, "backup", "saved", "--json")
            load.end()
            assert done.code == 0, done.err
            assert up.operate("GET", "/_dj/backup").json["state"] == "done"
            assert up.operate("POST", "/_dj/audit").json == []

        manifest = json.loads(done.out)["manifest"]
        assert manifest["rows"]["shop_order"] >= len(before)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        restored = dujiang(elsewhere, "restore", "../saved", "--app", "dujiang.systems.shop:app")
        assert restored.code == 0, restored.err
        store = elsewhere / "var" / "app.db"
        orders = {str(row[0]) for row in rows(store, "SELECT order_id FROM shop_order")}
        assert orders >= set(before.values())
        assert len(orders) == manifest["rows"]["shop_order"]

        with Up(elsewhere).started() as up:
            for key, order_id in list(before.items())[-5:]:
                again = up.request("POST", "/api/v1/orders", ORDER, idempotency_key=key)
                assert (again.json["order_id"], again.headers["idempotent-replayed"]) == (order_id, "true")
            eventually(lambda: not open_work(store))
            assert up.operate("POST", "/_dj/audit").json == []
            assert up.stop() == 0, up.err
        count = len(orders)
        assert rows(store, "SELECT status, count(*) FROM shop_order GROUP BY status") == [("reserved", count)]
        assert rows(store, "SELECT count(*), count(DISTINCT seq) FROM dj_outcome WHERE state = 1") == [(count, count)]

    def test_a_running_process_refuses_a_target_that_exists(self, tmp_path: Path) -> None:
        """What the owner refuses has the exit code of the data, and says which folder."""
        (tmp_path / "saved").mkdir()
        with Up(tmp_path).started() as up:
            done = dujiang(tmp_path, "backup", "saved")
            wrong = up.operate("POST", "/_dj/backup", {"to": "x"})

        assert (done.code, "exists already" in done.err) == (65, True)
        assert (wrong.status, wrong.json["code"]) == (400, "backup_target")


class TestBesideNobody:
    def test_a_backup_that_is_killed_leaves_nothing_that_a_restore_takes(self, tmp_path: Path) -> None:
        """`kill -9` in the middle: no target, an unfinished folder that restore refuses, and the next backup works."""
        with Up(tmp_path).started() as up:
            assert up.request("POST", "/api/v1/orders", ORDER).status == 201
            assert up.stop() == 0
        store = tmp_path / "var" / "app.db"
        command = [sys.executable, "-c", HALF, f"sqlite:///{store}", str(tmp_path / "saved")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            process.kill()

        assert not (tmp_path / "saved").exists()
        refused = dujiang(tmp_path, "restore", ".saved.part", "--force")
        missing = dujiang(tmp_path, "restore", "saved", "--force", "--json")
        done = dujiang(tmp_path, "backup", "saved")

        assert (refused.code, "never finished" in refused.err) == (65, True)
        assert (missing.code, json.loads(missing.out)["error"]["code"]) == (65, "no_backup")
        assert done.code == 0, done.err
        assert sorted(path.name for path in tmp_path.iterdir() if "saved" in path.name) == ["saved"]

    def test_refusals_have_their_exit_codes(self, tmp_path: Path) -> None:
        """No store, a server database, a store in the way: each says what and how to go on."""
        nothing = dujiang(tmp_path, "backup", "saved")
        server = dujiang(tmp_path, "backup", "saved", "--database", "postgresql://a:secret@db/shop")
        with Up(tmp_path).started() as up:
            used = dujiang(tmp_path, "backup", "saved")
            in_use = dujiang(tmp_path, "restore", "saved", "--force")
            assert up.stop() == 0
        in_the_way = dujiang(tmp_path, "restore", "saved")
        forced = dujiang(tmp_path, "restore", "saved", "--force", "--json")

        assert (nothing.code, "store_missing" in nothing.err) == (78, True)
        assert (server.code, "pg_basebackup" in server.err, "secret" in server.err) == (78, True, False)
        assert used.code == 0, used.err
        assert (in_use.code, "store_in_use" in in_use.err) == (69, True)
        assert (in_the_way.code, "--force" in in_the_way.err) == (65, True)
        assert forced.code == 0, forced.err
        assert Path(json.loads(forced.out)["aside"]).exists()


def open_work(store: Path) -> bool:
    """Whether an order of a running store is not reserved yet; read beside its owner, which SQLite's readers may do."""
    return rows(store, "SELECT count(*) FROM shop_order WHERE status = 'pending'") != [(0,)]
