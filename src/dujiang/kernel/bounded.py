"""Bounded: a queue with a limit, because every queue has one and it is better to choose it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from dujiang.kernel.errors import Overloaded

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out; `put_nowait` refuses when full, `get` waits when empty.

    Args:
        name: Named in the error.
        limit: Items at most; at least 1.
    """

    def __init__(self, name: str, limit: int) -> None:
        assert limit >= 1
        self.name = name
        self.limit = limit
        self._items: deque[T] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __repr__(self) -> str:
        return f"<BoundedQueue {self.name}: {len(self._items)} of {self.limit}>"

    def __len__(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        """Add an item. Raises Overloaded when the queue is full."""
        if len(self._items) >= self.limit:
            raise Overloaded(what=self.name, size=len(self._items), limit=self.limit)
        self._items.append(item)
        self._filled.set()
        if len(self._items) >= self.limit:
            self._room.clear()

    async def put(self, item: T) -> None:
        """Add an item, waiting for room."""
        while len(self._items) >= self.limit:
            await self._room.wait()
        self.put_nowait(item)

    async def get(self) -> T:
        """Take the oldest item, waiting for one."""
        while not self._items:
            await self._filled.wait()
        return self._take()

    def take_nowait(self, count: int) -> list[T]:
        """Take up to `count` items that are there now."""
        return [self._take() for _ in range(min(count, len(self._items)))]

    def _take(self) -> T:
        item = self._items.popleft()
        self._room.set()
        if not self._items:
            self._filled.clear()
        return item
