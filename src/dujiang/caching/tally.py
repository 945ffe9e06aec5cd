"""Tally: what is counted of one cached read, bound to the declared metrics once and then only added to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dujiang.telemetry.metrics import Metrics


class Tally:
    """The counters of one read.

    Args:
        metrics: Where they are declared and read.
        read: Its name.
    """

    __slots__ = ("hits", "inconsistent", "loads", "misses", "refreshes", "stale")

    def __init__(self, metrics: Metrics, read: str) -> None:
        self.hits = metrics.counter("dujiang_cache_reads_total", read=read, outcome="hit")
        self.misses = metrics.counter("dujiang_cache_reads_total", read=read, outcome="miss")
        self.stale = metrics.counter("dujiang_cache_reads_total", read=read, outcome="stale")
        self.loads = metrics.counter("dujiang_cache_loads_total", read=read)
        self.refreshes = metrics.counter("dujiang_cache_refreshes_total", read=read)
        self.inconsistent = metrics.counter("dujiang_cache_inconsistent_total", read=read)
