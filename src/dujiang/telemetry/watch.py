"""Watch: how late the event loop is, and which line of code made it late.

    loop      due = now + 0.5 s; sleep; lag = now - due ------------------> histogram, always
    thread    still not back 0.1 s after `due`?  look where the loop is --> file:line, once per block

One call that blocks stops every request of the process, and from inside nobody can see which: when the loop turns again,
it is over. So a thread looks from outside, only when the loop is overdue: on a healthy loop both wake up about twice a
second and cost nothing that can be measured. Price: a block that ends between two samples is not seen; one that comes
back is, sooner or later. Development turns `every_s` down and sees nearly all.

Not seen: a block inside C code that keeps the interpreter lock (a large regular expression), until it lets go. Not
blamed: a loop that is late because the whole process stood still; it is found waiting for events.
tests/unit/telemetry/test_watch.py blocks a loop and reads its own line number in the report.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.kernel.tasks import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from dujiang.kernel.node import Node
    from dujiang.telemetry.metrics import Histogram

EVERY_S = 0.5
LATE_S = 0.1
QUIET_S = 60.0
# Where a loop waits for events: in its selector, or (uvloop, written in C) below the runner that called it.
IDLE_FILES = (str(Path(asyncio.__file__).parent), selectors.__file__)
LIBRARIES = tuple({f"{Path(sysconfig.get_path(name)).resolve()}/" for name in ("stdlib", "purelib", "platlib")})

logger = logging.getLogger("dujiang.watch")


@dataclass(frozen=True, slots=True)
class Block:
    """The loop stood still.

    Attributes:
        place: `file:line in function` of the innermost line that is not a library's.
        inside: The same of the innermost line; equal to `place` when that is it.
        late_s: Seconds that the loop was overdue when it was looked at; it may have been more in the end.
    """

    place: str
    inside: str
    late_s: float


class LoopWatch:
    """The service that watches the loop on which it is started.

    Args:
        node: Its clock and tasks.
        lag: Where each sample goes.
        every_s: Seconds between samples.
        late_s: From how many seconds on a late loop is looked at.
        on_block: Called in the watching thread with each block; must not raise. Without it a warning is logged, at most
            one a minute for each place.
    """

    def __init__(
        self,
        node: Node,
        lag: Histogram,
        *,
        every_s: float = EVERY_S,
        late_s: float = LATE_S,
        on_block: Callable[[Block], None] | None = None,
    ) -> None:
        self._node = node
        self._lag = lag
        self._every_s = every_s
        self._late_s = late_s
        self._on_block = on_block or self._log
        self._due = 0.0
        self._looked_at = 0.0
        self._logged: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._watcher: Watcher | None = None

    async def start(self) -> None:
        """Begin to sample."""
        self._due = self._node.clock.monotonic() + self._every_s
        self._task = self._node.tasks.spawn(self._sample(), name="watch")
        self._watcher = Watcher(self._look, name="dujiang-watch")

    async def stop(self) -> None:
        """End thread and task. May be called twice or without a start."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _sample(self) -> None:
        clock = self._node.clock
        while True:
            self._due = clock.monotonic() + self._every_s
            await clock.sleep(self._every_s)
            self._lag.observe(max(0.0, clock.monotonic() - self._due))

    def _look(self) -> float:
        """In the thread: seconds until the next look; a loop that is overdue is looked at once."""
        due = self._due
        now = self._node.clock.monotonic()
        wait_s = due + self._late_s - now
        if wait_s > 0:
            return wait_s
        watcher = self._watcher
        if due != self._looked_at and watcher is not None:
            self._looked_at = due
            block = block_at(watcher.frame(), late_s=now - due)
            if block is not None:
                self._on_block(block)
        return self._late_s

    def _log(self, block: Block) -> None:
        now = self._node.clock.monotonic()
        if now - self._logged.get(block.place, -QUIET_S) >= QUIET_S:
            self._logged[block.place] = now
            logger.warning("the event loop stands still at %s", block.place, extra={"late_s": round(block.late_s, 3)})


def block_at(frame: FrameType | None, *, late_s: float) -> Block | None:
    """What the thread at `frame` is busy with; None when it waits for events."""
    if frame is None or frame.f_code.co_filename.startswith(IDLE_FILES):
        return None
    inside = _place(frame)
    at: FrameType | None = frame
    while at is not None and _is_library(at.f_code.co_filename):
        at = at.f_back
    return Block(place=inside if at is None else _place(at), inside=inside, late_s=late_s)


def _is_library(file: str) -> bool:
    return file.startswith(LIBRARIES) or file.startswith("<frozen")


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


__all__ = ["Block", "LoopWatch", "block_at"]
