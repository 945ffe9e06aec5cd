"""Wire: what is said on one connection: splits both directions into frames and names the moments that decide.

    PostgreSQL   commit_request    client -> server   a COMMIT is asked for
                 commit_reply      server -> client   it was executed
    RabbitMQ     confirm           server -> client   what was published is stored
                 acknowledgement   client -> server   what was delivered is done with

A dialect is known by the first eight bytes that the client sends; everything else passes unread, and so does what TLS
hides. COMMIT is found in the text of a simple query, also as one of several statements, and in a prepared statement, also
when it was prepared long before. A literal that contains `; commit` is taken for one: nobody writes that in a test.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Moment = Literal["commit_request", "commit_reply", "confirm", "acknowledgement"]
Piece = tuple[bytes, "Moment | Literal['']"]

OPENING_BYTES = 8
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80_877_103, 80_877_104, 80_877_102
PROTOCOL_MAJOR = 3
COMMIT = re.compile(rb"(?:^|;)\s*(?:commit|end)\b", re.IGNORECASE)
# A frame of AMQP 0-9-1: type, channel, size of the payload, payload, end.
AMQP, AMQP_HEAD, AMQP_METHOD = b"AMQP", struct.Struct("!BHI"), 1
BASIC_ACK = struct.pack("!HH", 60, 80)


class Dialect(Protocol):
    """One protocol: the complete pieces of each direction; what is incomplete is kept until its rest comes."""

    def up(self, chunk: bytes) -> Iterator[Piece]:
        """Pieces from the client, each with the moment that it is."""
        ...

    def down(self, chunk: bytes) -> Iterator[Piece]:
        """Pieces from the server."""
        ...


class Talk:
    """What was said on one connection.

    `up` and `down` take the next bytes of their direction and give (bytes to pass on, moment or "").
    """

    def __init__(self) -> None:
        self._dialect: Dialect | None = None
        self._opening = b""

    def up(self, chunk: bytes) -> Iterator[Piece]:
        """From the client."""
        if self._dialect is None:
            self._opening += chunk
            if len(self._opening) < OPENING_BYTES:
                return  # No protocol that we carry begins with fewer bytes and then waits.
            self._dialect, chunk = dialect_of(self._opening), self._opening
        yield from self._dialect.up(chunk)

    def down(self, chunk: bytes) -> Iterator[Piece]:
        """From the server."""
        if self._dialect is None:
            yield chunk, ""
        else:
            yield from self._dialect.down(chunk)


def dialect_of(opening: bytes) -> Dialect:
    """The dialect of a client that begins like this."""
    if opening.startswith(AMQP):
        return Amqp()
    return Postgres() if is_startup(opening) else Unread()


def is_startup(opening: bytes | bytearray) -> bool:
    """Whether these bytes begin a first message of PostgreSQL's protocol 3."""
    length, code = int.from_bytes(opening[:4], "big"), int.from_bytes(opening[4:8], "big")
    known = code in (SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST) or code >> 16 == PROTOCOL_MAJOR
    return known and 8 <= length <= 10_000


class Unread:
    """Anything else: passes as it comes."""

    def up(self, chunk: bytes) -> Iterator[Piece]:
        """From the client."""
        yield chunk, ""

    down = up


class Amqp:
    """AMQP 0-9-1: `basic.ack` is a confirm when the server says it, an acknowledgement when the client does."""

    def __init__(self) -> None:
        self._rest = {"up": bytearray(), "down": bytearray()}
        self._greeted = False

    def up(self, chunk: bytes) -> Iterator[Piece]:
        """From the client."""
        if not self._greeted:
            self._greeted = True
            yield chunk[:OPENING_BYTES], ""
            chunk = chunk[OPENING_BYTES:]
        for frame in self._frames("up", chunk):
            yield frame, "acknowledgement" if is_ack(frame) else ""

    def down(self, chunk: bytes) -> Iterator[Piece]:
        """From the server. A server that refuses the version sends its greeting, which is no frame, and ends."""
        if not self._rest["down"] and chunk.startswith(AMQP):
            yield chunk, ""
            return
        for frame in self._frames("down", chunk):
            yield frame, "confirm" if is_ack(frame) else ""

    def _frames(self, way: str, chunk: bytes) -> Iterator[bytes]:
        rest, at = self._rest[way], 0
        rest += chunk
        while len(rest) - at >= AMQP_HEAD.size:
            until = at + AMQP_HEAD.size + AMQP_HEAD.unpack_from(rest, at)[2] + 1
            if until > len(rest):
                break
            yield bytes(rest[at:until])
            at = until
        del rest[:at]


def is_ack(frame: bytes) -> bool:
    """Whether a frame is the method basic.ack."""
    return frame[0] == AMQP_METHOD and frame[AMQP_HEAD.size : AMQP_HEAD.size + 4] == BASIC_ACK


class Postgres:
    """PostgreSQL's protocol 3, from its first message on."""

    def __init__(self) -> None:
        self._encrypted = False
        self._started = False
        self._answers_due = 0
        self._rest = {"up": bytearray(), "down": bytearray()}
        self._commit_statements: set[bytes] = set()
        self._commit_portals: set[bytes] = set()

    def up(self, chunk: bytes) -> Iterator[Piece]:
        """Frames from the client."""
        if self._encrypted:
            yield chunk, ""
            return
        self._rest["up"] += chunk
        while not self._started:
            rest = self._rest["up"]
            if len(rest) < OPENING_BYTES:
                return
            length, code = struct.unpack("!II", rest[:OPENING_BYTES])
            if not is_startup(rest):
                self._encrypted = True
                yield self._all("up")
                return
            if len(rest) < length:
                return
            if code in (SSL_REQUEST, GSS_REQUEST):
                self._answers_due += 1
            else:
                self._started = True
            piece = bytes(rest[:length])
            del rest[:length]
            yield piece, ""
        for kind, body, raw in self._frames("up"):
            yield raw, "commit_request" if self._is_commit(kind, body) else ""

    def down(self, chunk: bytes) -> Iterator[Piece]:
        """Frames from the server."""
        self._rest["down"] += chunk
        while self._answers_due and self._rest["down"]:
            answer = bytes(self._rest["down"][:1])
            del self._rest["down"][:1]
            self._answers_due -= 1
            if answer in (b"S", b"G"):
                self._encrypted = True
            yield answer, ""
        if self._encrypted:
            yield self._all("down")
            return
        for kind, body, raw in self._frames("down"):
            yield raw, "commit_reply" if kind == b"C" and body == b"COMMIT\0" else ""

    def _all(self, way: str) -> Piece:
        rest = bytes(self._rest[way])
        self._rest[way].clear()
        return rest, ""

    def _frames(self, way: str) -> Iterator[tuple[bytes, bytes, bytes]]:
        """The complete frames: type, body, and the bytes as they came."""
        rest, at = self._rest[way], 0
        while len(rest) - at >= 5:
            until = at + 1 + int.from_bytes(rest[at + 1 : at + 5], "big")
            if until > len(rest):
                break
            frame = bytes(rest[at:until])
            yield frame[:1], frame[5:], frame
            at = until
        del rest[:at]

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        """Whether this message makes the server execute a COMMIT; remembers what is prepared for later."""
        if kind == b"Q":
            return COMMIT.search(body) is not None
        if kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            _keep(self._commit_statements, name, holds=COMMIT.search(text) is not None)
        elif kind == b"B":
            portal, name = body.split(b"\0", 2)[:2]
            _keep(self._commit_portals, portal, holds=name in self._commit_statements)
        elif kind == b"E":
            return body.split(b"\0", 1)[0] in self._commit_portals
        return False


def _keep(names: set[bytes], name: bytes, *, holds: bool) -> None:
    """Put a name into the set or take it out."""
    if holds:
        names.add(name)
    else:
        names.discard(name)


__all__ = ["Moment", "Talk"]
