r"""Listen: waking other processes through the server, as an optimisation only.

    notify("a") notify("b") notify("a")  ->  one NOTIFY dujiang, 'a\nb'  ->  hear("a") hear("b") in every other process

Both directions share one connection in autocommit, outside every business transaction, because NOTIFY takes a lock
over the whole database when its transaction commits. Names are gathered for 50 ms, so at most 20 NOTIFYs a second
leave a process, however many commits there are. A notice may get lost (the connection may just be away), so every
listener polls as well.

The first notice after a quiet time leaves at once; the pause comes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import asyncpg

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.link import Link
    from dujiang.kernel.node import Node
    from dujiang.kernel.tasks import Tasks

logger = logging.getLogger("dujiang.postgres")

NOTIFY = Sql("listen_notify", "SELECT pg_notify('dujiang', $1)", "Wakes the other processes.")
ALIVE = Sql("listen_alive", "SELECT 1", "Finds out whether the connection still works.")

CHANNEL = "dujiang"
PAUSE_S = 0.05
# A connection that only listens would never notice that its server is gone.
ALIVE_S = 30.0
ANSWER_S = 5.0
BACKOFF_S, BACKOFF_S_MAX = 0.1, 10.0
# The server takes payloads below 8,000 bytes.
PAYLOAD_BYTES_MAX = 7_900
NAMES_MAX = 10_000

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Bell:
    """Sends and hears notices on one connection that mends itself.

    Args:
        connect: Makes a link that is in no pool.
        node: For time and chance.
        tasks: Owns the one task.
    """

    def __init__(self, connect: Callable[[], Awaitable[Link]], node: Node, tasks: Tasks) -> None:
        self._connect = connect
        self._node = node
        self._tasks = tasks
        self._hearers: list[Callable[[str], None]] = []
        self._names: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Bell {len(self._hearers)} hearers, {len(self._names)} names to send>"

    def hear(self, call: Callable[[str], None]) -> None:
        """Call `call` with each name that another process sends. Before `start`."""
        self._hearers.append(call)

    def start(self) -> None:
        """Listen, if anybody wants to hear; otherwise the connection is made for the first notice."""
        if self._hearers:
            self._run()

    def ring(self, name: str) -> None:
        """Send a name soon. Names beyond a bound, and names too long, are dropped: a notice may get lost."""
        if len(self._names) < NAMES_MAX and len(name.encode()) <= PAYLOAD_BYTES_MAX:
            self._names[name] = None
            self._wake.set()
            self._run()

    async def stop(self) -> None:
        """End the task and its connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _run(self) -> None:
        if self._task is None:
            self._task = self._tasks.spawn(self._serve(), name="bell")

    async def _serve(self) -> None:
        ceiling_s = BACKOFF_S
        while True:
            try:
                link = await self._connect()
                try:
                    ceiling_s = BACKOFF_S
                    await self._work(link)
                finally:
                    await link.close()
            except (*DRIVER_ERRORS, DujiangError) as error:
                logger.info("the wake-up connection is away: %s", error)
            await self._node.clock.sleep(self._node.entropy.uniform(0, ceiling_s))
            ceiling_s = min(ceiling_s * 2, BACKOFF_S_MAX)

    async def _work(self, link: Link) -> None:
        """Send and hear until the connection breaks."""
        driver = link.driver
        driver.add_termination_listener(lambda _: self._wake.set())
        if self._hearers:
            await driver.add_listener(CHANNEL, self._heard)
        while not driver.is_closed():
            try:
                async with asyncio.timeout(ALIVE_S):
                    await self._wake.wait()
            except TimeoutError:
                await (await link.prepare(ALIVE.text, ANSWER_S)).fetch(timeout=ANSWER_S)
                continue
            self._wake.clear()
            if self._names and not driver.is_closed():
                await self._send(link)
                await self._node.clock.sleep(PAUSE_S)

    async def _send(self, link: Link) -> None:
        names = list(self._names)
        self._names.clear()
        statement = await link.prepare(NOTIFY.text, ANSWER_S)
        for payload in payloads(names):
            await statement.fetch(payload, timeout=ANSWER_S)

    def _heard(self, driver: Any, pid: int, _channel: str, payload: str) -> None:
        if pid == driver.get_server_pid():
            return  # Our own notice comes back to us.
        for name in payload.split("\n"):
            for call in self._hearers:
                try:
                    call(name)
                except Exception:
                    logger.exception("a hearer of notices failed on %r", name)


def payloads(names: list[str]) -> list[str]:
    """The names joined by line ends, in as few payloads as the server's limit allows."""
    joined: list[str] = []
    for name in names:
        if joined and len(joined[-1].encode()) + len(name.encode()) < PAYLOAD_BYTES_MAX:
            joined[-1] = f"{joined[-1]}\n{name}"
        else:
            joined.append(name)
    return joined
