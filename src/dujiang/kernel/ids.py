"""Ids: 63 bits, made by us, sortable by time, with the bucket inside.

    62           22 21        12 11       3 2   0
    +--------------+------------+----------+-----+
    | ms since 2025| bucket     | worker   | seq |
    | 41 bits      | 10 bits    | 9 bits   | 3   |
    +--------------+------------+----------+-----+

Time stands first, so a B-tree grows at its right end. A child takes its parent's bucket (`bucket_of=`), so an aggregate
lives in one bucket and, later, on one shard. Without a parent the bucket changes with every millisecond, and the ids of
one maker ascend. Two makers never meet: the worker number is leased, and a new holder starts above the highest instant
that the old one had reserved (`above_ms`). A clock that steps back changes nothing: the maker goes on from its last
millisecond. It may run ahead of the clock by at most 1 s; beyond that it raises, because 8 ids per millisecond and
bucket are then exceeded for a whole second.

An id is an identity, not a secret: knowing one must never be a permission. tests/unit/kernel/test_ids.py holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from dujiang.kernel.clock import Clock

EPOCH_MS = 1_735_689_600_000  # 2025-01-01T00:00:00Z
BUCKET_COUNT = 1024
WORKER_COUNT = 512
SEQ_BITS, WORKER_BITS, BUCKET_BITS = 3, 9, 10
AHEAD_MS_MAX = 1000


@dataclass(eq=False, kw_only=True)
class IdsExhausted(DujiangError):
    """More ids were asked for than a second can hold."""

    code = "ids_exhausted"
    move = "wait"
    says = "bucket {bucket} is {ahead_ms} ms ahead of the clock"

    bucket: int
    ahead_ms: int


@dataclass(eq=False, kw_only=True)
class IdLeaseLost(DujiangError):
    """This process may not make ids any more: its lease on the worker number was not confirmed in time."""

    code = "id_lease_lost"
    move = "wait"
    says = "the lease on worker number {worker} was last confirmed too long ago"

    worker: int


def bucket_of(id_: int) -> int:
    """The bucket inside an id, 0..1023."""
    return (id_ >> (WORKER_BITS + SEQ_BITS)) & (BUCKET_COUNT - 1)


def made_at_ms(id_: int) -> int:
    """The Unix millisecond inside an id."""
    return (id_ >> (BUCKET_BITS + WORKER_BITS + SEQ_BITS)) + EPOCH_MS


def first_id_at(now_us: int) -> int:
    """No id that is made from this instant on is smaller."""
    return max(0, now_us // 1000 - EPOCH_MS) << (BUCKET_BITS + WORKER_BITS + SEQ_BITS)


class IdMaker:
    """Makes ids for one process.

    Args:
        clock: Wall time.
        worker: The leased worker number, 0..511.
        above_ms: Unix milliseconds; every id made is later than this.
    """

    def __init__(self, clock: Clock, worker: int, *, above_ms: int = 0) -> None:
        assert 0 <= worker < WORKER_COUNT
        self._clock = clock
        self.worker = worker
        first_ms = max(0, above_ms - EPOCH_MS + 1)
        # The latest instant that the clock has shown; a clock that steps back is taken to stand still until it is there.
        self._seen_ms = first_ms
        # Per bucket the last slot used, a slot being milliseconds * 8 + seq.
        self._last = [(first_ms << SEQ_BITS) - 1] * BUCKET_COUNT
        self._ms = first_ms
        self._bucket = 0
        self._good_until: float | None = None

    def confirm(self, until: float | None) -> None:
        """Allow ids until this monotonic time; None = for ever (a store with one process)."""
        self._good_until = until

    def new_id(self, parent: int | None = None) -> int:
        """A new id; in the bucket of `parent` if given. Raises IdsExhausted or IdLeaseLost."""
        if self._good_until is not None and self._clock.monotonic() > self._good_until:
            raise IdLeaseLost(worker=self.worker)
        now_ms = self._seen_ms = max(self._seen_ms, self._clock.now_us() // 1000 - EPOCH_MS)
        if parent is not None:
            bucket = bucket_of(parent)
            slot = max(now_ms << SEQ_BITS, self._last[bucket] + 1)
        else:
            if now_ms > self._ms:
                self._ms = now_ms
                self._bucket = (now_ms * 0x9E3779B1 >> 16) & (BUCKET_COUNT - 1)  # spread by Knuth's multiplier
            bucket, slot = self._next_in_order()
        ahead_ms = (slot >> SEQ_BITS) - now_ms
        if ahead_ms > AHEAD_MS_MAX:
            raise IdsExhausted(bucket=bucket, ahead_ms=ahead_ms)
        self._last[bucket] = slot
        ms, seq = slot >> SEQ_BITS, slot & ((1 << SEQ_BITS) - 1)
        return (((ms << BUCKET_BITS | bucket) << WORKER_BITS | self.worker) << SEQ_BITS) | seq

    def _next_in_order(self) -> tuple[int, int]:
        """The next free slot at or after (ms, bucket), so that ids without a parent ascend."""
        while True:
            slot = max(self._ms << SEQ_BITS, self._last[self._bucket] + 1)
            if slot >> SEQ_BITS == self._ms:
                return self._bucket, slot
            self._bucket += 1
            if self._bucket == BUCKET_COUNT:
                self._ms, self._bucket = self._ms + 1, 0


def uuid7(now_us: int, random_bits: int) -> bytes:
    """A UUIDv7 as 16 bytes: 48 bits of milliseconds, 12 bits of the sub-millisecond, 62 random bits (RFC 9562).

    Args:
        now_us: Microseconds since the Unix epoch.
        random_bits: At least 62 random bits.
    """
    ms, us = divmod(now_us, 1000)
    high = (ms & (1 << 48) - 1) << 16 | 0x7000 | (us * 4096 // 1000)
    low = 0x8000_0000_0000_0000 | random_bits & (1 << 62) - 1
    return (high << 64 | low).to_bytes(16, "big")


def uuid7_us(message_id: bytes) -> int:
    """The microsecond time inside a UUIDv7."""
    head = int.from_bytes(message_id[:8], "big")
    # Rounded up, because making it rounded down: every microsecond comes back as it went in.
    return (head >> 16) * 1000 + ((head & 0xFFF) * 1000 + 4095) // 4096
