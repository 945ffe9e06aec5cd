"""Link: one connection to Redis that all callers share; each gets the reply to its own command.

    caller 1  GET a ──►┐                         ┌──► reply 1 ──► caller 1
    caller 2  GET b ──►├── one socket, in order ─┤    reply 2       (gone: nobody is told)
    caller 3  SET c ──►┘                         └──► reply 3 ──► caller 3

Redis answers in the order of the commands, so a queue of futures is the whole protocol. A caller that is cancelled, or has
waited long enough, leaves its place in the queue behind: its reply is read and dropped, and nobody else's is crossed. With a
pool, as the drivers have it, such a connection must be thrown away, or gives the next caller a foreign reply (redis-py 2624
and the outage that followed it); and commands of one turn of the loop share one packet here.

The parser is hiredis. tests/unit/backends/redis/test_link.py cancels callers at every moment and cuts replies at every byte.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

WAITING_MAX = 10_000

Word = bytes | str | int


class LinkLost(Exception):
    """The connection is gone, or takes nothing more; says why."""


class Link(asyncio.Protocol):
    """The connection; made by `connected`.

    Args:
        lost: Called once when it is gone.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._why = ""

    def __repr__(self) -> str:
        return f"<Link {'open' if self.open else 'closed'}, {len(self._waiting)} waiting>"

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._why

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it.

    def data_received(self, data: bytes) -> None:
        """Hand each reply to whoever waits for it."""
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not False:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(reply)
                reply = self._reader.gets()
        except (hiredis.ProtocolError, IndexError) as error:
            self.close(f"what it sent is no reply: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self._end(str(exc) if exc is not None else "the server closed the connection")

    def close(self, why: str) -> None:
        """Close it at once."""
        self._end(why)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, why: str) -> None:
        if self._why:
            return
        self._why = why
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(LinkLost(why))
                waiter.exception()  # Nobody may be there to hear it.
        self._lost()

    async def ask(self, *words: Word) -> Any:
        """Send a command and wait for its reply. Raises LinkLost, and hiredis.ReplyError for a refusal."""
        if self._transport is None or self._why:
            raise LinkLost(self._why or "it is not connected")
        if len(self._waiting) >= WAITING_MAX:
            raise LinkLost(f"{WAITING_MAX} commands wait for an answer")
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # it takes any number
        reply = await waiter
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


async def connected(host: str, port: int, tls: ssl.SSLContext | None, lost: Callable[[], None]) -> Link:
    """A connection to a server. Raises OSError."""
    loop = asyncio.get_running_loop()
    name = host if tls is not None else None
    _, link = await loop.create_connection(lambda: Link(lost), host, port, ssl=tls, server_hostname=name)
    return link
