"""Through: reads go through the cache; what is not there is loaded once, whoever asks.

    get ──► fresh ─────────────────────────────► give                      (no await, no task, no validation)
            fresh, near its end ───────────────► give, and load meanwhile
            stale ──► load, at most 100 ms ────► give what came, else the stale one, marked
            dead or absent ──► load ───────────► give what came

Where answers are shared, a load looks at the second level first (second.py), and keeps what it brings there for all.

A load is a task of its own. Those who ask for the same key wait for it, and one of them that is cancelled, the first one
too, harms nobody. But nobody joins a load that began before one of its names was touched: it may bring what the asker has
just changed. `limit` loads run at once for each read; a crowd of different keys waits in line, and a line of `LINE_MAX` is
refused, so that a scan of ids that do not exist cannot take the database.

The tick is taken when the load begins, before its first statement, and so is the position that other processes judge by;
that order is the proof (guard.py), and it is written in one place, `_load`.

Times: an answer is fresh for 0.8 to 1.0 of its ttl, at random, so that what was loaded together does not end together.
For an hour after that it may still be given where loading fails, for it is not known to be outdated, only old. Where the
process cannot look at the log it may be outdated without our knowing; that is what the mark says.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.caching.cache import Entry
from dujiang.kernel.context import Context, current, entered
from dujiang.kernel.errors import DujiangError, Overloaded
from dujiang.kernel.tasks import current_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from dujiang.caching.cache import Cache, Key
    from dujiang.caching.guard import Guard
    from dujiang.caching.second import Place, Second
    from dujiang.caching.tally import Tally
    from dujiang.kernel.node import Node
    from dujiang.messaging.position import Position

logger = logging.getLogger("dujiang.caching")

T = TypeVar("T")

LOADS_MAX = 16
LINE_MAX = 10_000
LOAD_S_MAX = 30.0
STALE_AFTER_S = 0.1
STALE_S_MAX = 3600.0
RETRY_S = 10.0
SPREAD = 0.2
AHEAD = 0.1
CHECK_EVERY = 10_000
CHECK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller wants.

    Attributes:
        key: Under which the answer lies.
        names: Makes the numbers of what the answer depends on; called when it is loaded.
        load: Reads it from the database; None = there is nothing.
    """

    key: Key
    names: Callable[[], tuple[int, ...]]
    load: Callable[[], Awaitable[bytes | None]]


@dataclass(eq=False, kw_only=True)
class LoadStopped(DujiangError):
    """The process stops, and what a cached read waited for with it."""

    code = "load_stopped"
    move = "wait"
    says = "the load of {read} was stopped"

    read: str


class Flight:
    """One load under way.

    Attributes:
        tick: The guard's when it began; None = it has not begun.
        names: What the answer will depend on.
        task: Ends with the entry, or with the error that the load ended with.
        ahead: It began before the end of an answer, so a shared one must be newer than that.
        stale: Loading failed, and the entry is one that has ended.
    """

    __slots__ = ("ahead", "names", "stale", "task", "tick")

    def __init__(self, names: tuple[int, ...], *, ahead: bool = False) -> None:
        self.names = names
        self.ahead = ahead
        self.stale = False
        self.tick: int | None = None
        self.task: asyncio.Task[Entry | Exception]

    def may_be_joined(self, guard: Guard) -> bool:
        """Whether what it brings is as new as what a load that begins now would bring."""
        return self.tick is None or guard.valid(self.tick, self.names)


class Through:
    """One read behind the cache.

    Args:
        node: The running copy.
        cache: Where answers lie.
        guard: Decides what may be given.
        tally: What is counted.
        ttl_s: How long an answer is fresh, at most.
        absent_s: How long it is known that there is none, at most; 0 = that is not kept.
        name: Of the read, for messages.
        shared: The second level, and where the answers of this read lie there.
    """

    def __init__(
        self,
        node: Node,
        cache: Cache,
        guard: Guard,
        tally: Tally,
        *,
        ttl_s: float,
        absent_s: float,
        name: str,
        shared: tuple[Second, Place] | None = None,
    ) -> None:
        self._node = node
        self._cache = cache
        self._guard = guard
        self._tally = tally
        self._ttl_s = ttl_s
        self._absent_s = absent_s
        self._name = name
        self._shared = shared
        self._flights: dict[Key, Flight] = {}
        self._slots = asyncio.Semaphore(LOADS_MAX)
        self._check_in = CHECK_EVERY

    def __repr__(self) -> str:
        return f"<Through {self._name}: {len(self._flights)} loads>"

    async def get(self, wanted: Wanted) -> tuple[Entry, bool]:
        """The answer, and whether it is stale. Raises what the load raises."""
        guard, now_s = self._guard, self._node.clock.monotonic()
        found = self._cache.get(wanted.key)
        standing = "dead" if found is None else found.standing(guard, now_s)
        if found is not None and standing == "fresh":
            self._tally.hits.add()
            self._check_in -= 1
            if now_s >= found.refresh_s and wanted.key not in self._flights:
                self._tally.refreshes.add()
                self._flight(wanted, ahead=True)
            elif self._check_in <= 0:
                self._check_in = CHECK_EVERY
                self._spawn(self._check(wanted, found), "check")
            return found, False
        if found is not None and standing == "stale":
            return await self._or_stale(wanted, found)
        self._tally.misses.add()
        flight = self._flight(wanted)
        landed = await self._landed(flight)
        if flight.stale:
            self._tally.stale.add()
        return landed, flight.stale

    async def _or_stale(self, wanted: Wanted, found: Entry) -> tuple[Entry, bool]:
        """What a load brings in time; else what is there, if it has not died meanwhile."""
        error: Exception | None = None
        if self._node.clock.monotonic() >= found.retry_s:
            flight = self._flight(wanted)
            try:
                with self._node.limits.within(STALE_AFTER_S):
                    self._tally.misses.add()
                    return await self._landed(flight), flight.stale
            except TimeoutError:
                pass
            except DujiangError as failure:
                if failure.move != "wait":
                    raise
                error = failure
                found.retry_s = self._node.clock.monotonic() + RETRY_S
        if found.standing(self._guard, self._node.clock.monotonic()) == "dead":
            if error is not None:
                raise error
            flight = self._flight(wanted)
            return await self._landed(flight), flight.stale
        self._tally.stale.add()
        return found, True

    def _flight(self, wanted: Wanted, *, ahead: bool = False) -> Flight:
        """The load of a key: one that is under way and may be joined, else a new one. Raises Overloaded."""
        flight = self._flights.get(wanted.key)
        if flight is not None and flight.may_be_joined(self._guard):
            return flight
        if len(self._flights) >= LINE_MAX:
            raise Overloaded(what=f"the line of loads of {self._name}", size=len(self._flights), limit=LINE_MAX)
        flight = self._flights[wanted.key] = Flight(wanted.names(), ahead=ahead)
        flight.task = self._spawn(self._fly(flight, wanted), "load")
        return flight

    def _spawn(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """A task that belongs to no caller: it has no caller's deadline, trace or transaction."""
        context = current()
        deadline = self._node.clock.monotonic() + LOAD_S_MAX
        own = Context(self._node, context.runtime, deadline=deadline, caller=context.caller, tenant=context.tenant)
        with entered(own):
            return self._node.tasks.spawn(work, name=f"{what} {self._name}")

    async def _landed(self, flight: Flight) -> Entry:
        """Wait for a load; a waiter that is cancelled leaves it alone."""
        try:
            landed = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled() and not current_task().cancelling():
                raise LoadStopped(read=self._name) from None
            raise
        if isinstance(landed, Exception):
            raise landed.with_traceback(None)
        return landed

    async def _fly(self, flight: Flight, wanted: Wanted) -> Entry | Exception:
        """Load, keep, and give the answer or the error to all who wait."""
        try:
            entry = await self._brought(flight, wanted)
        except Exception as error:  # noqa: BLE001  (it is raised to each who waits)
            return error
        finally:
            if self._flights.get(wanted.key) is flight:
                del self._flights[wanted.key]
        # What was touched meanwhile would never be given; it must not push out what is.
        if entry.fresh_s > entry.loaded_s and self._guard.valid(entry.tick, entry.names):
            self._cache.put(wanted.key, entry)
        return entry

    async def _brought(self, flight: Flight, wanted: Wanted) -> Entry:
        """What another process has loaded, else a load, kept for all."""
        if self._shared is None:
            return (await self._load(flight, wanted))[0]
        second, place = self._shared
        key = place.of(wanted.key)
        found = await second.find(key, flight.names, newer=flight.ahead)
        if found.fresh is not None:
            return found.fresh
        kept = position = None
        try:
            entry, position = await self._load(flight, wanted, placed=second if found.token else None)
            if entry.fresh_s > entry.loaded_s and self._guard.valid(entry.tick, entry.names):
                kept = entry
        except DujiangError as error:
            now_s = self._node.clock.monotonic()
            stale = found.stale
            if error.move != "wait" or stale is None or stale.standing(self._guard, now_s) == "dead":
                raise
            stale.retry_s = now_s + RETRY_S
            flight.stale = True
            return stale
        finally:
            second.keep(key, kept, position, found.token)
        return entry

    async def _load(
        self, flight: Flight, wanted: Wanted, *, placed: Second | None = None
    ) -> tuple[Entry, Position | None]:
        """The answer, and where the log was before: by the one this process judges it, by the other all do."""
        async with self._slots:
            # Both before the data: what happens from here on, this load may have missed.
            position = None if placed is None else await placed.position(flight.names)
            flight.tick = tick = self._guard.tick
            began_s = self._node.clock.monotonic()
            self._tally.loads.add()
            body = await wanted.load()
        now_s = self._node.clock.monotonic()
        return self._entry(body, flight.names, tick, now_s, took_s=now_s - began_s), position

    def _entry(self, body: bytes | None, names: tuple[int, ...], tick: int, now_s: float, *, took_s: float) -> Entry:
        ttl_s = self._absent_s if body is None else self._ttl_s
        fresh_for_s = ttl_s * self._node.entropy.uniform(1 - SPREAD, 1)
        fresh_s = now_s + fresh_for_s
        # What takes long to load begins earlier, so that it is there in time.
        ahead_s = min(fresh_for_s / 2, max(fresh_for_s * AHEAD, 2 * took_s))
        return Entry(
            body,
            names,
            tick=tick,
            loaded_s=now_s,
            # That there is nothing is loaded when somebody asks again; a crowd may never do so.
            refresh_s=float("inf") if body is None else fresh_s - ahead_s,
            fresh_s=fresh_s,
            stale_s=fresh_s if body is None else fresh_s + STALE_S_MAX,
        )

    async def _check(self, wanted: Wanted, given: Entry) -> Exception | None:
        """Compare what was given with the database; what differs and does not die within seconds was outdated."""
        clock = self._node.clock
        try:
            if await wanted.load() == given.body:
                return None
            until_s = clock.monotonic() + CHECK_WAIT_S
            while clock.monotonic() < until_s:
                if not self._guard.valid(given.tick, given.names):
                    return None
                await clock.sleep(CHECK_WAIT_S / 20)
        except DujiangError as error:
            return error
        self._tally.inconsistent.add()
        logger.error(
            "%s gave an answer that the database does not: something changed without tx.forget; key %r",
            self._name,
            wanted.key[1][:200],
        )
        return None
