"""Member and group: the two records that the writer keeps.

    NEW -> WAITING -> ACTIVE -> JOINED -> OUT
              ^                   |
              +--- group lost ----+        a member that leaves early, at any point, is OUT at once

The writer alone moves them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from dujiang.backends.sqlite.connection import Session
    from dujiang.kernel.errors import DujiangError

NEW, WAITING, ACTIVE, JOINED, OUT = range(5)


class Member:
    """One call of `write` or `held`.

    Attributes:
        owner: The adapter through which it came.
        task: The task that runs the body.
        state: One of the five above.
        future: What it waits for: its turn (None), then its group (True: durable, False: lost and queued again).
        session: What its body holds; None while none runs.
        runs: Times that the body has been started.
        runs_max: Times that it may be.
        alone: Its next group must begin with it: SQLite ended the last one because of it.
        evicted: Why the writer was taken from it.
        cancelling: Cancellations that its task had asked for before ours.
    """

    __slots__ = ("alone", "cancelling", "evicted", "future", "owner", "runs", "runs_max", "session", "state", "task")

    def __init__(self, owner: object, runs_max: int) -> None:
        self.owner = owner
        self.task = asyncio.current_task()
        self.state = NEW
        self.future: asyncio.Future[Any] | None = None
        self.session: Session | None = None
        self.runs = 0
        self.runs_max = runs_max
        self.alone = False
        self.evicted: DujiangError | None = None
        self.cancelling = 0

    def __repr__(self) -> str:
        state = ("new", "waiting", "active", "joined", "out")[self.state]
        return f"<Member {state}, run {self.runs} of {self.runs_max}>"


class Group:
    """Bodies that share one COMMIT.

    Attributes:
        changes: The connection's count of changed rows when the group began; unchanged at its end = nothing to sync.
        members: Those whose bodies have ended, in order.
        lost: The driver's error that lost the group, once it is.
    """

    __slots__ = ("changes", "lost", "members")

    def __init__(self, changes: int) -> None:
        self.changes = changes
        self.members: list[Member] = []
        self.lost: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Group of {len(self.members)}{', lost' if self.lost else ''}>"


def where_of(task: asyncio.Task[Any] | None) -> str:
    """File, line and function where a task waits: the deepest frame that is not asyncio's own."""
    coroutine: Any = task.get_coro() if task is not None else None
    where = "an unknown place"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frame = frame or getattr(coroutine, "ag_frame", None)
        if frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("asyncio"):
            where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        coroutine = waited_for(coroutine)
    return where


def waited_for(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine, generator or asynchronous generator awaits, if that has a frame of its own."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        found = getattr(coroutine, name, None)
        if found is not None:
            return found
    return None
