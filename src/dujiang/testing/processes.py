"""Processes: what private servers need of the machine: programs, folders, ports, and the processes below a process.

A port lies below the range that the kernel hands to clients: a client that keeps asking a dead port inside that range
ends up connected to itself, and the port is then never free. Folders for a server that may not run as root belong to
the user of its package. tests/unit/testing/test_servers.py holds what is promised.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    import signal

PORT_FIRST, PORT_COUNT = 15_000, 15_000
DEBIAN_BINARIES = Path("/usr/lib/postgresql")


@dataclass(eq=False, kw_only=True)
class BinaryMissing(DujiangError):
    """A program that a private server needs is not installed."""

    code = "binary_missing"
    move = "fix"
    says = "{name} was found neither on PATH nor in {looked_in}"
    cure = "apt-get install --no-install-recommends {package}"

    name: str
    package: str
    looked_in: str


@dataclass(eq=False, kw_only=True)
class ServerFailed(DujiangError):
    """A private server did not do what it was told; the end of its log says why."""

    code = "server_failed"
    move = "fix"
    says = "{what}\n{log}"
    cure = "read the log above; a full disk and a low limit of processes are the usual reasons"

    what: str
    log: str


def find_binary(name: str, *, package: str = "postgresql") -> str:
    """The path of a PostgreSQL program: Debian's newest version first, then PATH.

    Debian's folder comes first because its `psql` on PATH is a slow wrapper, and because initdb and postgres must be of
    one version. Raises BinaryMissing with the line that installs it.
    """
    versions = [path for path in DEBIAN_BINARIES.glob("*/bin") if path.parent.name.isdigit()]
    for folder in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise BinaryMissing(name=name, package=package, looked_in=f"{DEBIAN_BINARIES}/*/bin")
    return found


def private_folder(prefix: str) -> Path:
    """A new folder that only the server's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=reachable()))
    if os.geteuid() == 0:
        os.chown(folder, owner_uid(), -1)
    return folder


def owner() -> dict[str, Any]:
    """Arguments of Popen: PostgreSQL refuses to run as root, so for root it runs as the user of its package."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def free_port(*, skip: int = 0) -> int:
    """A loopback port that nobody listens on and that the kernel gives to no client.

    Args:
        skip: How many free ports to pass over. The search begins at a place that follows from the process id.
    """
    for step in range(PORT_COUNT):
        port = PORT_FIRST + (os.getpid() * 37 + step) % PORT_COUNT
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if skip == 0:
                return port
            skip -= 1
    raise ServerFailed(what=f"every port from {PORT_FIRST} on is taken", log="")


def children_of(pid: int) -> list[int]:
    """The process ids whose parent is `pid`; read from /proc, or from `ps` where there is none."""
    if not Path("/proc/self/stat").exists():
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
        rows = [line.split() for line in table.stdout.splitlines()]
        return [int(child) for child, parent in rows if int(parent) == pid]
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _stat(int(path.name))[1] == pid]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    if Path("/proc/self/stat").exists():
        return _stat(pid)[0] not in ("", "Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def halted(pid: int) -> bool:
    """Whether a process stands still or has ended: SIGSTOP takes effect some time after it was sent."""
    return not Path("/proc/self/stat").exists() or _stat(pid)[0] in ("T", "t", "Z", "X", "")


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; empty and 0 when it is gone."""
    try:
        # The name in brackets may hold anything, a bracket too: what counts stands behind the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def owner_uid() -> int:
    """The user that the server runs as."""
    return pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else os.geteuid()


def reachable() -> Path:
    """Where folders are made; for root /var/tmp, since a TMPDIR in root's home is closed to the server's user."""
    return Path("/var/tmp") if os.geteuid() == 0 else Path(tempfile.gettempdir())  # noqa: S108 - private below


__all__ = [
    "BinaryMissing",
    "ServerFailed",
    "alive",
    "children_of",
    "find_binary",
    "free_port",
    "halted",
    "owner",
    "owner_uid",
    "private_folder",
    "reachable",
    "send",
]
