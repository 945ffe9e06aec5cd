"""Log: the write-ahead log's size, and when it is copied into the data.

Only the writer's connection copies, between two groups, in the writer's thread. SQLite's own automatic copying is
off: it would run inside some caller's COMMIT. PASSIVE never waits for a reader; readers here hold no snapshot, so it
copies everything, and the log then starts over in the same file instead of growing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from dujiang.kernel.tasks import Threads

FRAME_HEADER_BYTES = 24

logger = logging.getLogger("dujiang.sqlite")


class Log:
    """The log of one file.

    Args:
        driver: The connection that writes.
        threads: The writer's one thread.
        limit_bytes: The size at which it is copied; None = never, that is left to the owner of the file.
    """

    def __init__(self, driver: apsw.Connection, threads: Threads, limit_bytes: int | None) -> None:
        self.copies = 0
        self._driver = driver
        self._threads = threads
        self._frames = 0
        self._frame_bytes = int(driver.pragma("page_size")) + FRAME_HEADER_BYTES
        self._copies_log = limit_bytes is not None
        self._limit_bytes = self._copied_at_bytes = limit_bytes or 0
        driver.set_wal_hook(self._note)

    def __repr__(self) -> str:
        return f"<Log {self.bytes} bytes, {self.copies} copies>"

    @property
    def bytes(self) -> int:
        """What the log holds since it was last started over."""
        return self._frames * self._frame_bytes

    def _note(self, _driver: apsw.Connection, _schema: str, frames: int) -> int:
        self._frames = frames
        return apsw.SQLITE_OK

    async def copy_if_grown(self) -> None:
        """Copy the log into the data if it has outgrown its limit. Errors are logged: the log alone is durable."""
        if not self._copies_log or self.bytes < self._copied_at_bytes:
            return
        whole = await self._copy(apsw.SQLITE_CHECKPOINT_PASSIVE)
        # What a reader kept from being copied is tried again after the next quarter, not after every commit.
        self._copied_at_bytes = self._limit_bytes if whole else self.bytes + self._limit_bytes // 4

    async def empty(self) -> None:
        """Copy everything and cut the log to nothing."""
        if self._copies_log:
            await self._copy(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    async def _copy(self, mode: int) -> bool:
        self.copies += 1
        try:
            frames, copied = await self._threads.run(self._checkpoint, mode)
        except apsw.Error as cause:
            logger.warning("the log could not be copied into the data: %s", cause)
            return False
        return copied >= frames

    def _checkpoint(self, mode: int) -> tuple[int, int]:
        return self._driver.wal_checkpoint(mode=mode)
