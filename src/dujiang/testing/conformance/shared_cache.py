"""What every adapter of a shared cache must do; the numbers are those of the port's promises, Q1 to Q6.

A subclass gives `caches(count)`: so many started caches on one server, each as another process would have it, and may say
how the server is taken away and brought back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.caching.shared import VALUE_BYTES_MAX
from dujiang.kernel.tasks import Tasks, all_of, outcomes_of
from dujiang.testing.conformance.cases import Suite, case

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from dujiang.caching.shared import SharedCache

LONG_MS = 600_000


class SharedCacheConformance(Suite):
    """The cases."""

    def caches(self, count: int) -> AbstractAsyncContextManager[list[SharedCache]]:
        """So many caches on one empty server; ended when the block ends."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Return when so much time has passed for the server."""
        raise NotImplementedError

    def take_away(self) -> None:
        """From now on the server does not answer, and what it held is lost."""
        raise NotImplementedError

    async def bring_back(self, caches: list[SharedCache]) -> None:
        """It answers again; returns once the caches have noticed."""
        raise NotImplementedError

    @case("Q1.whole")
    async def test_what_one_puts_another_gets_whole(self) -> None:
        """Bytes of all kinds come back as they were, for another process; nothing comes back for another key."""
        async with self.caches(2) as (one, other):
            every = bytes(range(256)) * 40 + b"\r\n$-1\r\n"
            await one.put(b"a", every, LONG_MS)
            await one.put(b"b", b"\x00", LONG_MS)

            assert [await other.get(b"a"), await other.get(b"b"), await other.get(b"c")] == [every, b"\x00", None]

    @case("Q1.last")
    async def test_the_last_one_put_counts(self) -> None:
        """A second value takes the place of the first, a shorter one too."""
        async with self.caches(2) as (one, other):
            await one.put(b"a", b"x" * 1000, LONG_MS)
            await other.put(b"a", b"y", LONG_MS)

            assert await one.get(b"a") == b"y"

    @case("Q2.time")
    async def test_what_was_put_ends(self) -> None:
        """After its time it is gone; what has longer stays."""
        async with self.caches(1) as (cache,):
            await cache.put(b"short", b"x", 200)
            await cache.put(b"long", b"x", LONG_MS)
            await self.pass_time(0.5)

            assert [await cache.get(b"short"), await cache.get(b"long")] == [None, b"x"]

    @case("Q2.size")
    async def test_what_is_too_long_is_not_kept(self) -> None:
        """The longest value is kept; a longer one takes what was there with it."""
        async with self.caches(1) as (cache,):
            await cache.put(b"a", b"x" * VALUE_BYTES_MAX, LONG_MS)
            longest = await cache.get(b"a")
            await cache.put(b"a", b"x" * (VALUE_BYTES_MAX + 1), LONG_MS)

            assert longest is not None
            assert len(longest) == VALUE_BYTES_MAX
            assert await cache.get(b"a") is None

    @case("Q3.one")
    async def test_of_many_who_claim_one_gets_it(self) -> None:
        """Four processes claim ten times each: one of forty wins, and another key is free."""
        async with self.caches(4) as caches:
            said = await all_of(*(cache.claim(b"a", b"%d" % n) for cache in caches for n in range(10)))

            assert (said.count(True), said.count(False)) == (1, 39)
            assert await caches[0].claim(b"b", b"t") is True

    @case("Q3.release")
    async def test_only_the_holder_ends_a_claim(self) -> None:
        """Another token ends nothing; the own one makes it free."""
        async with self.caches(2) as (one, other):
            assert await one.claim(b"a", b"mine") is True
            await other.release(b"a", b"yours")
            assert await other.claim(b"a", b"yours") is False
            await one.release(b"a", b"mine")
            assert await other.claim(b"a", b"yours") is True

    @case("Q3.apart")
    async def test_a_claim_is_no_value(self) -> None:
        """What is claimed has no value, and what has a value can be claimed."""
        async with self.caches(1) as (cache,):
            assert await cache.claim(b"a", b"t") is True
            assert await cache.get(b"a") is None
            await cache.put(b"a", b"x", LONG_MS)
            await cache.release(b"a", b"t")

            assert await cache.get(b"a") == b"x"
            assert await cache.claim(b"a", b"t") is True

    @case("Q4.away")
    async def test_a_server_that_is_away_is_no_error(self) -> None:
        """Nothing raises: there is no value, nobody can say who should load, and it says so of itself. Later all works again."""
        async with self.caches(1) as caches:
            cache = caches[0]
            await cache.put(b"a", b"x", LONG_MS)
            self.take_away()

            assert await cache.get(b"a") is None
            await cache.put(b"a", b"y", LONG_MS)
            assert await cache.claim(b"a", b"t") is None
            await cache.release(b"a", b"t")
            assert not cache.condition.up
            assert cache.condition.why

            await self.bring_back(caches)
            assert await cache.get(b"a") is None
            await cache.put(b"a", b"z", LONG_MS)
            assert await cache.get(b"a") == b"z"
            assert await cache.claim(b"a", b"t") is True

    @case("Q6")
    async def test_a_caller_that_goes_away_harms_nobody(self) -> None:
        """Of 300 who ask at once every third is cancelled; the others get their own answers, and so does the next one."""
        async with self.caches(1) as (cache,):
            for n in range(300):
                await cache.put(b"%d" % n, b"value %d" % n, LONG_MS)
            tasks = Tasks("callers")
            asked = [tasks.spawn(cache.get(b"%d" % n), name=str(n)) for n in range(300)]
            await self.pass_time(0)
            for n in range(0, 300, 3):
                asked[n].cancel()
            got = await outcomes_of(*asked)

            assert [got[n] for n in range(300) if n % 3] == [b"value %d" % n for n in range(300) if n % 3]
            assert await cache.get(b"7") == b"value 7"
