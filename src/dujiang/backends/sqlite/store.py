"""Store: one open file of this process, shared by every runtime that names it.

SQLite allows one writer, and the lock of the file one process. Two runtimes of one process (a test, the drill, an app
and its console) must therefore meet on one writer, which is why this module keeps the only registry of the package:
real path to open store, with a count of users. The last one to leave closes it. A store whose loop was closed under
it, as a test may do, is taken over; one whose loop still runs in another thread is in use.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.backends.sqlite.dialect import engine_over, root_engine
from dujiang.backends.sqlite.file import FileLock, close, is_guest, open_reader, open_writer, synced
from dujiang.backends.sqlite.writer import Writer
from dujiang.data.database import DatabaseRefused, DiskFull, StoreInUse

if TYPE_CHECKING:
    from dujiang.kernel.node import Node

# Real path -> the open store of this process.
OPEN: dict[str, Store] = {}


class Store:
    """The lock, the writer and the reader of one file.

    Args:
        path: The real path.
        url: Named in errors.
        node: Gives the writer its time.

    Raises:
        StoreInUse: Another process owns the file.
        DatabaseRefused: The file is no database, or may not be opened.
        DatabaseUnreachable: The disk fails.
    """

    def __init__(self, path: str, url: str, node: Node) -> None:
        self.path = path
        self.loop = asyncio.get_running_loop()
        self.users = 0
        self.closed: asyncio.Event | None = None
        try:
            new = not Path(path).exists()
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.lock = None if is_guest(url) else FileLock(path)
            if new:
                keep_folders(Path(path).parent)
        except OSError as cause:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(url=url, why=f"{cause.strerror}: {cause.filename}") from cause
            raise DatabaseRefused(url=url, why=f"{cause.strerror}: {cause.filename}") from cause
        try:
            driver = open_writer(path, url)
            try:
                self.reader = open_reader(path, url)
            except BaseException:
                close(driver)
                raise
        except BaseException:
            self._release()
            raise
        self.engine_over = partial(engine_over, root=root_engine(url))
        self.writer = Writer(driver, url, node, self.engine_over)

    def __repr__(self) -> str:
        return f"<Store {self.path}: {self.users} users>"

    async def leave(self) -> None:
        """One user less; the last one closes the file."""
        self.users -= 1
        if self.users:
            return
        self.closed = asyncio.Event()
        try:
            close(self.reader)
            await self.writer.close()
        finally:
            self._release()
            del OPEN[self.path]
            self.closed.set()

    def abandon(self) -> None:
        """Close what a loop that is gone left open."""
        del OPEN[self.path]
        close(self.reader)
        self.writer.abandon()
        self._release()

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()


def keep_folders(folder: Path) -> None:
    """Make the names of a new store's folders durable: SQLite syncs the names in its folder, not the folder's own."""
    for above in folder.parents:
        with suppress(PermissionError):  # A folder that we may not even read was not made by us.
            synced(above)


async def join(path: str, url: str, node: Node) -> Store:
    """The open store of a path, opened if need be; the caller must `leave` it."""
    while True:
        store = OPEN.get(path)
        if store is not None and store.loop.is_closed():
            store.abandon()
            store = None
        if store is None:
            store = OPEN[path] = Store(path, url, node)
        if store.loop is not asyncio.get_running_loop():
            raise StoreInUse(path=path, pid=os.getpid())
        if store.closed is None:
            store.users += 1
            return store
        await store.closed.wait()
