"""Processes: start a server of one side, wait until it answers, end it and everything that it started."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.environments import BENCH, ROOT, home
from dujiang.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "Command",
    "SideFailed",
    "free_port",
    "log_of",
    "log_tail",
    "running",
    "slug",
    "start",
    "stop",
    "uvicorn",
    "wait_answer",
]

READY_S_MAX = 30.0
STOP_S_MAX = 15.0
LOG_TAIL_LINES = 15


class SideFailed(Exception):
    """A process of a side did not start, died, or did not do its work; the message ends with its log's last lines."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """How to start a process of a side.

    Args:
        words: Program and arguments.
        env: Added to our environment.
    """

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def uvicorn(python: str, app: str, port: int, *, env: Mapping[str, str] | None = None) -> Command:
    """One uvicorn process on uvloop and httptools with its access log off: the same server for every peer."""
    words = (python, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop")
    quiet = ("--http", "httptools", "--no-access-log", "--log-level", "warning")
    return Command(words=words + quiet, env={"PYTHONPATH": str(BENCH / "peers"), **(env or {})})


@contextlib.contextmanager
def running(name: str, command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own, with its output in HOME/log/NAME.log; ended at the exit of the block."""
    process = start(name, command)
    try:
        yield process
    finally:
        stop(process)


def start(name: str, command: Command) -> subprocess.Popen[bytes]:
    """Start a process; the caller stops it."""
    with log_of(name).open("wb") as log:
        return subprocess.Popen(
            command.words,
            env={**os.environ, **command.env},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            # Not in bench/: its http.py would hide the standard library's from a process run as a file.
            cwd=ROOT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then after 15 s SIGKILL, to the process; SIGKILL to what it leaves behind in its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_answer(name: str, process: subprocess.Popen[bytes], port: int, path: str = "/") -> float:
    """Wait until the server answers `path` with anything below 500; seconds waited.

    Raises:
        SideFailed: If the process ended, or 30 s passed.
    """
    first = time.perf_counter()
    while (waited_s := time.perf_counter() - first) < READY_S_MAX:
        if process.poll() is not None:
            raise SideFailed(f"{name} ended with exit code {process.returncode}\n{log_tail(name)}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path)
            status = connection.getresponse().status
            connection.close()
            if status < 500:
                return time.perf_counter() - first
        except OSError:
            pass
        time.sleep(0.01)
    raise SideFailed(f"{name} did not answer within {waited_s:.0f} s\n{log_tail(name)}")


def log_of(name: str) -> Path:
    """The log file of a side's process."""
    folder = home() / "log"
    folder.mkdir(exist_ok=True)
    return folder / f"{slug(name)}.log"


def log_tail(name: str) -> str:
    """The log's last lines, and where the whole of it is."""
    path = log_of(name)
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join([*lines[-LOG_TAIL_LINES:], f"(log: {path})"])


def slug(name: str) -> str:
    """A name as a file or database name: lower-case letters, digits and underscores."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join(words)
