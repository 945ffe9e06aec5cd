"""Reads through the cache: one load for a crowd, times, stale answers, limits; on a clock that jumps."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dujiang.backends.memory.cache import MemoryCache
from dujiang.caching import through as module
from dujiang.caching.cache import Entry
from dujiang.caching.guard import Guard
from dujiang.caching.tally import Tally
from dujiang.caching.through import CHECK_EVERY, LOADS_MAX, STALE_S_MAX, Through, Wanted
from dujiang.data.database import DatabaseUnreachable
from dujiang.kernel.context import Context, current, entered
from dujiang.kernel.entropy import SeededEntropy
from dujiang.kernel.errors import Overloaded, Refusal
from dujiang.kernel.node import Node
from dujiang.telemetry.metrics import Metrics
from dujiang.testing.clocks import JumpClock

TTL_S = 100.0


class Desk:
    """A read behind the cache, and a database that answers when the test says.

    Attributes:
        value: What the database holds.
        error: What loading raises instead.
        gate: Loads wait for it after they have read the value.
        loads: How often each key was loaded.
        inside: Loads under way now, and the most there were.
    """

    def __init__(self, node: Node, clock: JumpClock) -> None:
        self.node = node
        self.clock = clock
        self.guard = Guard()
        self.cache = MemoryCache("memory:?max_mib=64", node)
        self.metrics = Metrics()
        tally = Tally(self.metrics, "shop.read")
        self.through = Through(node, self.cache, self.guard, tally, ttl_s=TTL_S, absent_s=5.0, name="shop.read")
        self.value: bytes | None = b"1"
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.loads: Counter[int] = Counter()
        self.inside = self.inside_max = 0

    async def load(self, key: int) -> bytes | None:
        """Read the value, then wait for the gate."""
        self.loads[key] += 1
        self.inside += 1
        self.inside_max = max(self.inside_max, self.inside)
        value, error = self.value, self.error
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
        if error is not None:
            raise error
        return value

    async def get(self, key: int = 1) -> tuple[bytes | None, bool]:
        """Bytes, and whether they are stale."""
        wanted = Wanted(("shop.read", b"[%d]" % key, "", ""), lambda: (key,), lambda: self.load(key))
        entry, stale = await self.through.get(wanted)
        return entry.body, stale

    def look(self) -> None:
        """The log was looked at just now, and there was nothing."""
        self.guard.heard(self.clock.monotonic(), (), missed=False)

    def pass_time(self, seconds: float) -> None:
        """Let time go by, looking at the log."""
        self.clock.jump(seconds)
        self.look()

    def count(self, outcome: str) -> int:
        """How many reads had this outcome."""
        return self.metrics.counter("dujiang_cache_reads_total", read="shop.read", outcome=outcome).value


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk inside a context."""
    clock = JumpClock()
    node = Node("test", clock, SeededEntropy("through"))
    with entered(Context(node, None)):
        found = Desk(node, clock)
        found.look()
        yield found
    await node.tasks.close()


async def turns() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_second_read_asks_nobody(desk: Desk) -> None:
    """One load, then hits."""
    assert [await desk.get() for _ in range(3)] == [(b"1", False)] * 3
    assert desk.loads[1] == 1
    assert (desk.count("miss"), desk.count("hit")) == (1, 2)


async def test_a_thousand_readers_of_an_expired_key_cause_one_load(desk: Desk) -> None:
    """A hot key ends under a thousand readers at once: one load, a thousand answers."""
    await desk.get()
    desk.pass_time(TTL_S + STALE_S_MAX)
    desk.value = b"2"

    answers = await asyncio.gather(*(desk.get() for _ in range(1000)))

    assert set(answers) == {(b"2", False)}
    assert desk.loads[1] == 2


async def test_a_cancelled_leader_harms_nobody(desk: Desk) -> None:
    """The first of a thousand callers, whose call began the load, is cancelled: 999 results, one load."""
    desk.gate.clear()
    callers = [asyncio.ensure_future(desk.get()) for _ in range(1000)]
    await turns()
    callers[0].cancel()
    await turns()
    desk.gate.set()

    landed = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(landed[0], asyncio.CancelledError)
    assert landed[1:] == [(b"1", False)] * 999
    assert desk.loads[1] == 1


async def test_an_answer_of_a_load_that_all_left_is_kept(desk: Desk) -> None:
    """Every caller goes away: the load goes on, and the next reader finds its answer."""
    desk.gate.clear()
    caller = asyncio.ensure_future(desk.get())
    await turns()
    caller.cancel()
    await turns()
    desk.gate.set()
    await turns()

    assert await desk.get() == (b"1", False)
    assert desk.loads[1] == 1


async def test_what_is_forgotten_during_a_load_is_not_given_afterwards(desk: Desk) -> None:
    """A load reads version 1, then version 2 is committed and forgotten: who asks then gets 2, and 1 is not kept."""
    desk.gate.clear()
    early = asyncio.ensure_future(desk.get())
    await turns()
    desk.value = b"2"
    desk.guard.touch([1])
    late = asyncio.ensure_future(desk.get())
    await turns()
    desk.gate.set()

    assert await early == (b"1", False)
    assert await late == (b"2", False)
    assert await desk.get() == (b"2", False)
    assert desk.loads[1] == 2


async def test_an_error_is_everybodys_and_is_not_kept(desk: Desk) -> None:
    """All who wait get the refusal; the next one loads again."""
    desk.error = Refusal("no")
    landed = await asyncio.gather(*(desk.get() for _ in range(5)), return_exceptions=True)
    desk.error = None

    assert [type(each) for each in landed] == [Refusal] * 5
    assert await desk.get() == (b"1", False)
    assert desk.loads[1] == 2


async def test_that_there_is_nothing_is_kept_and_ends(desk: Desk) -> None:
    """Ten reads of what is absent are one load; a forgotten name, and the end of `absent`, make it two and three."""
    desk.value = None
    assert {await desk.get() for _ in range(10)} == {(None, False)}
    assert desk.loads[1] == 1

    desk.guard.touch([1])
    assert await desk.get() == (None, False)
    assert desk.loads[1] == 2

    desk.pass_time(5.0)
    assert await desk.get() == (None, False)
    assert desk.loads[1] == 3


async def test_near_its_end_an_answer_is_loaded_while_it_is_given(desk: Desk) -> None:
    """At 0.75 of the ttl and beyond the reader gets the old bytes at once, and the new ones are there for the next."""
    await desk.get()
    found = desk.cache.get(("shop.read", b"[1]", "", ""))
    assert found is not None
    desk.value = b"2"
    desk.pass_time(found.refresh_s - desk.clock.monotonic() + 0.1)

    assert await desk.get() == (b"1", False)
    await turns()
    assert await desk.get() == (b"2", False)
    assert desk.loads[1] == 2


async def test_an_answer_is_never_older_than_its_ttl_while_loading_works(desk: Desk) -> None:
    """After the ttl the next reader gets what is loaded then."""
    await desk.get()
    desk.value = b"2"
    desk.pass_time(TTL_S)

    assert await desk.get() == (b"2", False)


async def test_where_loading_fails_the_old_answer_is_given_and_marked(desk: Desk) -> None:
    """For an hour after its ttl; loading is tried at most every ten seconds; then the error surfaces."""
    await desk.get()
    desk.error = DatabaseUnreachable(url="test", why="gone")
    desk.pass_time(TTL_S)

    assert {await desk.get() for _ in range(50)} == {(b"1", True)}
    assert desk.loads[1] == 2
    desk.pass_time(11.0)
    assert await desk.get() == (b"1", True)
    assert desk.loads[1] == 3
    assert desk.count("stale") == 51
    desk.pass_time(STALE_S_MAX)
    with pytest.raises(DatabaseUnreachable):
        await desk.get()


async def test_a_fault_of_the_handler_is_not_hidden_by_an_old_answer(desk: Desk) -> None:
    """What is no outage surfaces at once."""
    await desk.get()
    desk.error = ValueError("a bug")
    desk.pass_time(TTL_S)

    with pytest.raises(ValueError, match="a bug"):
        await desk.get()


async def test_a_slow_load_gives_the_old_answer_in_time_and_the_new_one_later(desk: Desk) -> None:
    """The old one comes marked after a tenth of a second; what was being loaded is there when it has landed."""
    await desk.get()
    desk.pass_time(TTL_S)
    desk.value = b"2"
    desk.gate.clear()

    assert await desk.get() == (b"1", True)
    desk.gate.set()
    await turns()
    assert await desk.get() == (b"2", False)
    assert desk.loads[1] == 2


async def test_what_was_forgotten_is_not_given_as_stale_either(desk: Desk) -> None:
    """Loading fails, and the name was forgotten: the error, not the outdated answer."""
    await desk.get()
    desk.error = DatabaseUnreachable(url="test", why="gone")
    desk.guard.touch([1])

    with pytest.raises(DatabaseUnreachable):
        await desk.get()


async def test_without_looks_at_the_log_nothing_is_fresh(desk: Desk) -> None:
    """Three seconds without a look: each read loads; where that fails the answer is marked."""
    await desk.get()
    desk.clock.jump(3.1)

    assert await desk.get() == (b"1", False)
    assert desk.loads[1] == 2
    desk.error = DatabaseUnreachable(url="test", why="gone")
    assert await desk.get() == (b"1", True)
    desk.error = None
    desk.look()
    assert await desk.get() == (b"1", False)
    assert desk.loads[1] == 3


async def test_ends_are_spread(desk: Desk) -> None:
    """Ten thousand keys kept in one moment end over a fifth of their ttl, evenly; none after the ttl."""
    now_s = desk.clock.monotonic()
    left = []
    for key in range(10_000):
        await desk.get(key)
        found = desk.cache.get(("shop.read", b"[%d]" % key, "", ""))
        assert found is not None
        left.append(found.fresh_s - found.loaded_s)

    assert min(left) >= TTL_S * 0.8
    assert max(left) <= TTL_S
    by_second = Counter(int(each) for each in left)
    assert max(by_second.values()) < 3 * statistics.mean(by_second.values())
    assert desk.clock.monotonic() > now_s


async def test_a_scan_of_ids_that_do_not_exist_meets_the_cap(desk: Desk) -> None:
    """Loads of different keys: never more than sixteen at once, and all get their answer."""
    desk.value = None
    desk.gate.clear()
    scan = [asyncio.ensure_future(desk.get(key)) for key in range(500)]
    await turns()
    desk.gate.set()

    assert set(await asyncio.gather(*scan)) == {(None, False)}
    assert desk.inside_max == LOADS_MAX


async def test_absent_ids_asked_for_again_and_again_are_loaded_once(desk: Desk) -> None:
    """10,000 reads of 100 absent ids: 100 loads."""
    desk.value = None
    for n in range(10_000):
        await desk.get(n % 100)

    assert desk.loads.total() == 100


async def test_a_line_that_is_full_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than the line takes: 503 for the one beyond, and it names the read."""
    monkeypatch.setattr(module, "LINE_MAX", 20)
    desk.gate.clear()
    waiting = [asyncio.ensure_future(desk.get(key)) for key in range(20)]
    await turns()

    with pytest.raises(Overloaded, match=r"shop\.read"):
        await desk.get(20)
    desk.gate.set()
    await asyncio.gather(*waiting)


async def test_a_load_has_no_caller_of_its_own(desk: Desk) -> None:
    """It keeps tenant and caller, which are in the key, and not the deadline of whoever came first."""
    seen: list[Any] = []

    async def load() -> bytes:
        seen.append(current())
        return b"1"

    with entered(current().but(deadline=desk.clock.monotonic() + 0.5, tenant="t", caller="c")):
        await desk.through.get(Wanted(("shop.read", b"", "t", "c"), lambda: (1,), load))

    assert (seen[0].tenant, seen[0].caller) == ("t", "c")
    assert seen[0].deadline > desk.clock.monotonic() + 10


async def test_what_changed_without_forget_is_noticed_by_samples(desk: Desk) -> None:
    """A row is changed behind our back: one of ten thousand hits is compared, and what stays different is counted."""
    await desk.get()
    desk.value = b"changed by hand"
    for _ in range(CHECK_EVERY):
        desk.look()
        await desk.get()
    counter = desk.metrics.counter("dujiang_cache_inconsistent_total", read="shop.read")
    await turns()
    assert desk.loads[1] == 2
    for _ in range(60):
        desk.pass_time(0.25)
        await turns()

    assert counter.value == 1


async def test_a_sample_that_is_forgotten_in_time_is_no_fault(desk: Desk) -> None:
    """The change was committed and the look was about to find it: nothing is counted."""
    await desk.get()
    desk.value = b"2"
    for _ in range(CHECK_EVERY):
        desk.look()
        await desk.get()
    await turns()
    assert desk.loads[1] == 2
    desk.guard.touch([1])
    for _ in range(60):
        desk.pass_time(0.25)
        await turns()

    assert desk.metrics.counter("dujiang_cache_inconsistent_total", read="shop.read").value == 0


def test_an_entry_says_what_it_is() -> None:
    """Its repr shows tick and size, for people who look for a fault."""
    entry = Entry(b"123", (), tick=4, loaded_s=0.0, refresh_s=0.0, fresh_s=0.0, stale_s=0.0)

    assert repr(entry) == "<Entry of tick 4: 3 bytes>"
