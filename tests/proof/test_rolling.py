"""A rolling restart under load: each process in turn, asked politely and then killed; no request lost, no event doubled.

    clients ─► nginx, as the how-to page has it ─► gateway 1, gateway 2 ─► PostgreSQL ◄─ relay, worker 1, worker 2

The configuration of nginx is read from the page, so what is tried here is what a reader copies.
"""

from __future__ import annotations

import http.client
import itertools
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.processes import find_binary, free_port
from dujiang.testing.rabbit import RabbitServer
from dujiang.testing.servers import PostgresServer
from tests.cli.processes import APP, Run, Site
from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "docs" / "howto" / "processes.md"
CLIENTS = 4
SETTLE_S = 60.0
ROLES = {"gateway-1": "gateway", "gateway-2": "gateway", "relay-1": "relay", "worker-1": "worker", "worker-2": "worker"}
SOURCE = """
from dujiang import Model, key
from dujiang.data.sql import Sql

class Note(Model):
    text: str

class Noted(Event):
    text: str = key()

WRITE = Sql("desk_write", "INSERT INTO desk_note (id, body) VALUES ($1, $2)", "Adds a note.")
SEEN = Sql("desk_seen", "INSERT INTO desk_seen (id, body) VALUES ($1, $2)", "Adds an effect.")

@desk.write("POST /notes")
async def take(tx: Tx, body: Note) -> Note:
    await tx.fetch(WRITE, tx.new_id(), body.text)
    tx.publish(Noted(text=body.text))
    return body

@desk.react(Noted, ordered=True)
async def see(tx: Tx, event: Noted) -> None:
    await tx.fetch(SEEN, tx.new_id(), event.text)
"""
TABLES = {
    "0001": "op.execute('CREATE TABLE desk_note (id BIGINT PRIMARY KEY, body TEXT NOT NULL)')",
    "0002": "op.execute('CREATE TABLE desk_seen (id BIGINT PRIMARY KEY, body TEXT NOT NULL)')",
}


class Fleet:
    """The processes, by name; each keeps name and port over its lives."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: str) -> None:
        self._folder, self._stack, self._settings = folder, stack, settings
        self.ports = {name: free_port(skip=place + 10) for place, name in enumerate(ROLES)}
        self.running: dict[str, Run] = {}

    def start(self, *names: str) -> None:
        """Start processes at once, and wait until all are ready."""
        for name in names:
            run = Run(self._folder, ROLES[name], APP, port=self.ports[name], instance=name, **self._settings)
            self.running[name] = self._stack.enter_context(run)
        for name in names:
            self.running[name].started()


class Load:
    """Clients that post notes through the balancer for as long as the block lasts.

    Args:
        port: The balancer's.
        patience_s: For how long a client repeats a request with its key before it gives up; 0 = it asks once.

    Attributes:
        accepted: What was answered 201.
        failed: What was not, at the last try: the text and what happened.
    """

    def __init__(self, port: int, patience_s: float) -> None:
        self._port, self._patience_s = port, patience_s
        self._more = threading.Condition()
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self.accepted: list[str] = []
        self.failed: list[tuple[str, str]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Post for the length of the block."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._client) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                self._stop.set()
            for client in clients:
                client.result()

    def reach(self, more: int) -> None:
        """Return once so many more were accepted."""
        with self._more:
            wanted = len(self.accepted) + more
            reached = self._more.wait_for(lambda: len(self.accepted) >= wanted, SETTLE_S)
        assert reached, f"{len(self.accepted)} of {wanted}; failed: {self.failed[-3:]}"

    def _client(self) -> None:
        while not self._stop.is_set():
            text = f"note-{next(self._numbers)}"
            until_s = time.monotonic() + self._patience_s
            while (said := self._post(text)) != "201" and time.monotonic() < until_s:
                pass
            with self._more:
                if said == "201":
                    self.accepted.append(text)
                else:
                    self.failed.append((text, said))
                self._more.notify_all()

    def _post(self, text: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            headers = {"content-type": "application/json", "idempotency-key": text}
            connection.request("POST", "/notes", f'{{"text": "{text}"}}', headers)
            response = connection.getresponse()
            body = response.read()
            return str(response.status) if response.status == 201 else f"{response.status} {body[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()


@contextmanager
def balancer(folder: Path, gateways: list[int]) -> Iterator[int]:
    """A balancer: nginx with the configuration of the page, on ports of this test; its port."""
    (text,) = [block.text for block in blocks(PAGE) if block.language == "nginx"]
    port = free_port(skip=30)
    for shown, real in (("8001", gateways[0]), ("8002", gateways[1]), ("8000", port)):
        assert f"127.0.0.1:{shown}" in text
        text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{real}")
    paths = " ".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf = folder / "nginx.conf"
    conf.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log info;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\n{text}}}\n"
    )
    command = [find_binary("nginx", package="nginx"), "-c", str(conf), "-e", str(folder / "nginx.log")]
    process = subprocess.Popen(command)
    try:
        eventually(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Whether somebody answers HTTP on a port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def eventually(holds: Callable[[], Any]) -> Any:
    """The first true answer of `holds`, asked for at most SETTLE_S; each question goes to another process."""
    until_s = time.monotonic() + SETTLE_S
    while not (found := holds()):
        assert time.monotonic() < until_s, "it did not come to hold"
    return found


class Stage:
    """One database, its fleet, the balancer, and what the tables say in the end."""

    def __init__(self, folder: Path, server: PostgresServer, stack: ExitStack, **settings: str) -> None:
        Site(folder, TABLES).write(SOURCE)
        database = server.create_database()
        self._server, self._name = server, database.rpartition("/")[2]
        self.fleet = Fleet(folder, stack, database=database, **settings)
        self.fleet.start(*ROLES)
        ports = [self.fleet.ports[name] for name in ("gateway-1", "gateway-2")]
        self.port = stack.enter_context(balancer(folder, ports))

    def rows(self, table: str) -> list[str]:
        """The bodies of a table, sorted."""
        return sorted(self._server.execute(f"SELECT body FROM {table}", database=self._name).split())

    def settled(self) -> tuple[list[str], list[str]]:
        """Notes and effects, once there are as many of these as of those."""
        eventually(lambda: len(self.rows("desk_seen")) >= len(self.rows("desk_note")))
        return self.rows("desk_note"), self.rows("desk_seen")


# Behind RabbitMQ by hand, until its limits of time have been seen to hold on a machine that does other things as well.
KINDS = [
    pytest.param("database", id="database", marks=pytest.mark.proof),
    pytest.param("rabbitmq", id="rabbitmq", marks=pytest.mark.soak),
]


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """The setting `broker` of a kind."""
    if request.param == "database":
        return {}
    rabbit: RabbitServer = request.getfixturevalue("rabbit")
    return {"broker": rabbit.url(re.sub(r"\W", "-", request.node.name)[:40])}


@pytest.mark.parametrize("settings", KINDS, indirect=True)
def test_asked_in_turn_no_request_fails(settings: dict[str, str], postgres: PostgresServer, tmp_path: Path) -> None:
    """SIGTERM to each of five processes under load: clients that never try again see nothing but 201.

    Every accepted note is there once and has one effect, and every process ends with 0.
    """
    with ExitStack() as stack:
        stage = Stage(tmp_path, postgres, stack, **settings)
        load = Load(stage.port, patience_s=0.0)
        with load.running():
            load.reach(50)
            codes = []
            for name in ROLES:
                codes.append(stage.fleet.running[name].stop())
                load.reach(20)
                stage.fleet.start(name)
                load.reach(20)
        notes, seen = stage.settled()

    assert load.failed == []
    assert codes == [0] * len(ROLES)
    assert notes == seen == sorted(load.accepted)


@pytest.mark.parametrize("settings", KINDS, indirect=True)
def test_killed_in_turn_a_repeat_has_one_effect(
    settings: dict[str, str], postgres: PostgresServer, tmp_path: Path
) -> None:
    """SIGKILL to each of five processes under load: clients that repeat with their key are all answered 201 in the end.

    Every note is there once and has one effect, however often it was sent.
    """
    with ExitStack() as stack:
        stage = Stage(tmp_path, postgres, stack, **settings)
        load = Load(stage.port, patience_s=SETTLE_S)
        with load.running():
            load.reach(50)
            for name in ROLES:
                stage.fleet.running[name].stop(signal.SIGKILL)
                load.reach(20)
                stage.fleet.start(name)
                load.reach(20)
        notes, seen = stage.settled()

    assert load.failed == []
    assert notes == seen == sorted(load.accepted)
