"""The cache that processes share, on every adapter."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from dujiang.backends.redis.cache import CacheAway, RedisCache
from dujiang.backends.redis.options import RedisOption, options_of
from dujiang.backends.redis.simulated.cache import CacheModel, SimulatedCache
from dujiang.caching.shared import SharedCache
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.node import Node
from dujiang.testing.conformance.shared_cache import LONG_MS, SharedCacheConformance
from dujiang.testing.processes import BinaryMissing
from dujiang.testing.redis import RedisServer

# A loaded machine may stand still for longer than a request may wait for a cache.
PATIENT_S = 20.0
number = itertools.count()
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One server for all cases."""
    try:
        with RedisServer() as found:
            yield found
    except BinaryMissing as missing:
        pytest.skip(str(missing))


@asynccontextmanager
async def opened(server: RedisServer, *, prefix: str = "", timeout_s: float = PATIENT_S) -> AsyncIterator[RedisCache]:
    """A started cache."""
    node = Node.system()
    cache = RedisCache(server.url(prefix or f"t{next(number)}", timeout_s=timeout_s), node)
    await cache.start()
    try:
        yield cache
    finally:
        await cache.stop()
        await node.tasks.close()


async def until(holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Return once something holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await CLOCK.sleep(0.01)


class TestRedis(SharedCacheConformance, capabilities=RedisCache.capabilities):
    """Redis."""

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> Iterator[None]:
        self.server = server
        yield
        server.start()

    def caches(self, count: int) -> AbstractAsyncContextManager[list[SharedCache]]:
        """So many, each with a connection of its own."""

        @asynccontextmanager
        async def made() -> AsyncIterator[list[SharedCache]]:
            prefix = f"t{next(number)}"
            async with AsyncExitStack() as stack:
                yield [await stack.enter_async_context(opened(self.server, prefix=prefix)) for _ in range(count)]

        return made()

    async def pass_time(self, seconds: float) -> None:
        """Wait."""
        await CLOCK.sleep(seconds)

    def take_away(self) -> None:
        """Kill it."""
        self.server.kill()

    async def bring_back(self, caches: list[SharedCache]) -> None:
        """Start it."""
        self.server.start()
        await until(lambda: all(cache.condition.up for cache in caches))


class Quiet:
    """A simulation in which nothing happens but what it was told to, on a clock that is moved by hand."""

    name, dead, tracing = "quiet", False, False

    def __init__(self) -> None:
        self.model = CacheModel()
        self.draws: dict[str, list[int]] = {}
        self.moved_us = 0

    async def hop(self, what: str) -> None:
        """One turn of the loop."""
        await asyncio.sleep(0)

    def draw(self, label: str, high: int = 1) -> int:
        """0, unless something else is on the list."""
        answers = self.draws.get(label, [])
        return min(high, answers.pop(0)) if answers else 0

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """The model."""
        return self.model

    def now_us(self) -> int:
        """Moved by hand."""
        return self.moved_us


class TestSimulated(SharedCacheConformance, capabilities=SimulatedCache.capabilities):
    """The model that the drill uses."""

    @pytest.fixture(autouse=True)
    def _quiet(self) -> None:
        self.quiet = Quiet()

    def caches(self, count: int) -> AbstractAsyncContextManager[list[SharedCache]]:
        """So many machines."""

        @asynccontextmanager
        async def made() -> AsyncIterator[list[SharedCache]]:
            node: Any = Node("quiet", CLOCK, SystemEntropy(), simulation=self.quiet)  # type: ignore[arg-type]
            yield [SimulatedCache("simulated:", node) for _ in range(count)]

        return made()

    async def pass_time(self, seconds: float) -> None:
        """Move the clock."""
        self.quiet.moved_us += round(seconds * 1e6)
        await asyncio.sleep(0)

    def take_away(self) -> None:
        """Everything is lost."""
        self.quiet.model.take_away()

    async def bring_back(self, caches: list[SharedCache]) -> None:
        """It answers."""
        self.quiet.model.away = False

    @pytest.mark.parametrize("late", range(1, 17))
    async def test_what_is_late_comes_over_what_came_meanwhile(self, late: int) -> None:
        """An old value arrives some calls after a newer one; in every second form it was there at once as well."""
        self.quiet.draws["cache.late"] = [late]
        async with self.caches(1) as (cache,):
            await cache.put(b"a", b"old", LONG_MS)
            at_once = await cache.get(b"a")
            await cache.put(b"a", b"new", LONG_MS)
            seen = [await cache.get(b"a") for _ in range(10)]

            assert at_once == (b"old" if late % 2 == 0 else None)
            assert (seen.count(b"new"), seen[-1]) == ((late + 1) // 2 - 1, b"old")

    async def test_its_other_faults_are_those_that_a_server_has(self) -> None:
        """No answer, an eviction, a lease that two have, and one of which nobody can say."""
        self.quiet.draws |= {"cache.away": [0, 1], "cache.evict": [0, 1], "cache.lease": [0, 1, 2]}
        async with self.caches(1) as (cache,):
            await cache.put(b"a", b"x", LONG_MS)
            assert await cache.get(b"a") is None
            assert [await cache.get(b"a"), await cache.get(b"a")] == [b"x", None]
            assert [await cache.claim(b"b", b"%d" % n) for n in range(4)] == [True, True, None, False]


class TestTrouble:
    async def test_a_silent_server_delays_few_and_then_nobody(self, server: RedisServer) -> None:
        """Stopped with open connections: who asks gives up after the time of one command, and then nobody waits at all.

        When it goes on it is asked again by itself, over the same connection.
        """
        async with opened(server, timeout_s=0.2) as cache:
            await cache.put(b"a", b"x", LONG_MS)
            clock = cache._node.clock
            server.pause()
            try:
                began_s = clock.monotonic()
                assert await asyncio.gather(*(cache.get(b"a") for _ in range(100))) == [None] * 100
                assert cache.condition.silent == 100
                assert "200 ms" in cache.condition.why
                first_s = clock.monotonic() - began_s
                began_s = clock.monotonic()
                for _ in range(1000):
                    assert await cache.get(b"a") is None
                assert clock.monotonic() - began_s < 10.0  # Not a thousand times 0.2 s.
                assert cache.condition.skipped == 1000
                assert first_s < 10.0  # Not a hundred times 0.2 s.
            finally:
                server.resume()
            await until(lambda: cache.condition.up)
            assert await cache.get(b"a") == b"x"

    async def test_a_full_server_refuses_what_is_put_and_gives_what_it_has(self, server: RedisServer) -> None:
        """`maxmemory` is reached and nothing may be evicted: reads go on, puts and claims are refused and counted."""
        async with opened(server) as cache:
            await cache.put(b"a", b"x", LONG_MS)
            server.command("CONFIG", "SET", "maxmemory", "1")
            try:
                await cache.put(b"b", b"y", LONG_MS)
                assert [await cache.get(b"a"), await cache.get(b"b")] == [b"x", None]
                assert await cache.claim(b"c", b"t") is None
                assert (cache.condition.up, cache.condition.refused) == (True, 2)
                assert "OOM" in cache.condition.why
            finally:
                server.command("CONFIG", "SET", "maxmemory", "0")
            await cache.put(b"b", b"y", LONG_MS)
            assert await cache.get(b"b") == b"y"

    async def test_a_server_that_only_reads_is_read(self, server: RedisServer) -> None:
        """A replica that lost its primary refuses writes: READONLY is counted, reads go on."""
        async with opened(server) as cache:
            await cache.put(b"a", b"x", LONG_MS)
            server.command("REPLICAOF", "127.0.0.1", "1")
            try:
                await cache.put(b"a", b"y", LONG_MS)
                assert await cache.get(b"a") == b"x"
                assert "READONLY" in cache.condition.why
            finally:
                server.command("REPLICAOF", "NO", "ONE")

    async def test_a_key_of_another_kind_is_a_miss(self, server: RedisServer) -> None:
        """Somebody made a list under our key: there is no value, and the next put takes its place."""
        async with opened(server, prefix="odd") as cache:
            server.command("RPUSH", "odd:c:a", "x")

            assert await cache.get(b"a") is None
            await cache.put(b"a", b"x", LONG_MS)
            assert await cache.get(b"a") == b"x"

    async def test_a_wrong_password_fails_no_start(self, server: RedisServer) -> None:
        """The copy starts without it, says why, and takes it up once the password is right."""
        node = Node.system()
        cache = RedisCache(f"redis://:wrong@127.0.0.1:{server.port}/0", node)
        server.command("CONFIG", "SET", "requirepass", "right")
        try:
            await cache.start()
            assert await cache.get(b"a") is None
            assert "WRONGPASS" in cache.condition.why
            with pytest.raises(CacheAway, match="WRONGPASS"):
                await cache.prove()
            assert "wrong@" not in repr(cache)
        finally:
            server.password = "right"
            server.command("CONFIG", "SET", "requirepass", "wrong")
            server.password = ""
        try:
            await until(lambda: cache.condition.up)
        finally:
            await cache.stop()
            await node.tasks.close()
            server.password = "wrong"
            server.command("CONFIG", "SET", "requirepass", "")
            server.password = ""

    async def test_what_the_server_says_of_itself_is_read_back(self, server: RedisServer) -> None:
        """Version, memory and persistence, for `dujiang doctor`."""
        async with opened(server) as cache:
            said = await cache.look()

        assert said["redis_version"].split(".")[0].isdigit()
        assert said["maxmemory_policy"] == "noeviction"
        assert said["aof_enabled"] == "0"

    async def test_prefixes_do_not_meet(self, server: RedisServer) -> None:
        """Two apps on one server: neither sees values or claims of the other."""
        async with opened(server, prefix="one") as one, opened(server, prefix="other") as other:
            await one.put(b"a", b"x", LONG_MS)

            assert await other.get(b"a") is None
            assert [await one.claim(b"a", b"t"), await other.claim(b"a", b"t")] == [True, True]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h/x", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/0?prefix=a:b", "prefix"),
        ("redis://h/0?prefix=", "prefix"),
        ("redis://h/0?timeout=0", "timeout"),
        ("redis://h/0?timeout=soon", "timeout"),
        ("redis://h/0?connect_timeout=61", "connect_timeout"),
        ("redis://h/0?timeout=nan", "timeout"),
        ("rediss://h/0?cafile=/nowhere", "cafile"),
    ],
)
def test_an_option_that_means_nothing_is_refused(url: str, name: str) -> None:
    """The error names option and value, and how it is written."""
    with pytest.raises(RedisOption) as caught:
        options_of(url)

    assert caught.value.name == name
    assert caught.value.hint


def test_a_url_says_who_and_where() -> None:
    """User and password are unquoted, and shown nowhere."""
    options = options_of("redis://app:pa%40ss@cache:6380/3?prefix=shop&timeout=0.1")

    assert (options.user, options.password, options.host, options.port) == ("app", "pa@ss", "cache", 6380)
    assert (options.number, options.prefix, options.timeout_s) == (3, "shop", 0.1)
    assert options.shown == "redis://cache:6380/3"
