"""Serve: one process that answers, from the bound socket to the last drained request.

    runtime started (schema in order) -> server accepts -> own /health/ready says 200 -> "ready http://..."
    signal -> server takes no more, lets requests end (grace) -> runtime stopped -> exit

The order of the end is the order of the beginning turned round: requests in flight still need the database. The line
`ready` is printed after the process has asked itself over its own socket, so whoever waits for it may send at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from dujiang.app import Runtime
from dujiang.cli.listen import url_of
from dujiang.cli.marks import drop_address, keep_address, keep_token
from dujiang.cli.output import coloured, flush, say
from dujiang.cli.stopping import Stopping
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks
from dujiang.telemetry import log

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterator

    from dujiang.app import App
    from dujiang.settings import Settings

# What these say below a warning is about themselves.
TALKATIVE = ("alembic", "uvicorn.error")
READY_LIMIT_S = 30.0
READY_PAUSE_S = 0.02
READY_BYTE = b"r"


@dataclass(eq=False, kw_only=True)
class NotReady(DujiangError):
    """The server started and did not become ready."""

    code = "not_ready"
    move = "wait"
    says = "{url}/health/ready did not answer 200 within {waited_s:.0f} s; its last answer: {answer}"

    url: str
    waited_s: float
    answer: str


class Server(uvicorn.Server):
    """uvicorn without its own signal handling, and with an event for "accepts connections"."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepts = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to `Stopping`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept."""
        await super().startup(sockets=sockets)
        self.accepts.set()


class Parent:
    """The pipe to the supervisor: a byte to it says ready, its end says that the supervisor is gone."""

    def __init__(self, pipe: socket.socket, stopping: Stopping) -> None:
        self._pipe = pipe
        self._stopping = stopping
        pipe.settimeout(0.0)
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._hear)

    def say_ready(self) -> None:
        """Tell the supervisor."""
        with contextlib.suppress(OSError):
            self._pipe.send(READY_BYTE)

    def close(self) -> None:
        """Let the pipe go."""
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._pipe.close()

    def _hear(self) -> None:
        try:
            gone = self._pipe.recv(1) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._stopping.ask()


def run_server(app: App, settings: Settings, listener: socket.socket, pipe: socket.socket | None) -> int:
    """Serve until a signal, on the fastest loop that is installed; the exit code."""
    log.configure(settings.log_level, settings.log_format)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(app, settings, listener, pipe))


def loop_factory() -> Any:
    """The loop of uvloop, or asyncio's own where uvloop does not exist."""
    try:
        import uvloop  # noqa: PLC0415  (not on every platform)
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(app: App, settings: Settings, listener: socket.socket, pipe: socket.socket | None) -> int:
    """Serve until a signal or until the supervisor is gone; the exit code."""
    node = Node.system(settings.instance or None)
    stopping = Stopping()
    stopping.listen()
    parent = Parent(pipe, stopping) if pipe is not None else None
    tasks = Tasks("up", on_crash=lambda _name, _error: None)  # Every error is raised where the task is awaited.
    if parent is None:
        keep_token(settings.data, node.entropy)
    runtime = Runtime(app, settings, node)
    try:
        if await begun(tasks, stopping, runtime.start()):
            await answer(runtime, node, settings, listener, tasks, stopping, parent)
    finally:
        await runtime.stop()
        await tasks.close()
        drop_address(settings.data, pid=os.getpid())
        if parent is not None:
            parent.close()
    return stopping.exit_code


async def begun(tasks: Tasks, stopping: Stopping, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work to its end, or cancel it when a signal comes first; whether it came to its end."""
    task = tasks.spawn(work, name="start")
    asked = tasks.spawn(stopping.asked.wait(), name="asked")
    await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        return False
    task.result()
    return True


async def answer(  # noqa: PLR0917  (called once; it is the middle of `serve`)
    runtime: Runtime,
    node: Node,
    settings: Settings,
    listener: socket.socket,
    tasks: Tasks,
    stopping: Stopping,
    parent: Parent | None,
) -> None:
    """Answer requests until a signal; return when the last one has ended."""
    server = Server(server_config(runtime, settings))
    serving = tasks.spawn(server.serve(sockets=[listener]), name="server")
    try:
        if await begun(tasks, stopping, become_ready(server, node, settings, listener)):
            if parent is not None:
                parent.say_ready()
            else:
                keep_address(settings.data, host=listener.getsockname()[0], port=settings.port, pid=os.getpid())
                announce(settings)
            asked = tasks.spawn(stopping.asked.wait(), name="asked")
            await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await serving


def server_config(runtime: Runtime, settings: Settings) -> uvicorn.Config:
    """The settings of uvicorn. The client's word about itself (X-Forwarded-*) counts for nothing."""
    return uvicorn.Config(
        runtime.asgi,
        interface="asgi3",
        http="httptools",
        ws="none",
        lifespan="off",  # The runtime is started and stopped here, around the server.
        log_config=None,
        access_log=settings.access_log,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.grace_s),
    )


async def become_ready(server: Server, node: Node, settings: Settings, listener: socket.socket) -> None:
    """Return when the server answers on its own socket that it is ready. Raises NotReady."""
    await server.accepts.wait()
    host, port = listener.getsockname()[:2]
    clock = node.clock
    begun_at = clock.monotonic()
    while True:
        status = await asked_status(host, port)
        if status == "200":
            return
        waited_s = clock.monotonic() - begun_at
        if waited_s > READY_LIMIT_S:
            raise NotReady(url=url_of(settings.host, settings.port), waited_s=waited_s, answer=status)
        await clock.sleep(READY_PAUSE_S)


async def asked_status(host: str, port: int) -> str:
    """The status of GET /health/ready over the network, or why there is none."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                # The guard accepts the names of `allowed_hosts`; loopback names stand in its default.
                writer.write(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                head = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as cause:
        return str(cause) or type(cause).__name__
    parts = head.split()
    return parts[1].decode("ascii", "replace") if len(parts) > 1 else "nothing"


def announce(settings: Settings) -> None:
    """Say that the server is ready: one stable line for programs, a few for people."""
    url = url_of(settings.host, settings.port)
    say(f"ready {url}")
    if coloured(sys.stdout):
        say(f"  routes      {url}/docs")
        say(f"  operations  {url}/_dj/  (token in {settings.data / 'operator.token'})")
        say("  Ctrl-C stops it; what runs is let to its end")
    flush()
