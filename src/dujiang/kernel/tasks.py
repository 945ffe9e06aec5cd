"""Tasks: every task has an owner that waits for it; none outlives its owner, none fails unseen.

`Tasks` is the owner. A service that runs for long hands `on_crash` to learn of a task that ended with an error; without
it the error is logged. `owned` is the shield of the cancellation policy: a unit of work that may
already have changed something runs in a task of its own, and the caller that goes away does not take it along.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from types import FrameType

T = TypeVar("T")

logger = logging.getLogger("dujiang.tasks")


@contextmanager
def asked_before_threads(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` before any thread of this process starts, for the block; what it raises keeps the thread from starting."""
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        ask()
        start(thread)

    threading.Thread.start = started  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


@dataclass(eq=False, kw_only=True)
class Stopping(DujiangError):
    """The process is stopping and begins nothing new."""

    code = "stopping"
    move = "wait"
    says = "{owner} is closed and takes no {task}"

    owner: str
    task: str


class Tasks:
    """The owner of a set of tasks.

    Args:
        name: Shown in logs and in `repr`.
        on_crash: Called with a task's name and error when it ends with one. Must not raise.
    """

    def __init__(self, name: str, *, on_crash: Callable[[str, BaseException], None] | None = None) -> None:
        self.name = name
        self._on_crash = on_crash
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Tasks {self.name}: {len(self._running)} running{', closed' if self._closed else ''}>"

    def __len__(self) -> int:
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether no more tasks are taken."""
        return self._closed

    def spawn(
        self, work: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task, in a copy of the caller's context unless one is given.

        After `close` the work is refused with Stopping (and closed, so that nothing warns).
        """
        if self._closed:
            work.close()
            raise Stopping(owner=self.name, task=f"task {name}")
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}.{name}", context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if self._on_crash is not None:
                self._on_crash(task.get_name(), error)
            else:
                logger.error("task %s ended with an error", task.get_name(), exc_info=error)

    async def wait_idle(self) -> None:
        """Return once no task is running."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Wait up to `grace_s` for the tasks, cancel the rest, and return when all have ended. May be called twice."""
        self._closed = True
        if self._running and grace_s > 0:
            await asyncio.wait(self._running, timeout=grace_s)
        while self._running:
            for task in list(self._running):
                task.cancel()
            await asyncio.wait(self._running, timeout=1.0)


def started(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], running: set[asyncio.Task[T]]
) -> asyncio.Task[T]:
    """Start a task among those whose owner waits for them; the work itself takes it out when it ends.

    For work that comes with each request and sees to its own errors: the callback of `Tasks.spawn` costs a turn of the loop.
    """
    task = loop.create_task(work)
    running.add(task)
    return task


async def owned(tasks: Tasks, work: Coroutine[Any, Any, T], *, name: str) -> T:
    """Run `work` in a task of `tasks` and wait for it; a cancelled caller leaves it running to its end."""
    return await asyncio.shield(tasks.spawn(work, name=name))


async def all_of(*works: Coroutine[Any, Any, T]) -> list[T]:
    """Run the works at once; the answers in order. The first error cancels the others and is raised."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in works]
    return [task.result() for task in running]


async def outcomes_of(*works: Awaitable[T]) -> list[T | BaseException]:
    """Run the works at once; each place holds the answer or the error of that work."""
    return await asyncio.gather(*works, return_exceptions=True)


class Threads:
    """A fixed number of threads for calls that block.

    Args:
        count: Threads at most; work beyond that waits.
        name: The prefix of the threads' names.
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run a blocking call in a thread. A cancelled caller does not stop the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._pool, run, call, *args)

    def close(self, *, wait: bool = False) -> None:
        """Let running calls end, take no more. With `wait`, return when the threads have ended; only when none runs."""
        self._pool.shutdown(wait=wait)


class Watcher:
    """A daemon thread that looks at the thread that made it, from outside: it goes on when that one stands still.

    Args:
        look: Called in the watcher's thread; answers how many seconds to wait before the next look. An error in it is
            logged, and the watcher goes on after a second.
        name: The thread's name.
    """

    def __init__(self, look: Callable[[], float], *, name: str) -> None:
        self._look = look
        self._watched = threading.get_ident()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def frame(self) -> FrameType | None:
        """Where the watched thread is at this moment."""
        return sys._current_frames().get(self._watched)  # noqa: SLF001 - CPython documents it

    def _run(self) -> None:
        wait_s = 0.0
        while not self._closed.wait(wait_s):
            try:
                wait_s = self._look()
            except Exception:
                logger.exception("watcher %s failed", self._thread.name)
                wait_s = 1.0

    def close(self) -> None:
        """End the thread; a look that is under way ends first. May be called twice."""
        self._closed.set()
        if threading.get_ident() != self._thread.ident:
            self._thread.join()


async def ended(task: asyncio.Task[Any]) -> None:
    """Return when a task has ended, however it did; its error is reported by its owner."""
    await asyncio.wait({task})


def current_task() -> asyncio.Task[Any]:
    """The running task; there is always one inside a coroutine."""
    task = asyncio.current_task()
    assert task is not None
    return task
