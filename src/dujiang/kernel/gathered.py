"""Gathered: calls that come while another one is under way share the next.

    call 1 ──► run [1] ──────────► answer 1
    call 2 ────── waits ─┐
    call 3 ────── waits ─┴─► run [2, 3] ──► answers 2 and 3

Alone, a call waits for nobody; in a crowd, each run carries what came during the one before. So the size of a batch
follows from the load, and there is no timer to tune. A caller that is cancelled leaves the run, which goes on.
tests/unit/kernel/test_gathered.py holds it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.kernel.tasks import Tasks

T = TypeVar("T")
R = TypeVar("R")


class Gathered(Generic[T, R]):
    """One function on lists, called with single items.

    Args:
        run: The function: as many answers as items, in their order; an answer that is an exception is raised to its caller.
            What it raises itself is raised to all callers of that run.
        tasks: Owns the runs.
        name: Of their tasks.
        limit: Items in one run, at most.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]], tasks: Tasks, name: str, limit: int
    ) -> None:
        self._run = run
        self._tasks = tasks
        self._name = name
        self._limit = limit
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<Gathered {self._name}: {len(self._waiting)} waiting>"

    async def __call__(self, item: T) -> R:
        """The answer to one item."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = self._tasks.spawn(self._go(), name=self._name)
        return await future

    async def _go(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            answers: Sequence[R | BaseException]
            try:
                answers = await self._run([item for item, _ in taken])
            except asyncio.CancelledError:
                for _, future in [*taken, *self._waiting]:
                    future.cancel()
                self._waiting = []
                raise
            except BaseException as error:  # noqa: BLE001  (it is the callers')
                answers = [error] * len(taken)
            for (_, future), answer in zip(taken, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
