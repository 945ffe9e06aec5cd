"""Sends messages to post.py over HTTP, on kept connections.

usage: python -m bench.ours.sender PORT FIRST COUNT GAP_S
"""

from __future__ import annotations

import asyncio
import sys

from bench.peers.sending import AT_ONCE, send

HEAD = b"POST /messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Connection:
    """One kept HTTP/1.1 connection, spoken by hand: a client library would cost more than the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def opened(cls, port: int) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, body: bytes) -> None:
        """Send and read the answer. Raises RuntimeError unless it is 201."""
        self._writer.write(HEAD % len(body) + body)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in headers if line.startswith(b"content-length:"))
        answer = await self._reader.readexactly(length)
        if b" 201" not in status:
            raise RuntimeError(f"{status.decode()}: {answer.decode()}")


async def main(port: int, first: int, count: int, gap_s: float) -> None:
    """Send `count` messages."""
    free = asyncio.Queue[Connection]()
    for _ in range(1 if gap_s else AT_ONCE):
        free.put_nowait(await Connection.opened(port))

    async def enqueue(number: int, sent_ns: int) -> None:
        connection = await free.get()
        await connection.post(b'{"number":%d,"sent_ns":%d}' % (number, sent_ns))
        free.put_nowait(connection)

    await send(enqueue, first, count, gap_s)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
