"""What every adapter of the port `cache` must do; the numbers are those of the port's promises, K1 to K5.

A subclass gives `cache(limit_bytes)`, a fresh and empty one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.caching.cache import Entry
from dujiang.testing.conformance.cases import Suite, case

if TYPE_CHECKING:
    from dujiang.caching.cache import Cache, Key

MIB = 2**20


def key(n: int) -> Key:
    """The n-th key."""
    return ("test.read", b"[%d]" % n, "", "")


def entry(body: bytes | None, *, tick: int = 1) -> Entry:
    """An entry with these bytes, fresh for a minute."""
    return Entry(body, (1, 2), tick=tick, loaded_s=10.0, refresh_s=60.0, fresh_s=70.0, stale_s=100.0)


class CacheConformance(Suite):
    """The cases."""

    def cache(self, limit_bytes: int) -> Cache:
        """A fresh cache that may take so much."""
        raise NotImplementedError

    @case("K1.same")
    def test_what_was_put_is_given_back_unchanged(self) -> None:
        """Bytes, names, ticks and times come back; nothing comes back for another key."""
        cache = self.cache(MIB)
        cache.put(key(1), entry(b'{"a":1}', tick=7))

        found = cache.get(key(1))

        assert found is not None
        assert (found.body, found.names, found.tick, found.fresh_s) == (b'{"a":1}', (1, 2), 7, 70.0)
        assert cache.get(key(2)) is None

    @case("K1.last")
    def test_the_last_one_put_counts(self) -> None:
        """A second entry takes the place of the first, and its weight too."""
        cache = self.cache(MIB)
        cache.put(key(1), entry(b"x" * 1000))
        once = cache.used_bytes
        cache.put(key(1), entry(b"y" * 1000))

        found = cache.get(key(1))
        assert found is not None
        assert found.body == b"y" * 1000
        assert (len(cache), cache.used_bytes) == (1, once)

    @case("K1.nothing")
    def test_that_there_is_nothing_is_an_entry(self) -> None:
        """An entry without a body is one, and not the same as no entry."""
        cache = self.cache(MIB)
        cache.put(key(1), entry(None))

        found = cache.get(key(1))

        assert found is not None
        assert found.body is None

    @case("K2")
    def test_the_limit_holds(self) -> None:
        """Ten times more than fits is put, of all sizes; the limit is never passed, and most of it is used."""
        cache = self.cache(MIB)
        for n in range(1000):
            cache.put(key(n), entry(b"x" * (n * 37 % 20_000)))
            assert cache.used_bytes <= MIB

        assert cache.used_bytes > MIB * 0.8

    @case("K3.large")
    def test_what_is_too_large_is_not_kept(self) -> None:
        """An entry above an eighth of the limit pushes nothing out, and what lay under its key is gone."""
        cache = self.cache(MIB)
        cache.put(key(1), entry(b"small"))
        cache.put(key(2), entry(b"small"))
        cache.put(key(2), entry(b"x" * (MIB // 8 + 1)))

        assert cache.get(key(1)) is not None
        assert cache.get(key(2)) is None

    @case("K3.zero")
    def test_a_limit_of_nothing_keeps_nothing(self) -> None:
        """With a limit of 0 the smallest entry is not kept."""
        cache = self.cache(0)
        cache.put(key(1), entry(None))

        assert cache.get(key(1)) is None
        assert cache.used_bytes == 0

    @case("K4")
    def test_what_is_read_stays(self) -> None:
        """Ten entries that are read all the time outlive thousands that nobody reads."""
        cache = self.cache(MIB)
        for n in range(10):
            cache.put(key(n), entry(b"x" * 1000))
        for n in range(10, 5000):
            cache.put(key(n), entry(b"x" * 1000))
            for hot in range(10):
                cache.get(key(hot))

        assert [n for n in range(10) if cache.get(key(n)) is None] == []

    @case("K5.clear")
    def test_clear_leaves_nothing(self) -> None:
        """No entry, no weight."""
        cache = self.cache(MIB)
        for n in range(10):
            cache.put(key(n), entry(b"x"))
        cache.clear()

        assert (len(cache), cache.used_bytes, cache.get(key(3))) == (0, 0, None)

    @case("K5.drop")
    def test_drop_leaves_the_others(self) -> None:
        """One is gone, and to drop it again, or one that never was, is nothing."""
        cache = self.cache(MIB)
        cache.put(key(1), entry(b"x"))
        once = cache.used_bytes
        cache.put(key(2), entry(b"x"))
        for n in (2, 2, 3):
            cache.drop(key(n))

        assert cache.get(key(1)) is not None
        assert (len(cache), cache.used_bytes) == (1, once)
