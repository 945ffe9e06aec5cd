"""Store: one open file of this process, shared by every runtime that names it.

SQLite allows one writer, and the lock of the file one process. Two runtimes of one process (a test, the drill, an app
and its console) must therefore meet on one writer, which is why this module keeps the only registry of the package:
real path to open store, with a count of users. The last one to leave closes it. A store whose loop was closed under
it, as a test may do, is taken over; one whose loop still runs in another thread is in use.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.backends.sqlite.dialect import engine_over, root_engine
from dujiang.backends.sqlite.file import FileLock, open_reader, open_writer
from dujiang.backends.sqlite.writer import Writer
from dujiang.data.database import DatabaseRefused, StoreInUse

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
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(path)
        except OSError as cause:
            raise DatabaseRefused(url=url, why=f"{cause.strerror}: {cause.filename}") from cause
        try:
            driver = open_writer(path, url)
            try:
                self.reader = open_reader(path, url)
            except BaseException:
                driver.close()
                raise
        except BaseException:
            self.lock.release()
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
            self.reader.close()
            await self.writer.close()
        finally:
            self.lock.release()
            del OPEN[self.path]
            self.closed.set()

    def abandon(self) -> None:
        """Close what a loop that is gone left open."""
        del OPEN[self.path]
        self.reader.close()
        self.writer.abandon()
        self.lock.release()


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
