"""`dujiang` as processes of their own, and a client for them; used by tests/cli and tests/proof."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

LIMIT_S, COMMAND_S = 120.0, 30.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without its settings of Dujiang, and with these: `database="postgresql://..."`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
    return kept | {f"DUJIANG_{name.upper()}": value for name, value in settings.items()}


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        code: Its exit code; negative for a signal.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int
    out: str
    err: str


def dujiang(folder: Path, *words: str, **settings: str) -> Ended:
    """Run one command in `folder` to its end; one that does not end is killed, which its code shows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dujiang.cli", *words],
        cwd=folder,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


@dataclass(frozen=True)
class Answer:
    """An answer over the network."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Up:
    """`dujiang up` in `folder`, on a port of its own; killed at the end of the block if it still runs.

    Args:
        folder: Where it runs; its data folder is `var` in it.
        words: Further words of the command line.
        settings: Further settings, by name.
    """

    command: tuple[str, ...] = ("up",)
    says = "ready "

    def __init__(self, folder: Path, *words: str, **settings: str) -> None:
        self.folder = folder
        self.port = self._port()
        self._err = (folder / f"stderr-{self.port}.log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dujiang.cli", *self.command, *words, "--port", str(self.port)],
            cwd=folder,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=self._err,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._err.close()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def err(self) -> str:
        """What it wrote to stderr until now."""
        return Path(self._err.name).read_text()

    def ready(self) -> bool:
        """Wait for the line `ready`; False when the process ended before it. Two silent minutes fail the test."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
            raise AssertionError(f"`up` neither became ready nor ended: {self.err}")
        line = self.process.stdout.readline().decode()
        assert line in {"", f"{self.says}http://127.0.0.1:{self.port}\n"}, line
        return bool(line)

    def _port(self) -> int:
        return free_port()

    def started(self) -> Self:
        """Wait for the line `ready`."""
        assert self.ready(), self.err
        return self

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0, **headers: str) -> Answer:
        """Send one request; `body` is JSON, or bytes as they are. Header names are given with underscores."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if raw is not None:
            given.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, raw, given)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def operate(self, method: str, path: str, body: Any = None) -> Answer:
        """The same with the operator's token."""
        token = (self.folder / "var" / "operator.token").read_text().strip()
        return self.request(method, path, body, authorization=f"Bearer {token}")

    def wait(self) -> int:
        """Wait until it has ended; its exit code."""
        return self.process.wait(LIMIT_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait; its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)


class Run(Up):
    """`dujiang run ROLES` in `folder`, killed at the end of the block if it still runs.

    Args:
        folder: Where it runs.
        roles: Its roles, with commas.
        words: Further words of the command line.
        port: Its port; 0 = a free one.
        settings: Further settings, by name.
    """

    def __init__(self, folder: Path, roles: str, *words: str, port: int = 0, **settings: str) -> None:
        self.command = ("run", roles)
        self.says = f"ready {roles} "
        self._given = port
        super().__init__(folder, *words, **settings)

    def _port(self) -> int:
        return self._given or free_port()


@dataclass
class Site:
    """A folder with an application of the test's own, `site:app`, with one table made by its scripts.

    Attributes:
        folder: Where it lies.
        scripts: Its migrations, in order: the body of `upgrade` by revision.
    """

    folder: Path
    scripts: dict[str, str] = field(default_factory=dict)

    def write(self, source: str = "") -> Self:
        """Write module and scripts; `source` stands below the module's declaration."""
        package = self.folder / "scripts"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        previous = None
        for revision, body in self.scripts.items():
            (package / f"{revision}_step.py").write_text(
                f'"""Make {revision}."""\nfrom alembic import op\nrevision = {revision!r}\n'
                f"down_revision = {previous!r}\ndef upgrade():\n    {body}\n"
            )
            previous = revision
        (self.folder / "site_app.py").write_text(
            "from dujiang import App, Event, Module, Read, Tx\n"
            'desk = Module("desk", migrations="scripts")\n' + source + "\napp = App(modules=[desk])\n"
        )
        return self


APP = "site_app:app"
