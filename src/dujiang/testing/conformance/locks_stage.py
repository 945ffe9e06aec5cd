"""What the cases of locks share: copies of an app, a body that waits to be told, a holder that cannot renew."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from dujiang.app import App
from dujiang.data.database import DatabaseUnreachable
from dujiang.kernel.context import entered
from dujiang.kernel.tasks import ended
from dujiang.locking.lock import Held, lock
from dujiang.module import Module
from dujiang.testing.conformance.stage import ADD, StageSuite, playing, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dujiang.messaging.tx import Tx
    from dujiang.testing.clocks import JumpClock
    from dujiang.testing.harness import World

NAME = "export"
TTL_S = 300.0
TTL_US = int(TTL_S * 1e6)
CONTENDERS = 20


@asynccontextmanager
async def locked(world: World, name: str = NAME, **options: Any) -> AsyncIterator[Held]:
    """A lock taken by a copy; patient unless told otherwise, because the machine may be busy."""
    with entered(world.runtime.context()):
        async with lock(name, **{"ttl": f"{TTL_S}s", "wait": "60s", **options}) as held:
            yield held


class Body:
    """A body of a lock that waits to be told to go on, in a task of its own.

    Attributes:
        held: What it holds, once it does.
        cancelled: Whether it was cancelled where it waited.
        error: What the block raised.
    """

    def __init__(self, world: World, after: Callable[[Held], Awaitable[Any]] | None = None, **options: Any) -> None:
        self.held: Held | None = None
        self.cancelled = False
        self.error: BaseException | None = None
        self._world, self._after, self._options = world, after, options
        self._inside, self._go = asyncio.Event(), asyncio.Event()
        self.task = world.runtime.node.tasks.spawn(self._run(), name="body")

    async def _run(self) -> None:
        try:
            async with locked(self._world, **self._options) as self.held:
                self._inside.set()
                try:
                    await self._go.wait()
                except asyncio.CancelledError:
                    self.cancelled = True
                    raise
                if self._after is not None:
                    await self._after(self.held)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (the test looks at it)
            self.error = error

    async def begun(self) -> Held:
        """What it holds; returns when it does."""
        await self._inside.wait()
        assert self.held is not None
        return self.held

    async def end(self) -> None:
        """Let it go on, and return when it has ended."""
        self._go.set()
        await ended(self.task)


def deaf(world: World) -> None:
    """From now on no renewal of this copy reaches the store."""
    store: Any = world.runtime.locks

    async def unheard(*_: Any) -> bool:
        raise DatabaseUnreachable(url="the store", why="a test says so")

    store.renew = unheard


def noting(n: int, held: Held | None) -> Callable[[Tx], Awaitable[None]]:
    """A transaction that writes one row, fenced if a lock is given."""

    async def body(tx: Tx) -> None:
        if held is not None:
            held.fence(tx)
        await tx.fetch(ADD, "lock", "row", n)

    return body


class LockSuite(StageSuite):
    """What the cases of locks share."""

    @asynccontextmanager
    async def copies(self, count: int, clock: JumpClock | None = None) -> AsyncIterator[list[World]]:
        """Running copies of one app on this test's store."""
        app = App(modules=[Module("locks")])
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(playing(app, self.url, self.folder, clock)) for _ in range(count)]

    async def free(self, world: World) -> None:
        """Return when nobody holds the lock."""

        async def nobody() -> bool:
            return await world.runtime.locks.look(NAME) is None

        await until(world, nobody, "the lock is free", within_s=60.0)

    async def looked(self, world: World) -> None:
        """Return when the copy has looked through its limits, and ended what is over."""
        with suppress(TimeoutError), world.runtime.node.limits.movable(0.0):
            await asyncio.Event().wait()
