"""The port `cache` on every adapter."""

from __future__ import annotations

import tracemalloc

import pytest

from dujiang.backends.memory.cache import CacheOption, MemoryCache
from dujiang.kernel.node import Node
from dujiang.testing.conformance.cache import MIB, CacheConformance, entry


class TestMemory(CacheConformance, capabilities=MemoryCache.capabilities):
    """The cache in the process's own memory."""

    def cache(self, limit_bytes: int) -> MemoryCache:
        """One of whole MiB."""
        return MemoryCache(f"memory:?max_mib={limit_bytes // MIB}", Node.system())

    def test_the_weight_is_no_less_than_the_memory(self) -> None:
        """What 2,000 entries really take is at most what they are said to take."""
        cache = self.cache(64 * MIB)
        tracemalloc.start()
        for n in range(2000):
            cache.put(("shop.read_order", b'["%d"]' % n, "tenant", "caller"), entry(b"%d" % n * 200))
        real_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert len(cache) == 2000
        assert real_bytes <= cache.used_bytes


@pytest.mark.parametrize("value", ["", "-1", "1.5", "64MiB", "9999999"])
def test_a_size_that_is_none_is_refused(value: str) -> None:
    """The error names option and value, and how a size is written."""
    with pytest.raises(CacheOption) as caught:
        MemoryCache(f"memory:?max_mib={value}", Node.system())

    assert f"max_mib={value}" in str(caught.value)
    assert "memory:?max_mib=64" in caught.value.hint
