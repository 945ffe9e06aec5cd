"""Caching: what one running copy has for its cached reads: the cache, the guard, and who keeps the guard informed.

With a cache that processes share there is a second level below the one in the process; second.py says how it is used.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from dujiang.caching.floors import Floors
from dujiang.caching.follower import Follower
from dujiang.caching.guard import Guard
from dujiang.caching.second import Place, Second
from dujiang.caching.tally import Tally
from dujiang.caching.through import Through
from dujiang.messaging.forgotten import ALL, means_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.caching.cache import Cache
    from dujiang.caching.shared import SharedCache
    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.telemetry.metrics import Metrics


# Set where a read goes around the caches, to be compared with what they give.
AROUND: ContextVar[bool] = ContextVar("around", default=False)


class Caching:
    """The service; it looks at the log only where some read is cached.

    Args:
        node: The running copy.
        database: Where the log is.
        cache: Where answers lie.
        metrics: What is counted.
        shared: Where answers lie for all processes.
    """

    def __init__(
        self, node: Node, database: Database, cache: Cache, metrics: Metrics, shared: SharedCache | None = None
    ) -> None:
        self._node = node
        self._cache = cache
        self._metrics = metrics
        self.guard = Guard()
        self._floors = None if shared is None else Floors()
        self.follower = Follower(node, database, self.guard, self._floors)
        self.second: Second | None = None
        if shared is not None and self._floors is not None:
            self.second = Second(node, shared, self.guard, self._floors, follower=self.follower, metrics=metrics)
        self._reads: dict[str, Tally] = {}

    def __repr__(self) -> str:
        return f"<Caching of {len(self._reads)} reads: {self._cache!r}, {self.guard!r}>"

    def through(self, name: str, *, ttl_s: float, absent_s: float, contract: bytes = b"") -> Through:
        """A read behind the cache; `contract` tells this form of its answers from those of other versions of the code."""
        tally = self._reads[name] = Tally(self._metrics, name)
        shared = None if self.second is None else (self.second, Place(name, contract))
        kept = {"ttl_s": ttl_s, "absent_s": absent_s}
        return Through(self._node, self._cache, self.guard, tally, name=name, shared=shared, **kept)

    @property
    def used(self) -> bool:
        """Whether any read is cached."""
        return bool(self._reads)

    async def start(self) -> None:
        """Look at the log for the first time, and go on."""
        if self._reads:
            self._metrics.at_scrape(self._measure)
            if self.second is not None:
                await self.second.cache.start()
            await self.follower.start()

    async def stop(self) -> None:
        """Look no more, and keep nothing."""
        await self.follower.stop()
        if self.second is not None:
            await self.second.cache.stop()
        self._cache.clear()

    def forgot(self, mark: int, names: Sequence[int]) -> None:
        """A transaction of this process has committed and makes these outdated; the mark is that of its row in the log."""
        self.follower.acted_upon(mark)
        if means_all(names):
            self.guard.begin_anew()
            names = (ALL,)
        else:
            self.guard.touch(names)
        if self._floors is not None:
            self._floors.touch(self.guard.tick, names)

    def show(self) -> dict[str, Any]:
        """What lies here and what became of it, for operators."""
        return {
            "entries": len(self._cache),
            "bytes": self._cache.used_bytes,
            "limit_bytes": self._cache.limit_bytes,
            "trusted": self.guard.trusted(self._node.clock.monotonic()),
            **({} if self.second is None else {"shared": self.second.show()}),
            "reads": {
                name: {
                    "hit": tally.hits.value,
                    "miss": tally.misses.value,
                    "stale": tally.stale.value,
                    "loads": tally.loads.value,
                    "inconsistent": tally.inconsistent.value,
                }
                for name, tally in self._reads.items()
            },
        }

    def _measure(self) -> None:
        if self.second is not None:
            self.second.measure(self._metrics)
        self._metrics.gauge("dujiang_cache_bytes").set(self._cache.used_bytes)
        self._metrics.gauge("dujiang_cache_entries").set(len(self._cache))
        trusted = self.guard.trusted(self._node.clock.monotonic())
        self._metrics.gauge("dujiang_cache_trusted").set(float(trusted))
