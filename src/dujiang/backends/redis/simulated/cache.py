"""Shared cache of a simulated cluster: the second level of the port `cache` for the drill; it does whatever a real one may.

How each promise of caching/shared.py is kept: as by backends/redis/cache.py, over one dictionary for all machines, with a way
over the network to it and back. What the simulation draws:

    cache.away    this call gets no answer: after 50 ms there is no value, and nobody can say who should load
    cache.evict   the value that is asked for is gone
    cache.late    what is put arrives only some calls later, over what came meanwhile; in its other form also at once
    cache.lease   a claim is given although another has it, or nobody can say

None of them may be seen by a client, which is what the drill looks for (drill/reads.py). Outside a simulation this adapter
refuses to be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.caching.cache import CacheCapabilities
from dujiang.caching.shared import LEASE_MS, VALUE_BYTES_MAX, Condition
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.kernel.node import Node

NAME = "cache"
AWAY_S = 0.05
LATE_CALLS_MAX = 8


@dataclass(eq=False, kw_only=True)
class CacheUnfit(DujiangError):
    """A cache that exists in drills only is set for a real process."""

    code = "cache_unfit"
    move = "fix"
    says = "only `dujiang drill` can use the cache {url}"
    cure = "set `cache` to memory:, or to the URL of a server"

    url: str


class CacheModel:
    """What the machines share."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, int]] = {}
        self.leases: dict[bytes, tuple[bytes, int]] = {}
        self.late: list[tuple[int, bytes, bytes, int]] = []
        self.calls = 0
        self.away = False

    def __repr__(self) -> str:
        return f"<CacheModel: {len(self.values)} values, {len(self.late)} on their way>"

    def called(self) -> None:
        """One more call: what was delayed until it arrives."""
        self.calls += 1
        due = [each for each in self.late if each[0] <= self.calls]
        if due:
            self.late = [each for each in self.late if each[0] > self.calls]
            for _, key, value, ends_us in due:
                self.values[key] = (value, ends_us)

    def take_away(self) -> None:
        """It answers nobody, and what it held is lost."""
        self.away = True
        self.values.clear()
        self.leases.clear()
        self.late.clear()

    def disconnect(self, _: Any) -> None:
        """A machine died; nothing here is its own."""


class SimulatedCache:
    """One machine's way to the shared cache.

    Args:
        url: `simulated:`.
        node: Its simulation holds the cache under the name `cache`.

    Raises:
        CacheUnfit: Outside a simulation.
    """

    capabilities = CacheCapabilities(shared=True)
    first_url = "memory:?max_mib=64"

    def __init__(self, url: str, node: Node) -> None:
        if node.simulation is None:
            raise CacheUnfit(url=url)
        self._simulation = node.simulation
        self._node = node
        self._model = node.simulation.shared(NAME, CacheModel)
        self.condition = Condition(up=True)

    def __repr__(self) -> str:
        return f"<SimulatedCache {self._model!r}>"

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def get(self, key: bytes) -> bytes | None:
        """The bytes under a key; None = there are none, or they cannot be had."""
        if not await self._there():
            return None
        if self._simulation.draw("cache.evict"):
            self._model.values.pop(key, None)
        value, ends_us = self._model.values.get(key, (None, 0))
        await self._simulation.hop("cache.reply")
        return value if self._simulation.now_us() < ends_us else None

    async def put(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        """Keep bytes under a key for so long, in the place of those before."""
        if not await self._there():
            return
        ends_us = self._simulation.now_us() + ttl_ms * 1000
        if len(value) > VALUE_BYTES_MAX or ttl_ms <= 0:
            self._model.values.pop(key, None)
        else:
            late = self._simulation.draw("cache.late", 2 * LATE_CALLS_MAX)
            if late:
                self._model.late.append((self._model.calls + 2 + (late + 1) // 2, key, value, ends_us))
            if late % 2 == 0:
                self._model.values[key] = (value, ends_us)
        await self._simulation.hop("cache.reply")

    async def claim(self, key: bytes, token: bytes) -> bool | None:
        """Whether the caller is the one who should load; None = nobody can say."""
        if not await self._there():
            return None
        now_us = self._simulation.now_us()
        strange = self._simulation.draw("cache.lease", 2)
        free = self._model.leases.get(key, (b"", 0))[1] <= now_us
        if free:
            self._model.leases[key] = (token, now_us + LEASE_MS * 1000)
        await self._simulation.hop("cache.reply")
        return (free, True, None)[strange]

    async def release(self, key: bytes, token: bytes) -> None:
        """End a claim, if it is still that of this token."""
        if await self._there() and self._model.leases.get(key, (b"", 0))[0] == token:
            del self._model.leases[key]

    async def look(self) -> dict[str, str]:
        """What it says of itself."""
        return {"values": str(len(self._model.values))}

    async def prove(self) -> str | None:
        """It is there."""
        return None

    async def _there(self) -> bool:
        """The way to it; False when it gets no answer."""
        away = self._simulation.draw("cache.away") or self._model.away
        self.condition.up, self.condition.why = not away, "it does not answer" if away else ""
        if away:
            self.condition.silent += 1
            await self._node.clock.sleep(AWAY_S)
            return False
        await self._simulation.hop("cache.request")
        self._model.called()
        return True
