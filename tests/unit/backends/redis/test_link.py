"""The connection to Redis that all callers share: replies go to whom they belong, whoever has gone away."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import hiredis
import pytest

from dujiang.backends.redis import link as module
from dujiang.backends.redis.link import Link, LinkLost


class Wire(asyncio.Transport):
    """What the link writes, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.sent += bytes(data)

    def abort(self) -> None:
        """Closed."""
        self.aborted = True


class Ends:
    """Counts how often it was told that the link is gone."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def ends() -> Ends:
    """Told when it is gone."""
    return Ends()


@pytest.fixture
def link(ends: Ends) -> Link:
    """A link on a wire that the test holds."""
    found = Link(ends)
    found.connection_made(Wire())
    return found


def bulk(n: int) -> bytes:
    """The reply `value n`."""
    text = b"value %d" % n
    return b"$%d\r\n%s\r\n" % (len(text), text)


async def asked(link: Link, count: int) -> list[asyncio.Task[Any]]:
    """So many callers that wait."""
    callers = [asyncio.ensure_future(link.ask("GET", f"k{n}")) for n in range(count)]
    await asyncio.sleep(0)
    return callers


async def test_a_command_is_written_as_redis_reads_it(link: Link) -> None:
    """An array of bulk strings, numbers as text."""
    (caller,) = [asyncio.ensure_future(link.ask("SET", b"k\r\n", b"\x00", "PX", 5))]
    await asyncio.sleep(0)
    link.data_received(b"+OK\r\n")

    assert await caller == b"OK"
    wire = link._transport
    assert isinstance(wire, Wire)
    assert wire.sent == b"*5\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$1\r\n\x00\r\n$2\r\nPX\r\n$1\r\n5\r\n"


async def test_replies_cut_at_every_byte_reach_their_callers(link: Link) -> None:
    """Three replies, cut in two at each place: everyone gets his own."""
    raw = bulk(0) + b"$-1\r\n" + bulk(2)
    for place in range(len(raw)):
        callers = await asked(link, 3)
        link.data_received(raw[:place])
        link.data_received(raw[place:])

        assert await asyncio.gather(*callers) == [b"value 0", None, b"value 2"]


@pytest.mark.parametrize("seed", range(20))
async def test_callers_that_go_away_at_any_moment_cross_no_reply(link: Link, seed: int) -> None:
    """Of 200 callers some are cancelled before, between and after parts of the replies; each other gets its own."""
    chance = random.Random(seed)
    callers = await asked(link, 200)
    raw, gone = b"".join(map(bulk, range(200))), set()
    while raw:
        for n in chance.sample(range(200), 5):
            if not callers[n].done():
                callers[n].cancel()
                gone.add(n)
        await asyncio.sleep(0)
        size = chance.randrange(1, 100)
        link.data_received(raw[:size])
        raw = raw[size:]
    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    for n, outcome in enumerate(outcomes):
        assert outcome == b"value %d" % n or (n in gone and isinstance(outcome, asyncio.CancelledError))
    assert len(link._waiting) == 0


async def test_a_refusal_is_raised_to_its_caller_alone(link: Link) -> None:
    """An error reply between two others."""
    callers = await asked(link, 3)
    link.data_received(bulk(0) + b"-OOM command not allowed\r\n" + bulk(2))
    first, second, third = await asyncio.gather(*callers, return_exceptions=True)

    assert (first, third) == (b"value 0", b"value 2")
    assert isinstance(second, hiredis.ReplyError)
    assert str(second).startswith("OOM")


@pytest.mark.parametrize("bad", [b"?nonsense\r\n", b"+OK\r\n+OK\r\n"])
async def test_what_is_no_reply_or_one_too_many_ends_the_link(link: Link, ends: Ends, bad: bytes) -> None:
    """Nobody can tell any more which reply is whose: it is closed, and everybody learns it once."""
    callers = await asked(link, 1)
    link.data_received(bad)
    await asyncio.gather(*callers, return_exceptions=True)

    assert not link.open
    assert ends.count == 1
    with pytest.raises(LinkLost, match="no reply"):
        await link.ask("PING")


async def test_who_waits_learns_that_the_connection_is_gone(link: Link, ends: Ends) -> None:
    """All who wait get the reason, those who have gone away no warning."""
    callers = await asked(link, 3)
    callers[1].cancel()
    link.connection_lost(OSError("reset"))
    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [LinkLost, asyncio.CancelledError, LinkLost]
    assert (str(outcomes[0]), ends.count) == ("reset", 1)


async def test_a_line_that_is_full_is_refused(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """More commands than may wait: the one beyond is told so, the others are answered."""
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    callers = await asked(link, 2)

    with pytest.raises(LinkLost, match="2 commands wait"):
        await link.ask("PING")
    link.data_received(bulk(0) + bulk(1))
    assert await asyncio.gather(*callers) == [b"value 0", b"value 1"]
