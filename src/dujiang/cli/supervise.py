"""Supervise: several workers on one socket, or one that starts again when a file changes.

    supervisor  binds the socket, owns DATA/up.json, serves nothing itself
      worker 1..n  accept on the inherited socket; a pipe carries "ready" up and "the supervisor lives" down

A worker that dies is started again under the same instance name, so that it ends the dead one's lease at once. One that
keeps dying is started again after a growing random pause. Before the first `ready` a death ends everything with the
worker's exit code: a wrong setting must not become a loop. Workers have process groups of their own: a terminal's
Ctrl-C reaches the supervisor alone, and one signal stays one signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.cli.exits import INTERNAL
from dujiang.cli.marks import drop_address, keep_address, keep_token
from dujiang.cli.output import say_aside
from dujiang.cli.stopping import Stopping
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dujiang.settings import Settings

BACKOFF_BASE_S, BACKOFF_CAP_S = 0.1, 5.0
KILL_AFTER_S = 5.0
LOOK_EVERY_S = 0.5
SKIPPED_FOLDERS = {"__pycache__", "node_modules", "venv"}


@dataclass
class Worker:
    """One child.

    Attributes:
        slot: Its number, from 1; part of its instance name.
        process: The running child.
        was_ready: Whether this child has said ready.
        deaths: Deaths in a row without a ready between them.
    """

    slot: int
    process: asyncio.subprocess.Process | None = None
    was_ready: bool = False
    deaths: int = 0


@dataclass
class Supervisor:
    """Keeps workers alive until it is told to stop.

    Args:
        command: The command line of a worker for a slot, given the file descriptors of socket and pipe.
        settings: The settings.
        listener: The bound socket.
        count: Workers.
        reload: Watch the folder and start the worker again when a file changes; then a death waits for a change.
        folder: The folder that is watched.
        ready: Called once, when every worker has said ready.
    """

    command: Callable[[int, int, int], list[str]]
    settings: Settings
    listener: socket.socket
    count: int
    reload: bool
    folder: Path
    ready: Callable[[], None]
    node: Node = field(default_factory=lambda: Node.system("supervisor"))
    workers: list[Worker] = field(default_factory=list)
    failed: int | None = None
    announced: bool = False
    stopping: Stopping = field(init=False)
    changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Asked twice, the children go too."""
        self.stopping = Stopping(at_once=self.kill)

    async def run(self) -> int:
        """Supervise until a signal; the exit code."""
        self.stopping.listen()
        keep_token(self.settings.data, self.node.entropy)
        self.workers = [Worker(slot) for slot in range(1, self.count + 1)]
        tasks = Tasks("supervisor")
        try:
            keepers = [tasks.spawn(self.keep(worker), name=f"worker-{worker.slot}") for worker in self.workers]
            if self.reload:
                tasks.spawn(self.watch(), name="watch")
            await self.stopping.asked.wait()
            await self.stop(keepers)
        finally:
            self.kill()
            await tasks.close()
            drop_address(self.settings.data, pid=os.getpid())
        return self.stopping.exit_code if self.failed is None else self.failed

    async def keep(self, worker: Worker) -> None:
        """Start the worker, again and again, until the supervisor stops."""
        while not self.stopping.asked.is_set():
            code = await self.live(worker)
            if self.stopping.asked.is_set():
                return None
            if self.reload:
                if not self.changed.is_set():
                    say_aside(f"stopped with {ending(code)}; waiting for a change")
                await self.changed.wait()
                self.changed.clear()
                continue
            if not self.announced:
                self.failed = code if code > 0 else INTERNAL
                return self.stopping.ask()
            worker.deaths = 0 if worker.was_ready else worker.deaths + 1
            pause_s = self.node.entropy.uniform(0.0, min(BACKOFF_BASE_S * 2.0 ** min(worker.deaths, 30), BACKOFF_CAP_S))
            say_aside(f"worker {worker.slot} ended with {ending(code)}; starting it again in {pause_s:.1f} s")
            await self.node.clock.sleep(pause_s)
        return None

    async def live(self, worker: Worker) -> int:
        """One life of a worker: its exit code, negative for a signal."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0.0)
        worker.was_ready = False
        try:
            worker.process = await asyncio.create_subprocess_exec(
                *self.command(worker.slot, self.listener.fileno(), theirs.fileno()),
                pass_fds=(self.listener.fileno(), theirs.fileno()),
                start_new_session=True,
            )
            theirs.close()
            if await asyncio.get_running_loop().sock_recv(ours, 1):
                worker.was_ready = True
                self.heard_ready()
            return await worker.process.wait()
        except ConnectionError:
            assert worker.process is not None
            return await worker.process.wait()
        finally:
            ours.close()
            theirs.close()

    def heard_ready(self) -> None:
        """When the last worker has said ready, tell whoever waits."""
        if not self.announced and all(worker.was_ready for worker in self.workers):
            self.announced = True
            host, port = self.listener.getsockname()[:2]
            keep_address(self.settings.data, host=host, port=port, pid=os.getpid())
            self.ready()

    async def stop(self, keepers: list[asyncio.Task[None]]) -> None:
        """Ask every worker to stop and wait as long as their grace allows."""
        self.send(signal.SIGTERM)
        await asyncio.wait(keepers, timeout=self.settings.grace_s + KILL_AFTER_S)

    def kill(self) -> None:
        """End every worker that still runs, at once."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to each running worker."""
        for worker in self.workers:
            if worker.process is not None and worker.process.returncode is None:
                worker.process.send_signal(number)

    async def watch(self) -> None:
        """Look for changed Python files, and stop the worker when there are some; `keep` starts it again."""
        known = stamps(self.folder)
        while True:
            await self.node.clock.sleep(LOOK_EVERY_S)
            seen = stamps(self.folder)
            if seen != known:
                differing = sorted(str(path) for path, _ in seen.items() ^ known.items())
                say_aside(f"{differing[0]} changed; starting again")
                known = seen
                self.changed.set()
                self.send(signal.SIGTERM)


def stamps(folder: Path) -> dict[str, int]:
    """The Python files below a folder, and dujiang.toml, with the times of their last change."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS]
        for name in files:
            if name.endswith(".py") or name == "dujiang.toml":
                path = os.path.join(place, name)  # noqa: PTH118  (a large tree is walked twice a second)
                try:
                    found[path] = os.stat(path).st_mtime_ns  # noqa: PTH116
                except OSError:
                    continue  # Removed between the listing and the look.
    return found


def ending(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def worker_command(app: str, flags: list[str], settings: Settings) -> Callable[[int, int, int], list[str]]:
    """The command line of a worker, for Supervisor."""
    stem = settings.instance or f"{socket.gethostname()[:40]}-{os.getpid()}"  # A name has 64 letters at most.

    def command(slot: int, listener: int, pipe: int) -> list[str]:
        child = ["--child", f"{listener},{pipe}", "--instance", f"{stem}-{slot}"]
        return [sys.executable, "-m", "dujiang.cli", "up", app, *flags, *child]

    return command
