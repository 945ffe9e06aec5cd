"""Listen: the server's socket, bound before anything else starts, with the mistakes told apart."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from dujiang.cli.exits import UNAVAILABLE
from dujiang.kernel.errors import DujiangError

BACKLOG = 2048
LISTENING = "0A"


@dataclass(eq=False, kw_only=True)
class HostRefused(DujiangError):
    """The address is not a loopback address."""

    code = "host_refused"
    move = "fix"
    says = "{host} can be reached from other machines, and until identity exists nobody is asked who they are"
    cure = "listen on 127.0.0.1 and put a proxy that authenticates before it"

    host: str


@dataclass(eq=False, kw_only=True)
class PortInUse(DujiangError):
    """Another process already listens on the port."""

    code = "port_in_use"
    move = "fix"
    exit_code = UNAVAILABLE
    says = "port {port} on {host} is taken by {owner}"
    cure = "stop that process, or choose another port with --port or DUJIANG_PORT"

    host: str
    port: int
    owner: str


@dataclass(eq=False, kw_only=True)
class PortRefused(DujiangError):
    """The operating system does not let this process listen there."""

    code = "port_refused"
    move = "fix"
    says = "cannot listen on {host}:{port}: {why}"
    cure = "choose a port from 1024 on with --port, and an address of this machine with --host"

    host: str
    port: int
    why: str


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to a loopback address, not yet listening.

    Raises:
        HostRefused, PortInUse, PortRefused: With the cure.
    """
    if not is_loopback(host):
        raise HostRefused(host=host)
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        # Listening now makes a second start fail here, and not after it has opened the store.
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise refusal_of(cause, host, port) from cause
    listener.settimeout(0.0)
    return listener


def refusal_of(cause: OSError, host: str, port: int) -> PortInUse | PortRefused:
    """What the operating system's refusal means."""
    if cause.errno == errno.EADDRINUSE:
        return PortInUse(host=host, port=port, owner=owner_of(port))
    return PortRefused(host=host, port=port, why=cause.strerror or str(cause))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """The URL of the server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def owner_of(port: int) -> str:
    """The process that listens on a port, as far as the operating system shows it."""
    inodes = listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        if inodes & open_files(process):
            name = (process / "comm").read_text().strip() if (process / "comm").exists() else "?"
            return f"process {process.name} ({name})"
    return "another process"


def open_files(process: Path) -> set[str]:
    """What a process has open, as /proc names it; without what it closes meanwhile, empty for another user's."""
    found = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


def listening_inodes(port: int) -> set[str]:
    """The sockets that listen on a port, as /proc names them; empty where there is no /proc."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return found
