"""Private PostgreSQL servers: what a test may rely on when it kills, pauses and restarts one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from dujiang.testing import processes, servers
from dujiang.testing.processes import alive, children_of, find_binary, free_port
from dujiang.testing.servers import BinaryMissing, PostgresServer, ServerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for the module; each test takes a database of its own."""
    try:
        find_binary("postgres")
    except BinaryMissing as missing:
        pytest.skip(str(missing))
    with PostgresServer(max_connections=33) as running:
        yield running


def states(pids: list[int]) -> set[str]:
    """The states of processes, as the kernel tells them: S sleeps, T is stopped."""
    return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}


class TestPostgresServer:
    async def test_a_driver_connects_to_its_url(self, server: PostgresServer) -> None:
        """The URL of a new database leads a driver to that database, with the settings that were asked for."""
        connection = await asyncpg.connect(server.create_database())
        found = await connection.fetchrow(
            "SELECT current_setting('max_connections'), current_setting('fsync'), current_setting('listen_addresses')"
        )
        await connection.close()

        assert tuple(found) == ("33", "off", "127.0.0.1")

    def test_databases_are_apart_and_copy_their_template(self, server: PostgresServer) -> None:
        """A database made from a template has its rows, and a row written into it stays out of the template."""
        server.create_database("shape")
        server.execute("CREATE TABLE t (x INT); INSERT INTO t VALUES (1)", database="shape")
        server.create_database("copied", template="shape")

        server.execute("INSERT INTO t VALUES (2)", database="copied")

        assert server.execute("SELECT x FROM t ORDER BY x", database="copied") == "1\n2"
        assert server.execute("SELECT x FROM t", database="shape") == "1"

    def test_a_dropped_database_may_be_made_again(self, server: PostgresServer) -> None:
        """Dropping ends its sessions and frees the name; dropping what is not there is no error."""
        server.create_database("again")

        server.drop_database("again")
        server.drop_database("again")

        assert server.create_database("again").endswith("/again")

    async def test_kill_ends_every_process_and_keeps_what_was_committed(self, server: PostgresServer) -> None:
        """After `kill` no process of the server is left, a client sees its connection end, committed rows survive."""
        url = server.create_database("killed")
        server.execute("CREATE TABLE t (x INT); INSERT INTO t VALUES (7)", database="killed")
        connection = await asyncpg.connect(url)
        family = [server.pid, *children_of(server.pid)]

        server.kill()

        assert len(family) > 5
        assert not any(map(alive, family))
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await connection.fetchval("SELECT 1")
        port = server.port
        server.start()
        assert server.port == port
        assert server.execute("SELECT x FROM t", database="killed") == "7"

    async def test_a_paused_server_is_silent_and_goes_on(self, server: PostgresServer) -> None:
        """Every process stops on `pause`, a backend with a session too; after `resume` the session still works."""
        connection = await asyncpg.connect(server.url())
        mine = await connection.fetchval("SELECT pg_backend_pid()")

        server.pause()
        family = [server.pid, *children_of(server.pid)]
        paused = states(family)
        server.resume()

        assert mine in family
        assert paused == {"T"}
        assert await connection.fetchval("SELECT 7") == 7
        await connection.close()

    def test_a_paused_server_can_be_killed_and_stopped(self, server: PostgresServer) -> None:
        """Neither `kill` nor `stop` waits for a server that stands still."""
        server.pause()
        server.kill()
        assert not server.running
        server.start()
        server.pause()

        server.restart()

        assert server.execute("SELECT 7") == "7"

    def test_a_failing_statement_says_what_the_server_said(self, server: PostgresServer) -> None:
        """Psql's own words reach the reader."""
        with pytest.raises(ServerFailed, match='relation "nowhere" does not exist'):
            server.execute("SELECT * FROM nowhere")

    async def test_a_password_is_required_once_asked_for(self) -> None:
        """With `require_password` the URL works as given and no other password does."""
        with PostgresServer() as locked:
            locked.require_password("sesame")

            assert locked.execute("SELECT 7") == "7"
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(locked.url().replace("sesame", "wrong"))

    def test_nothing_is_left_after_it(self) -> None:
        """After `close` processes, folder and shared memory are gone, also when the server had been killed."""
        with PostgresServer() as gone:
            folder, pid = gone.data.parent, gone.pid
            segment = (gone.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
            gone.kill()

        assert not folder.exists()
        assert not alive(pid)
        assert segment not in Path("/proc/sysvipc/shm").read_text().split()

    def test_a_taken_port_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the look for a port and the server's bind another may take it: then the next port is used."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            monkeypatch.setattr(servers, "free_port", lambda skip: taken if skip == 0 else free_port())

            with PostgresServer() as second:
                assert second.port != taken
                assert second.execute("SELECT 7") == "7"

    def test_a_wrong_setting_shows_the_servers_log(self) -> None:
        """A server that cannot start says why, and nothing of it is left."""
        wrong = PostgresServer(settings={"shared_buffers": "no size"})

        with pytest.raises(ServerFailed, match='invalid value for parameter "shared_buffers"'):
            wrong.start()
        wrong.close()

    def test_a_program_that_ends_normally_takes_its_server_along(self) -> None:
        """A server that nobody closed ends with the program that started it."""
        program = "from dujiang.testing.servers import *; s = PostgresServer(); s.start(); print(s.pid, s.folder)"

        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

        pid, folder = done.stdout.split()
        assert not alive(int(pid))
        assert not Path(folder).exists()


class TestReplica:
    def test_it_follows_lags_on_demand_and_takes_over(self) -> None:
        """A replica shows what was committed, refuses writes, is late while paused, and writes once promoted.

        Method: one pair of servers, since a copy takes a second; what was written while the replay stood still is
        received, so the promoted replica has it; its slot is gone from the primary after it has been closed.
        """
        with PostgresServer() as primary, primary.replica() as replica:
            primary.create_database("shop")
            primary.execute("CREATE TABLE t (x INT); INSERT INTO t VALUES (1)", database="shop")
            replica.wait_replayed()
            followed = replica.execute("SELECT x FROM t", database="shop")
            with pytest.raises(ServerFailed, match="read-only transaction"):
                replica.execute("INSERT INTO t VALUES (2)", database="shop")

            replica.pause_replay()
            primary.execute("INSERT INTO t VALUES (3)", database="shop")
            late = replica.execute("SELECT x FROM t", database="shop")
            replica.resume_replay()
            replica.wait_replayed()
            caught_up = replica.execute("SELECT x FROM t ORDER BY x", database="shop")
            replica.kill()
            primary.execute("INSERT INTO t VALUES (4)", database="shop")
            replica.start()
            replica.wait_replayed()

            primary.kill()
            replica.promote()
            replica.execute("INSERT INTO t VALUES (5)", database="shop")

            assert (followed, late, caught_up) == ("1", "1", "1\n3")
            assert replica.execute("SELECT x FROM t ORDER BY x", database="shop") == "1\n3\n4\n5"

    def test_a_closed_replica_leaves_no_slot(self, server: PostgresServer) -> None:
        """The primary does not keep its log for a replica that is gone."""
        with server.replica() as replica:
            during = server.execute("SELECT slot_name, active FROM pg_replication_slots")
            name = replica.execute("SHOW cluster_name")

        assert during.startswith(f"{name}|")
        assert server.execute("SELECT count(*) FROM pg_replication_slots") == "0"


def test_a_missing_program_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without PostgreSQL the error names the program and the apt line."""
    monkeypatch.setattr(processes, "DEBIAN_BINARIES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BinaryMissing) as raised:
        find_binary("psql", package="postgresql-client")

    assert "psql" in str(raised.value)
    assert raised.value.hint == "apt-get install --no-install-recommends postgresql-client"


def test_the_newest_version_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Versions are compared as numbers: 15 is newer than 9."""
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "postgres").touch()
    monkeypatch.setattr(processes, "DEBIAN_BINARIES", tmp_path)

    assert find_binary("postgres") == str(tmp_path / "15" / "bin" / "postgres")


def test_a_free_port_lies_below_the_clients_range() -> None:
    """No client of this machine is ever given the port as its own side of a connection."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    port, other = free_port(), free_port(skip=1)

    assert 1024 < port < first
    assert 1024 < other < first
    assert port != other


def test_a_process_that_waits_to_be_reaped_is_not_alive() -> None:
    """A zombie counts as ended, and a process of nobody does too."""
    child = subprocess.Popen(["sleep", "60"])
    listed = child.pid in children_of(os.getpid())
    living = alive(child.pid)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert (listed, living) == (True, True)
    assert not alive(child.pid)
    child.wait()
    assert not alive(child.pid)
