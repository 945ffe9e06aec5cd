"""Proxy: a TCP link that fails on purpose: refuses, resets, falls silent, is slow, or loses exactly one COMMIT.

    client ---up--->  Proxy  ---up--->  server          async with Proxy("127.0.0.1", server.port) as proxy:
           <--down--         <--down---                     connect(proxy.port)

The dangerous moments of a database are two messages wide: a COMMIT that never arrived, and a COMMIT that was executed
while its answer got lost. A client sees the same broken connection in both cases and must find out which it was. A broker
has two of the same kind: a message that is stored and whose confirm is lost, and one that was handled and whose
acknowledgement never arrived. Cutting after so many bytes finds these places by luck; the proxy therefore reads what is
said (wire.py) and cuts at the message itself. tests/unit/testing/test_proxy.py holds each mode against real servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Literal, Self

from dujiang.kernel.clock import Clock, SystemClock
from dujiang.kernel.entropy import Entropy, SystemEntropy
from dujiang.kernel.tasks import Tasks, all_of, current_task
from dujiang.testing.processes import ServerFailed, free_port
from dujiang.testing.wire import Moment, Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

Mode = Literal["ok", "refuse", "reset_all", "hang", "hang_up", "hang_down"]

CHUNK_BYTES = 65_536
# Closing a socket with this linger sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """A proxy before `host:port`, listening on the loopback port `port`.

    Modes, changed at any time with `become`:

        ok          everything passes
        refuse      new connections are refused; open ones go on
        reset_all   open connections end with RST at once, new ones as soon as they are accepted
        hang        a black hole: no byte passes, no connection ends; what was sent arrives after `ok`
        hang_up     only what the client sends is held
        hang_down   only what the server sends is held

    Args:
        host: Where the server is.
        port: The server's port.
        clock: For latency.
        entropy: For jitter.

    Attributes:
        latency_s: Seconds by which each piece of at most 64 KiB is late, in each direction.
        jitter_s: At most so many seconds are added to or taken from it, by chance.
    """

    def __init__(self, host: str, port: int, *, clock: Clock | None = None, entropy: Entropy | None = None) -> None:
        self.target = (host, port)
        self.port = 0
        self.mode: Mode = "ok"
        self.latency_s = 0.0
        self.jitter_s = 0.0
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._tasks = Tasks("proxy")
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._traps: list[Trap] = []

    def __repr__(self) -> str:
        return f"<Proxy {self.port} -> {self.target[1]}: {self.mode}, {len(self._links)} connections>"

    async def __aenter__(self) -> Self:
        await self.become("ok")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.become("refuse")
        self.cut()
        await self._tasks.close()
        await SystemClock().sleep(0)  # The loop tells the transports that they are closed.

    @property
    def connection_count(self) -> int:
        """Connections that are open."""
        return len(self._links)

    async def become(self, mode: Mode) -> None:
        """Change the mode; on return it holds."""
        self.mode = mode
        for way, gate in self._open.items():
            if mode in ("hang", f"hang_{way}"):
                gate.clear()
            else:
                gate.set()
        if mode == "reset_all":
            self.cut()
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != "refuse" and self._server is None:
            await self._listen()

    def cut(self) -> None:
        """End every open connection with RST, on both sides. New ones are accepted as before."""
        for link in list(self._links):
            link.cut()

    def cut_after(self, byte_count: int) -> asyncio.Event:
        """Let so many more bytes pass down, then end the connection on which one more comes; set when it happened."""
        return self._arm(Trap("bytes", byte_count))

    def drop_commit_reply(self, n: int = 1) -> asyncio.Event:
        """Cut the connection on which the n-th COMMIT from now is answered, before the client sees the answer.

        The transaction is committed. A COMMIT that PostgreSQL answers with ROLLBACK, since the transaction had failed,
        does not count. The event is set when it happened.
        """
        return self._arm(Trap("commit_reply", n))

    def drop_commit_request(self, n: int = 1) -> asyncio.Event:
        """Cut the connection on which the n-th COMMIT from now is sent, before the server sees it; it rolls back."""
        return self._arm(Trap("commit_request", n))

    def drop_confirm(self, n: int = 1) -> asyncio.Event:
        """Cut the connection on which RabbitMQ's n-th confirm from now comes, before the publisher sees it.

        What was published is stored. The event is set when it happened.
        """
        return self._arm(Trap("confirm", n))

    def drop_acknowledgement(self, n: int = 1) -> asyncio.Event:
        """Cut the connection on which a consumer's n-th acknowledgement from now is sent, before RabbitMQ sees it.

        The message is delivered again. The event is set when it happened.
        """
        return self._arm(Trap("acknowledgement", n))

    def _arm(self, trap: Trap) -> asyncio.Event:
        assert trap.left > 0 or trap.kind == "bytes", "there is no 0th time"
        self._traps.append(trap)
        return trap.sprung

    async def _listen(self) -> None:
        for attempt in range(5):
            port = self.port or free_port(skip=attempt)
            with contextlib.suppress(OSError):
                self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
                self.port = port
                return
        raise ServerFailed(what=f"the proxy found port {self.port or 'after port'} taken", log="")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode in ("reset_all", "refuse"):  # `refuse` came between the kernel's accept and ours.
            reset(writer)
            return
        task = self._tasks.spawn(self._serve(reader, writer), name="link")
        # A task that is cancelled before its first step runs no `finally`.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except BaseException as error:
            reset(writer)
            if isinstance(error, OSError):
                return
            raise
        link = Link(writer, server_writer, current_task())
        self._links.add(link)
        talk = Talk()
        try:
            if self.mode == "reset_all":  # It became so while we connected.
                link.cut()
            await all_of(
                self._pump("up", reader, server_writer, talk.up, link),
                self._pump("down", server_reader, writer, talk.down, link),
            )
        except* OSError:
            link.cut()  # One side ended with RST; so does the other.
        finally:
            self._links.discard(link)
            server_writer.close()

    async def _pump(
        self,
        way: Literal["up", "down"],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pieces_of: Callable[[bytes], Iterator[tuple[bytes, str]]],
        link: Link,
    ) -> None:
        """Carry one direction to its end, in pieces, each of which may spring a trap."""
        while chunk := await reader.read(CHUNK_BYTES):
            if self.latency_s or self.jitter_s:
                late_s = self.latency_s + self._entropy.uniform(-self.jitter_s, self.jitter_s)
                await self._clock.sleep(max(0.0, late_s))
            await self._open[way].wait()
            passing, sprung = bytearray(), False
            for piece, what in pieces_of(chunk):
                if what and self._springs(what):
                    sprung = True
                    break
                passing += piece
            allowed = self._allowed(len(passing)) if way == "down" else len(passing)
            writer.write(passing[:allowed])
            await writer.drain()
            if sprung:
                link.cut()
                return
            if allowed < len(passing):
                link.end()
                return
        writer.write_eof()

    def _springs(self, kind: str) -> bool:
        """Count one event of this kind against every trap that waits for it; True if one springs."""
        sprung = False
        for trap in [trap for trap in self._traps if trap.kind == kind]:
            trap.left -= 1
            if trap.left == 0:
                self._traps.remove(trap)
                trap.sprung.set()
                sprung = True
        return sprung

    def _allowed(self, byte_count: int) -> int:
        """How many of these bytes may pass down."""
        for trap in [trap for trap in self._traps if trap.kind == "bytes"]:
            if byte_count > trap.left:
                self._traps.remove(trap)
                trap.sprung.set()
                return trap.left
            trap.left -= byte_count
        return byte_count


class Trap:
    """Something that happens once, at the n-th event of a kind."""

    def __init__(self, kind: Literal["bytes"] | Moment, left: int) -> None:
        self.kind = kind
        self.left = left
        self.sprung = asyncio.Event()


class Link:
    """The two sockets of one connection and the task that carries between them."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self._writers = (client, server)
        self._task = task

    def cut(self) -> None:
        """End both sides with RST, whatever is still on its way."""
        for writer in self._writers:
            reset(writer)
        self._task.cancel()

    def end(self) -> None:
        """End both sides with FIN, after what was written."""
        for writer in self._writers:
            writer.close()
        self._task.cancel()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a socket with RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


__all__ = ["Mode", "Proxy"]
