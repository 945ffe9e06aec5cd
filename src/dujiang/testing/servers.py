"""Servers: a private, real PostgreSQL for one test session: started in 0.2 s, killed at will, gone afterwards.

    template (initdb once per machine)  --cp-->  folder/data  -->  postgres, our direct child, on a free loopback port
                                                                     |- backends, each in a session of its own

Three facts decided how it is written. (1) `postgres` itself is started, never `pg_ctl`: an orphaned postmaster that was
killed stays a zombie until somebody reaps it, and its lock files then refuse the next start; a parent that waits has no
such trouble. (2) Each backend calls setsid, so a signal to the postmaster's group reaches the postmaster alone: `kill`,
`pause` and `resume` go through the process table. (3) The port lies below the range that the kernel hands to clients:
a client that keeps asking a dead port inside that range ends up connected to itself, and the port is then never free.

With `fsync=False` full_page_writes stays on: SIGKILL can cut an 8 KiB write in two even though nobody pulls the plug.

Not promised: that a server outlived by its parent ends. Normal exits are covered, SIGKILL of the parent is not.
tests/unit/testing/test_servers.py kills, pauses and restarts one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Self

from dujiang.testing.processes import (
    BinaryMissing,
    ServerFailed,
    alive,
    children_of,
    find_binary,
    free_port,
    halted,
    owner,
    owner_uid,
    private_folder,
    reachable,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

USER = "dujiang"
READY_S_MAX = 30.0
LOOK_EVERY_S = 0.01
DATABASE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # The segments lie in the data folder and go with it; in /dev/shm a killed server would leave them behind.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "wal_keep_size": "64MB",
    "timezone": "UTC",
}


class PostgresServer:
    """One private PostgreSQL on a loopback port, its data in a folder of its own that goes with it.

    Methods block for as long as the server takes; none needs a driver. As root the server runs as the user `postgres`.

        with PostgresServer() as server:
            url = server.create_database("orders")

    Args:
        fsync: Wait for the disk at each commit. Off is faster, and equal as long as the machine itself stays up.
        max_connections: Connections that the server takes.
        settings: Further settings, by their names in postgresql.conf; they win over ours.

    Raises:
        BinaryMissing: On `start`, if PostgreSQL is not installed.
        ServerFailed: On any method, when the server or a statement fails.
    """

    def __init__(
        self, *, fsync: bool = False, max_connections: int = 60, settings: Mapping[str, str] | None = None
    ) -> None:
        self.settings = {
            **SETTINGS,
            "fsync": "on" if fsync else "off",
            "max_connections": str(max_connections),
            **(settings or {}),
        }
        self.port = 0
        self.folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._made = 0
        self._primary: PostgresServer | None = None
        self._slot = ""
        self._replica_count = 0

    def __repr__(self) -> str:
        return f"<PostgresServer on {self.port}, {'running' if self.running else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the postmaster lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    @property
    def data(self) -> Path:
        """The data folder."""
        assert self.folder is not None, "the server was never started"
        return self.folder / "data"

    def log(self, *, line_count: int = 30) -> str:
        """The end of the server's log."""
        if self.folder is None or not (self.folder / "log").exists():
            return ""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-line_count:])

    def url(self, database: str = "postgres") -> str:
        """`postgresql://dujiang@127.0.0.1:PORT/DATABASE`, with the password if one is required."""
        secret = f":{self._password}" if self._password else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start and wait until it answers. The first start makes the data folder and takes a port."""
        if self.running:
            return
        if self.folder is None:
            self.folder = private_folder("dujiang-postgres-")
            atexit.register(self.close)
            self._fill()
        # Another process may take the port between our look and the server's bind: then the next one is tried, but
        # only while nobody has been told the port.
        attempts = 1 if self.port else 5
        for attempt in range(attempts):
            port = self.port or free_port(skip=attempt)
            if self._start_on(port):
                self.port = port
                return
        self.close()
        raise ServerFailed(what=f"no free port in {attempts} attempts", log="")

    def kill(self) -> None:
        """SIGKILL to every process of the server at once, as when the power of its machine fails but for the disk."""
        if not self.running:
            return
        backends = self._halt()
        for pid in (self.pid, *backends):
            send(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        # A backend that still lives holds the shared memory, and the next start would be refused.
        self._wait_until(lambda: not any(map(alive, backends)), what="killed backends did not end")

    def pause(self) -> None:
        """SIGSTOP to every process of the server: connections stay open and nothing answers."""
        backends = self._halt()
        for pid in backends:
            send(pid, signal.SIGSTOP)
        self._wait_until(lambda: all(map(halted, backends)), what="backends did not stop")

    def resume(self) -> None:
        """SIGCONT to every process of the server."""
        for pid in (*children_of(self.pid), self.pid):
            send(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End all sessions, write a checkpoint, shut down. The data stay, and `start` takes the same port."""
        if not self.running:
            return
        assert self._process is not None
        self.resume()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(READY_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(what=f"no shutdown within {READY_S_MAX:.0f} s", log=self.log()) from None

    def restart(self) -> None:
        """Stop if it runs, and start on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server without a checkpoint and remove its folder. May be called twice."""
        self.kill()
        if self._primary is not None and self._primary.running and self.folder is not None:
            # A slot that nobody reads makes the primary keep its log for ever.
            with contextlib.suppress(ServerFailed):
                self._primary.execute(f"SELECT pg_drop_replication_slot('{self._slot}')")
        if self.folder is not None:
            self._release_shared_memory()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            self.port = 0
            atexit.unregister(self.close)

    def create_database(self, name: str = "", *, template: str = "template1") -> str:
        """Make a database as a copy of `template`, to which nobody may be connected; its URL.

        Args:
            name: Lower-case letters, digits and underscores, at most 63; empty = a new name `test_1`, `test_2`, ...
            template: The database that is copied; one with the migrated tables makes a test's start cheap.
        """
        self._made += 1
        name = _checked(name or f"test_{self._made}")
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_checked(template)}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database together with its sessions; one that is not there is no error."""
        self.execute(f"DROP DATABASE IF EXISTS {_checked(name)} WITH (FORCE)")

    def execute(self, statements: str, *, database: str = "postgres") -> str:
        """Run statements with psql, each in a transaction of its own; the rows as text, columns divided by `|`."""
        words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-f", "-"]
        done = subprocess.run(
            [find_binary("psql", package="postgresql-client"), *words],
            input=statements,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(what=f"psql: {done.stderr.strip()}", log=self.log(line_count=5))
        return done.stdout.strip()

    def replica(self) -> PostgresServer:
        """Start a streaming replica of this server; it is read-only, asynchronous, and a server like any other.

        Its slot and application name are `r1`, `r2`, ...: `ALTER SYSTEM SET synchronous_standby_names = 'r1'` makes it
        synchronous. `pause_replay` makes it late by exactly what is written meanwhile.
        """
        self._replica_count += 1
        slot = f"r{self._replica_count}"
        standby = PostgresServer(settings={**self.settings, "cluster_name": slot, "hot_standby": "on"})
        standby._primary, standby._slot, standby._password = self, slot, self._password
        standby.start()
        return standby

    def pause_replay(self) -> None:
        """A replica goes on to receive and no longer shows what it gets; on return nothing new appears."""
        self.execute("SELECT pg_wal_replay_pause()")
        paused = "SELECT pg_get_wal_replay_pause_state()"
        self._wait_until(lambda: self.execute(paused) == "paused", what="the replay did not pause")

    def resume_replay(self) -> None:
        """A replica shows again what it gets."""
        self.execute("SELECT pg_wal_replay_resume()")

    def wait_replayed(self) -> None:
        """Return once a replica shows everything that its primary had committed when this was called."""
        assert self._primary is not None, "only a replica replays"
        wanted = self._primary.execute("SELECT pg_current_wal_flush_lsn()")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'"
        self._wait_until(lambda: self.execute(reached) == "t", what=f"the replica did not reach {wanted}")

    def promote(self) -> None:
        """Make a replica a primary of its own; what it had not received is lost."""
        if self.execute("SELECT pg_promote(true, 30)") != "t":
            raise ServerFailed(what="the replica was not promoted within 30 s", log=self.log())

    def require_password(self, password: str) -> None:
        """From now on a connection needs this password; `url` carries it. Letters and digits only."""
        assert password.isalnum(), "the password goes into a URL and a statement as it is"
        self.execute(f"ALTER ROLE {USER} PASSWORD '{password}'")
        (self.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        self._password = password
        self.execute("SELECT pg_reload_conf()")
        # A connection without it must be refused before we return: the reload is not instant.
        self._wait_until(lambda: _greeting(self.port) == AUTH_SASL, what="the password is still not asked for")

    def _halt(self) -> list[int]:
        """Stop the postmaster, which then neither forks nor sees its backends die, and list the backends."""
        os.kill(self.pid, signal.SIGSTOP)
        self._wait_until(lambda: halted(self.pid), what="the postmaster did not stop")
        return children_of(self.pid)

    def _fill(self) -> None:
        """Make the data folder: a copy of the template (`cp` keeps owner and mode), or of the primary."""
        if self._primary is None:
            words = ["cp", "-a", "--", str(initialised()), str(self.data)]
        else:
            source = ["-d", self._primary.url(), "-X", "stream", "-c", "fast", "--no-sync"]
            words = [find_binary("pg_basebackup"), *source, "-R", "-C", "-S", self._slot, "-D", str(self.data)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", **owner())
        if done.returncode != 0:
            raise ServerFailed(what=f"{words[0]} failed", log=done.stderr)

    def _start_on(self, port: int) -> bool:
        """Start on this port and wait; False if the port was taken. Raises ServerFailed for every other reason."""
        assert self.folder is not None
        settings = {**self.settings, "port": str(port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [find_binary("postgres"), "-D", str(self.data), *words]
        with (self.folder / "log").open("ab") as log:
            log_began = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, **owner()
            )
        until_s = time.monotonic() + READY_S_MAX
        while self.running and time.monotonic() < until_s:
            if _greeting(port) in (AUTH_OK, AUTH_SASL):
                return True
            time.sleep(LOOK_EVERY_S)
        if not self.running and b"could not bind" in (self.folder / "log").read_bytes()[log_began:] and not self.port:
            return False
        self.kill()
        raise ServerFailed(what=f"PostgreSQL did not start on port {port}", log=self.log())

    def _wait_until(self, holds: Callable[[], bool], *, what: str) -> None:
        until_s = time.monotonic() + READY_S_MAX
        while not holds():
            if time.monotonic() > until_s:
                raise ServerFailed(what=what, log=self.log())
            time.sleep(LOOK_EVERY_S)

    def _release_shared_memory(self) -> None:
        """Remove the 56 bytes of System V memory of a killed server; the kernel keeps 4,096 of them and no more."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            _, segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)  # noqa: S607


AUTH_OK, AUTH_SASL = 0, 10


def initialised() -> Path:
    """A data folder as initdb leaves it, made once per machine, version and user, and then copied."""
    version = subprocess.run([find_binary("postgres"), "-V"], capture_output=True, text=True, check=True).stdout
    number = re.sub(r"[^0-9.]+", "-", version).strip("-")
    uid = owner_uid()
    template = reachable() / f"dujiang-initdb-{number}-{uid}"
    if not template.exists():
        making = private_folder("dujiang-initdb-making-")
        data = making / "data"
        words = ["-A", "trust", "-U", USER, "--locale=C", "-E", "UTF8", "--no-instructions", "--no-sync"]
        done = subprocess.run(
            [find_binary("initdb"), "-D", str(data), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **owner(),
        )
        if done.returncode != 0:
            shutil.rmtree(making, ignore_errors=True)
            raise ServerFailed(what="initdb failed", log=done.stderr)
        # A rename onto a folder with content fails: whoever comes second uses the first one's.
        with contextlib.suppress(OSError):
            data.rename(template)
        shutil.rmtree(making, ignore_errors=True)
    found = template.lstat()
    # The name can be guessed and the folder is everybody's: what another user put there is not run.
    if found.st_uid != uid or found.st_mode & 0o077:
        raise ServerFailed(what=f"{template} belongs to somebody else, or others may write to it; remove it", log="")
    return template


def _greeting(port: int) -> int | None:
    """The authentication request that the server answers a start-up message with; None while it is not ready."""
    words = f"user\0{USER}\0database\0postgres\0\0".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as link:
            link.sendall(struct.pack("!II", 8 + len(words), 196_608) + words)
            answer = link.recv(9, socket.MSG_WAITALL)
            link.sendall(b"X\0\0\0\4")
    except OSError:
        return None
    return int.from_bytes(answer[5:9], "big") if answer[:1] == b"R" else None


def _checked(name: str) -> str:
    assert DATABASE_NAME.fullmatch(name), f"{name!r} is no plain database name"
    return name


__all__ = ["BinaryMissing", "PostgresServer", "ServerFailed", "find_binary", "free_port"]
