"""RabbitMQ for one test session: private, real, killed at will, gone afterwards.

    epmd, our child, on a free port ◄── the node's name        beam, our child: AMQP on one free port, distribution on another
    folder: cookie and HOME, data, log                         no plugins, no system user, no system service

Four facts decided how it is written. (1) The server's script is told that it may be interactive, for then it replaces
itself by the Erlang machine: what we start is what we kill. (2) A node registers with epmd, a daemon that Erlang starts
for everybody and leaves behind; ours is started first and listens where only our node looks. (3) The name of the node is
part of its data, so it is made from the port, which stays. (4) Most of a start is reading applications: the node gets a
folder of links to the ones that it needs, and no plugin.

A start takes 6 to 10 s, so tests share one server and keep apart by the prefix in their URLs. Not promised: that a
server outlived by its parent ends. Normal exits are covered, a signal that ends the parent at once is not.
tests/conformance/test_broker_rabbit.py kills and restarts one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dujiang.testing.processes import BinaryMissing, ServerFailed, children_of, free_port, send

if TYPE_CHECKING:
    from types import TracebackType

HOME = Path("/usr/lib/rabbitmq/lib")
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
READY_S_MAX, STOP_S_MAX, LOOK_EVERY_S = 90.0, 30.0, 0.02
NEEDED = (
    *("accept", "aten", "base64url", "credentials_obfuscation", "cuttlefish", "enough", "gen_batch_server", "getopt"),
    *(
        "jsx",
        "observer_cli",
        "osiris",
        "ra",
        "rabbit",
        "rabbit_common",
        "rabbitmq_prelaunch",
        "ranch",
        "recon",
        "seshat",
    ),
    *("stdout_formatter", "syslog", "sysmon_handler", "systemd"),
)


class RabbitServer:
    """One private RabbitMQ on a loopback port, its data in a folder of its own that goes with it.

    Methods block for as long as the server takes; none needs a driver.

        with RabbitServer() as server:
            url = server.url("test1")

    Raises:
        BinaryMissing: On `start`, if RabbitMQ is not installed.
        ServerFailed: On `start`, when the server does not come up; with the end of its log.
    """

    def __init__(self) -> None:
        self.port = 0
        self.folder: Path | None = None
        self._ports: dict[str, int] = {}
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RabbitServer on {self.port}, {'running' if self.running else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def url(self, prefix: str = "dj", *, port: int = 0) -> str:
        """`amqp://guest:guest@127.0.0.1:PORT/%2F?prefix=PREFIX`; `port` of a proxy, if any."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/%2F?prefix={prefix}"

    def log(self, *, line_count: int = 30) -> str:
        """The end of the server's log."""
        if self.folder is None:
            return ""
        texts = [
            path.read_text(errors="replace")
            for path in (self.folder / "rabbit.log", self.folder / "output")
            if path.exists()
        ]
        return "\n".join("\n".join(texts).splitlines()[-line_count:])

    def start(self) -> None:
        """Start and wait until it answers. The first start makes the data folder and takes the ports."""
        if self.running:
            return
        if self.folder is None:
            if not SCRIPT.exists():
                raise BinaryMissing(name="rabbitmq-server", package="rabbitmq-server", looked_in=str(SCRIPT.parent))
            self.folder = Path(tempfile.mkdtemp(prefix="dujiang-rabbit-"))
            atexit.register(self.close)
            self._ports = {name: free_port(skip=skip) for skip, name in enumerate(("amqp", "dist", "epmd"))}
            self.port = self._ports["amqp"]
            self._fill(self.folder)
        if self._epmd is None or self._epmd.poll() is not None:
            command = ["epmd", "-port", str(self._ports["epmd"]), "-address", "127.0.0.1"]
            self._epmd = self._spawn(command, self.folder)
        self._process = self._spawn([str(SCRIPT)], self.folder)
        until_s = time.monotonic() + READY_S_MAX
        while self.running and time.monotonic() < until_s:
            if self._answers():
                return
            time.sleep(LOOK_EVERY_S)
        log = self.log()
        self.close()
        raise ServerFailed(what="RabbitMQ did not start", log=log)

    def stop(self) -> None:
        """Let it end by itself, as `systemctl stop` does: connections are closed with a reason, everything is written."""
        if self.running:
            assert self._process is not None
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S_MAX)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as when the power of its machine fails but for the disk."""
        if not self.running:
            return
        assert self._process is not None
        below = children_of(self._process.pid)
        helpers = [helper for child in below for helper in children_of(child)]
        self._process.kill()
        self._process.wait()
        for pid in (*below, *helpers):  # Resolvers and the like, which end by themselves, only later.
            send(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it on the same port and data."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End everything and remove the folder. May be called twice."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            self.port = 0
            atexit.unregister(self.close)

    def _fill(self, folder: Path) -> None:
        (folder / "applications").mkdir()
        (plugins,) = HOME.glob("rabbitmq_server-*/plugins")
        for path in plugins.iterdir():
            if path.name.rpartition("-")[0] in NEEDED:
                (folder / "applications" / path.name).symlink_to(path)
        (folder / "enabled_plugins").write_text("[].\n")
        settings = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "log.console = false",
            "disk_free_limit.absolute = 50MB",
        ]
        (folder / "rabbit.conf").write_text("\n".join(settings) + "\n")

    def _spawn(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        settings = {
            "HOME": str(folder),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"dujiang-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._ports["dist"]),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(folder / "rabbit.log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PLUGINS_DIR": str(folder / "applications"),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput +S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (folder / "output").open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env=settings,
                start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        """Whether the server speaks AMQP: it answers a version that it does not know with one that it does."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as link:
            link.sendall(b"AMQP\x00\x07\x07\x07")
            return link.recv(4) == b"AMQP"
        return False
