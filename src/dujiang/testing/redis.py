"""Redis for one test session: private, real, killed and paused at will, gone afterwards.

One process on a free loopback port, nothing written to disk, so a start after a kill is an empty server. It is asked over a
socket of our own, since tests of what a server does must not depend on the adapter that they test.
tests/unit/testing/test_redis.py kills, pauses and fills one.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dujiang.testing.processes import BinaryMissing, ServerFailed, free_port, halted, send

if TYPE_CHECKING:
    from types import TracebackType

READY_S_MAX, LOOK_EVERY_S = 30.0, 0.01


class RedisServer:
    """One private Redis on a loopback port.

    Methods block for as long as the server takes; none needs a driver.

        with RedisServer() as server:
            url = server.url("test1")

    Args:
        password: Asked for; empty = none.

    Raises:
        BinaryMissing: On `start`, if Redis is not installed.
        ServerFailed: On `start`, when the server does not come up; on `command`, when it refuses one.
    """

    def __init__(self, *, password: str = "") -> None:
        self.port = 0
        self.password = password
        self.folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer on {self.port}, {'running' if self.running else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def url(self, prefix: str = "dj", *, port: int = 0, timeout_s: float = 0.05) -> str:
        """`redis://127.0.0.1:PORT/0?prefix=PREFIX`; `port` of a proxy, if any."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{port or self.port}/0?prefix={prefix}&timeout={timeout_s}"

    def start(self) -> None:
        """Start, empty, and wait until it answers. The first start takes a port."""
        if self.running:
            return
        binary = shutil.which("redis-server")
        if binary is None:
            raise BinaryMissing(name="redis-server", package="redis-server", looked_in="PATH")
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="dujiang-redis-"))
            atexit.register(self.close)
        for attempt in range(1 if self.port else 5):
            port = self.port or free_port(skip=attempt)
            if self._start_on(binary, port, self.folder):
                self.port = port
                return
        log = self.log()
        self.close()
        raise ServerFailed(what="Redis did not start", log=log)

    def log(self, *, line_count: int = 30) -> str:
        """The end of the server's log."""
        if self.folder is None or not (self.folder / "log").exists():
            return ""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-line_count:])

    def kill(self) -> None:
        """SIGKILL; what it held is lost."""
        if self.running:
            assert self._process is not None
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        send(self._process.pid, signal.SIGSTOP)
        until_s = time.monotonic() + READY_S_MAX
        while not halted(self._process.pid) and time.monotonic() < until_s:
            time.sleep(LOOK_EVERY_S)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        send(self._process.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it on the same port, empty."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it and remove the folder. May be called twice."""
        self.kill()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            atexit.unregister(self.close)

    def command(self, *words: str) -> str:
        """Run one command; its reply as text, the elements of a list in lines. Raises ServerFailed for a refusal."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=READY_S_MAX) as link,
            link.makefile("rb") as said,
        ):
            if self.password:
                link.sendall(packed("AUTH", self.password))
                said.readline()
            link.sendall(packed(*words))
            return reply_of(said)

    def _start_on(self, binary: str, port: int, folder: Path) -> bool:
        """Start on this port and wait; False if it ended, as it does where the port is taken."""
        settings = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(folder),
        ]
        settings += ["--requirepass", self.password] if self.password else []
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.port, before = port, self.port
        until_s = time.monotonic() + READY_S_MAX
        while self.running and time.monotonic() < until_s:
            with contextlib.suppress(OSError, ServerFailed):
                if self.command("INFO", "server") and f"process_id:{self._process.pid}" in self.command(
                    "INFO", "server"
                ):
                    return True
            time.sleep(LOOK_EVERY_S)
        self.kill()
        self.port = before
        return False


def packed(*words: str) -> bytes:
    """A command as Redis reads it."""
    raw = [word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


def reply_of(said: object) -> str:
    """Read one reply."""
    line: bytes = said.readline()  # type: ignore[attr-defined]
    kind, rest = line[:1], line[1:].strip().decode()
    if kind == b"-":
        raise ServerFailed(what=f"Redis: {rest}", log="")
    if kind == b"$":
        if int(rest) < 0:
            return ""
        return bytes(said.read(int(rest) + 2))[:-2].decode(errors="replace")  # type: ignore[attr-defined]
    if kind == b"*":
        return "\n".join(reply_of(said) for _ in range(int(rest)))
    return rest
