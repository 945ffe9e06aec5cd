"""Services: parts that start and stop, in order.

    start  a, b, c            stop  c, b, a

A start that fails stops what had started, in reverse, and raises the first error: nothing is left running. Stopping twice,
or without a start, does nothing. tests/unit/kernel/test_service.py fails each start in turn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger("dujiang.service")


class Service(Protocol):
    """A part with a life: `start` returns when it can work, `stop` when nothing of it is left."""

    async def start(self) -> None:
        """Begin. Raises when the service cannot work."""
        ...

    async def stop(self) -> None:
        """End. May be called twice or without a start."""
        ...


class Services:
    """An ordered group of services that starts and stops as one."""

    def __init__(self, services: list[tuple[str, Service]]) -> None:
        self._services = services
        self._started: list[tuple[str, Service]] = []
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Services {[name for name, _ in self._started]} of {[name for name, _ in self._services]}>"

    async def start(self) -> None:
        """Start each in order; on an error stop the started ones and raise it."""
        async with self._lock:
            for name, service in self._services[len(self._started) :]:
                self._started.append((name, service))
                try:
                    await service.start()
                except BaseException:
                    await self._stop_started()
                    raise

    async def stop(self) -> None:
        """Stop each started one in reverse order; an error in one does not keep the others running."""
        async with self._lock:
            await self._stop_started()

    async def _stop_started(self) -> None:
        while self._started:
            name, service = self._started[-1]
            try:
                await service.stop()
            except Exception:
                logger.exception("service %s did not stop cleanly", name)
            # Only now: a stop that is cancelled leaves the service in the list, and the next stop goes on with it.
            self._started.pop()
