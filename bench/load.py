"""Load: `wrk` for the timed part, a small client that checks every answer for the part before it.

`wrk` is an outside program, so no side shares an interpreter with the load; it counts answers, not what is in them.
That they are right, that a repeated key gives the same bytes, that bad input is refused, is asked one request at a
time by `Client` before the clock starts, and what really was written is counted in the database after it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.environments import BENCH, tool
from bench.processes import SideFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS = 64
LATE_S = 10  # An answer that comes later counts as failed.


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. Latencies in microseconds."""

    requests: int
    us: int
    p50_us: int
    p99_us: int
    max_us: int
    bad_status: int
    socket_errors: int

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return self.requests * 1e6 / self.us

    @property
    def good(self) -> bool:
        """Whether every answer was below 400 and came within 10 s, on a connection that held."""
        return self.bad_status == 0 and self.socket_errors == 0


def wrk(port: int, case: str, *, for_s: float, first: int = 0) -> Load:
    """Drive a server with 64 connections from one thread for `for_s` seconds (wrk takes whole ones).

    Args:
        port: Of 127.0.0.1.
        case: "order" (with a new key each), "plain" (without), "echo", "hot", "cold"; see load/load.lua.
        first: Where the products of "cold" begin.
        for_s: Seconds, rounded, at least 1.
    """
    program = tool("wrk", package="wrk")
    seconds = max(1, round(for_s))
    done = subprocess.run(
        [
            program,
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "--timeout",
            f"{LATE_S}s",
            "-s",
            str(BENCH / "load" / "load.lua"),
            _url(port),
        ],
        env={**os.environ, "BENCH_CASE": case, "BENCH_RUN": secrets.token_hex(8), "BENCH_FIRST": str(first)},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise SideFailed(f"wrk gave no result: {done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Answer:
    """Status, body and headers (names in lower case) of one answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Client:
    """Asks one request at a time on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Answer:
        """Send a request; `body` becomes JSON, bytes go as they are."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            self._connection.request(method, path, body=content, headers=headers)
            answer = self._connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, answer.read(), names)
        except (OSError, http.client.HTTPException):
            self._connection.close()  # The next request opens it again.
            raise

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.close()


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"
