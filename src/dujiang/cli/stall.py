"""Stall: ends the connection of a client that takes nothing of what waits for it.

A closed transport keeps its socket until the client has taken the last byte, and an application waits as long before it may
send the next piece. Without a limit a client that never reads holds both for ever, and what was to be sent with them. Each byte
that it takes gives it the whole time again, so a slow one is let be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["Stall"]


class Stall:
    """The watch over what one client takes.

    Args:
        loop: Whose time counts.
        transport: To the client.
        limit_s: Seconds in which it must take something.
    """

    __slots__ = ("_limit_s", "_loop", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, limit_s: float) -> None:
        self._loop = loop
        self._transport = transport
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Something waits for the client."""
        if self._timer is None:
            self._look_later(self._transport.get_write_buffer_size())

    def rest(self) -> None:
        """The client keeps up, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, size: int) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._look, size)

    def _look(self, before: int) -> None:
        size = self._transport.get_write_buffer_size()
        if size < before:
            self._look_later(size)
        else:
            self._transport.abort()
