"""Claim: a validated JSON echo. What a platform costs per request when there is no database.

    ours       an operation of ours, through guard, route, validation and serialisation      goal against FastAPI
    peers      FastAPI (Pydantic), Litestar (msgspec)
    limit      a bare ASGI callable with msgspec

All on one uvicorn process with uvloop and httptools, 64 connections. The body has three fields, is read strictly and is
written again as JSON; a bad one gets an answer of 400 or 422, which is checked.

    python -m bench.http
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # Run as a file: this folder's `http.py` must not hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.environments import python_of
from bench.load import Client, wrk
from bench.ours.echo import serve
from bench.processes import free_port, running, uvicorn, wait_answer
from bench.runner import Claim, Measured, Side, main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.processes import Command
    from bench.runner import Checks, Options

WARM_S = 1.0
BODY = {"sku": "SKU-000123", "quantity": 3, "note": "please gift wrap"}
BAD_BODIES: tuple[object, ...] = (
    BODY | {"quantity": 0},
    BODY | {"unknown": 1},
    {"quantity": 3},
    b'{"sku":',
)


@dataclass(frozen=True, kw_only=True)
class EchoServer:
    """One server."""

    name: str
    serve: Callable[[int], Command]
    seconds: float

    def turn(self, checks: Checks) -> list[Measured]:
        """Start, check, warm, measure, stop."""
        port = free_port()
        with running(self.name, self.serve(port)) as process:
            wait_answer(self.name, process, port, "/health/ready")
            client = Client(port)
            echoed = client.ask("POST", "/echo", BODY)
            checks.state(f"{self.name}: echoes a good body", (echoed.status, echoed.json()) == (200, BODY), echoed.body)
            refused = [client.ask("POST", "/echo", bad).status for bad in BAD_BODIES]
            checks.state(f"{self.name}: refuses bad bodies", set(refused) <= {400, 422}, refused)
            client.close()
            wrk(port, "echo", for_s=WARM_S)
            load = wrk(port, "echo", for_s=self.seconds)
        checks.state(f"{self.name}: no failed answer in the timed part", load.good, load)
        return [Measured(self.name, "req/s", load.per_s), Measured(f"{self.name}: P99", "ms", load.p99_us / 1000)]


def peer(app: str, environment: str, port: int) -> Command:
    """A peer's server."""
    return uvicorn(python_of(environment), f"{app}:app", port)


@contextlib.contextmanager
def opened(options: Options) -> Iterator[list[Side]]:
    """Every side."""
    made = partial(EchoServer, seconds=options.seconds)
    servers = [
        made(name="dujiang", serve=serve),
        made(name="FastAPI", serve=partial(peer, "echo_fastapi", "web")),
        made(name="Litestar", serve=partial(peer, "echo_litestar", "litestar")),
        made(name="bare ASGI + msgspec", serve=partial(peer, "echo_asgi", "web")),
    ]
    yield [Side(each.name, each.turn) for each in servers]


CLAIM = Claim(
    name="http", says="a validated JSON echo, one server process, 64 connections", opened=opened, rounds=7, seconds=3.0
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
