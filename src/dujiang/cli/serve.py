"""Serve: one process that works, from its bound socket to the last drained request; `up` and `run` are both this.

    runtime started (schema in order) -> server accepts -> own /health/ready says 200 -> "ready http://..."
    signal -> not ready, nothing claimed | answers say `Connection: close` -> server takes no more -> requests end -> exit
              what runs ends or goes back |

The two lines of the end go on at once, and the grace is one for both: requests in flight still need the database, so
the runtime is stopped when both are through. The line `ready` is printed after the process has asked itself over its own
socket, so whoever waits for it may send at once. A process without a port asks its runtime.

A process beside which others answer hands over: for a moment it goes on to take connections while its health says "not
ready" and each answer ends its connection, so that balancers and clients with idle connections learn it before a request
is lost to it. Where nobody else answers that moment would only be a longer stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.app import Runtime
from dujiang.app.roles import ROLES
from dujiang.cli.listen import url_of
from dujiang.cli.marks import drop_address, keep_address, keep_token
from dujiang.cli.output import coloured, flush, say
from dujiang.cli.server import Server, server_config
from dujiang.cli.stopping import Stopping
from dujiang.kernel.codec import raise_warnings
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks
from dujiang.telemetry import log

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Coroutine

    from dujiang.app import App
    from dujiang.settings import Settings

# What these say below a warning is about themselves.
TALKATIVE = ("alembic", "uvicorn.error")
READY_LIMIT_S = 30.0
READY_PAUSE_S = 0.02
READY_BYTE = b"r"
LINGER_S = 1.0


@dataclass(eq=False, kw_only=True)
class NotReady(DujiangError):
    """The server started and did not become ready."""

    code = "not_ready"
    move = "wait"
    says = "/health/ready of this process did not answer 200 within {waited_s:.0f} s; its last answer: {answer}"

    waited_s: float
    answer: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process is to do.

    Attributes:
        app: The application.
        settings: Its settings.
        announce: Says that it is ready, once it is; a worker of a supervisor tells that one instead.
        roles: What of the application it does.
        listener: The socket on which it answers; None = it answers nobody.
        pipe: To its supervisor; None = it has none.
        hands_over: Others answer beside it, so it lets them take over before it refuses connections.
        marks: It leaves its address in the data folder, for the operator's commands.
    """

    app: App
    settings: Settings
    announce: Callable[[], None]
    roles: Collection[str] = ROLES
    listener: socket.socket | None
    pipe: socket.socket | None = None
    hands_over: bool = False
    marks: bool = True

    @property
    def linger_s(self) -> float:
        """Seconds for which it goes on to take connections after the signal."""
        return min(LINGER_S, self.settings.grace_s / 4) if self.hands_over else 0.0


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


def run_job(job: Job) -> int:
    """Work until a signal, on the fastest loop that is installed; the exit code."""
    raise_warnings()
    log.configure(job.settings.log_level, job.settings.log_format)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(job))


def loop_factory() -> Any:
    """The loop of uvloop, or asyncio's own where uvloop does not exist."""
    try:
        import uvloop  # noqa: PLC0415  (not on every platform)
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(job: Job) -> int:
    """Work until a signal or until the supervisor is gone; the exit code."""
    settings = job.settings
    node = Node.system(settings.instance or None)
    stopping = Stopping()
    stopping.listen()
    parent = Parent(job.pipe, stopping) if job.pipe is not None else None
    tasks = Tasks("up", on_crash=lambda _name, _error: None)  # Every error is raised where the task is awaited.
    if parent is None and job.listener is not None:
        keep_token(settings.data, node.entropy)
    runtime = Runtime(job.app, settings, node, roles=job.roles)
    try:
        if await begun(tasks, stopping, runtime.start()):
            await work(job, runtime, node, tasks, stopping, parent)
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


async def work(job: Job, runtime: Runtime, node: Node, tasks: Tasks, stopping: Stopping, parent: Parent | None) -> None:
    """Answer and work until a signal; return when the last request has ended and nothing is left in hand."""
    server, serving = None, None
    if job.listener is not None:
        server = Server(server_config(runtime.asgi, job.settings, grace_s=job.settings.grace_s - job.linger_s))
        serving = tasks.spawn(server.serve(sockets=[job.listener]), name="server")
    try:
        if await begun(tasks, stopping, become_ready(job, runtime, node, server)):
            # What is loaded by now stays. A collector that looks through all of it holds up every request for 0.2 s.
            gc.freeze()
            if parent is not None:
                parent.say_ready()
            else:
                if job.marks and job.listener is not None:
                    host, port = job.listener.getsockname()[:2]
                    keep_address(job.settings.data, host=host, port=port, pid=os.getpid())
                job.announce()
            asked = tasks.spawn(stopping.asked.wait(), name="asked")
            await asyncio.wait(
                {asked, serving} if serving is not None else {asked}, return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        draining = tasks.spawn(runtime.drain(), name="drain")
        if server is not None and serving is not None:
            server.say_goodbye()
            if job.linger_s:
                await asyncio.wait({serving}, timeout=job.linger_s)
            server.should_exit = True
            await asyncio.wait({serving, draining})
            serving.result()
        await draining


async def become_ready(job: Job, runtime: Runtime, node: Node, server: Server | None) -> None:
    """Return when the process answers on its own socket that it is ready, or is ready without one. Raises NotReady."""
    if server is not None:
        await server.accepts.wait()
    clock = node.clock
    begun_at = clock.monotonic()
    while True:
        status = await own_status(job, runtime)
        if status == "200":
            return
        waited_s = clock.monotonic() - begun_at
        if waited_s > READY_LIMIT_S:
            raise NotReady(waited_s=waited_s, answer=status)
        await clock.sleep(READY_PAUSE_S)


async def own_status(job: Job, runtime: Runtime) -> str:
    """The status of this process's own /health/ready, or why there is none."""
    if job.listener is not None:
        return await asked_status(*job.listener.getsockname()[:2])
    ready, report = await runtime.health.ready()
    return "200" if ready else f"503 {report}"


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
