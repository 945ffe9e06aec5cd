"""Server: uvicorn, with an end that loses no request.

    say_goodbye   every answer from now on says `Connection: close`: who keeps connections opens the next one elsewhere
    shutdown      what the kernel has accepted for us is taken, the socket closed, idle connections closed, the rest awaited

A connection that the kernel has completed and nobody has taken is reset when its socket is closed, and its request with
it. So the line is emptied in the same breath in which the socket is closed. A connection on which nothing was said yet
is not idle but young: its first request is on the way, and has FIRST_S to come (connection.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import uvicorn

from dujiang.cli.connection import Connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from dujiang.settings import Settings


class Config(uvicorn.Config):
    """uvicorn's settings, and whether the server says goodbye; connections look here."""

    goodbye = False


class Server(uvicorn.Server):
    """uvicorn without its own signal handling, and with an event for "accepts connections"."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.accepts = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to `Stopping`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept."""
        await super().startup(sockets=sockets)
        self.accepts.set()

    def say_goodbye(self) -> None:
        """End every connection with its next answer."""
        self.config.goodbye = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.say_goodbye()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and return when those that there are have ended, or the grace has."""
        self.say_goodbye()
        waiting = [taken for listener in sockets or () for taken in accepted(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        loop = asyncio.get_running_loop()
        for taken in waiting:
            with contextlib.suppress(OSError):  # Its client has left.
                await loop.connect_accepted_socket(self._protocol, taken)
        await super().shutdown(sockets=sockets)

    def _protocol(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait on a listening socket."""
    while True:
        try:
            taken, _ = listener.accept()
        except OSError:  # Nobody waits any more.
            return
        taken.setblocking(False)  # noqa: FBT003  (the signature is the library's)
        yield taken


def server_config(asgi: Any, settings: Settings, *, grace_s: float) -> Config:
    """The settings of uvicorn. The client's word about itself (X-Forwarded-*) counts for nothing.

    Args:
        asgi: What answers.
        settings: The settings.
        grace_s: Seconds that requests in flight have to end.
    """
    return Config(
        asgi,
        interface="asgi3",
        http=Connection,
        ws="none",
        lifespan="off",  # The runtime is started and stopped around the server.
        log_config=None,
        access_log=settings.access_log,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, math.ceil(grace_s)),
    )
