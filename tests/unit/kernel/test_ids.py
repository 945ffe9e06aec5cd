"""Ids are unique between makers, ascend within one, carry their bucket, and survive a clock that steps back."""

from __future__ import annotations

import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kernel.ids import (
    AHEAD_MS_MAX,
    BUCKET_COUNT,
    EPOCH_MS,
    WORKER_COUNT,
    IdLeaseLost,
    IdMaker,
    IdsExhausted,
    bucket_of,
    made_at_ms,
    uuid7,
    uuid7_us,
)
from tests.unit.kernel.clocks import START_US, HandClock

PROCESS_COUNT = 4
IDS_EACH = 50_000

# Every fourth id is a child of the one before it, as in an order with its lines.
MAKER = """
import sys
from array import array
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.ids import IdMaker

maker, made, children = IdMaker(SystemClock(), int(sys.argv[1])), array("q"), array("q")
while len(made) < int(sys.argv[2]):
    made.append(maker.new_id())
    if len(made) % 4 == 0:
        children.append(maker.new_id(made[-1]))
sys.stdout.buffer.write(array("q", [len(made)]).tobytes() + made.tobytes() + children.tobytes())
"""


def test_four_processes_never_make_one_id_twice() -> None:
    """Makers with different worker numbers never meet, and each one's own ids ascend.

    Method: four real processes on the real clock, as fast as they can.
    """
    command = [sys.executable, "-c", MAKER]
    makers = [
        subprocess.Popen([*command, str(worker), str(IDS_EACH)], stdout=subprocess.PIPE)
        for worker in range(PROCESS_COUNT)
    ]
    outputs = [maker.communicate()[0] for maker in makers]

    seen: set[int] = set()
    for output in outputs:
        count, *ids = array("q", output)
        assert ids[:count] == sorted(ids[:count])
        assert [bucket_of(id_) for id_ in ids[count:]] == [bucket_of(id_) for id_ in ids[3:count:4]]
        seen.update(ids)
    assert len(seen) == PROCESS_COUNT * IDS_EACH * 5 // 4


class TestOneMaker:
    def test_an_id_is_a_positive_integer_of_63_bits_that_knows_when_it_was_made(self) -> None:
        """An id fits a BIGINT, on the last day of its range too, and holds its millisecond and worker."""
        last_us = (EPOCH_MS + (1 << 41) - 1) * 1000
        id_ = IdMaker(HandClock(), WORKER_COUNT - 1).new_id()
        final = IdMaker(HandClock(last_us), WORKER_COUNT - 1).new_id()

        assert made_at_ms(id_) == START_US // 1000
        assert (id_ >> 3) & (WORKER_COUNT - 1) == WORKER_COUNT - 1
        assert 0 < id_ < final < 2**63

    def test_ids_ascend_within_one_millisecond(self) -> None:
        """Ids without a parent ascend though the clock stands still, across buckets and into the next millisecond."""
        maker = IdMaker(HandClock(), 7)
        ids = [maker.new_id() for _ in range(3 * 8 * BUCKET_COUNT)]

        assert ids == sorted(set(ids))

    def test_buckets_are_spread(self) -> None:
        """Orders of different milliseconds lie in different buckets, so that shards fill evenly."""
        clock = HandClock()
        maker = IdMaker(clock, 0)
        counts = [0] * BUCKET_COUNT
        for _ in range(20 * BUCKET_COUNT):
            clock.at_us += 1000
            counts[bucket_of(maker.new_id())] += 1

        assert min(counts) > 0
        assert max(counts) < 80

    def test_a_child_lies_in_the_bucket_of_its_parent(self) -> None:
        """An aggregate stays in one bucket, however many children it has and whoever makes them."""
        clock = HandClock()
        parent = IdMaker(clock, 1).new_id()
        clock.at_us += 5_000_000
        maker = IdMaker(clock, 2)
        children = [maker.new_id(parent) for _ in range(100)]

        assert {bucket_of(child) for child in children} == {bucket_of(parent)}
        assert children == sorted(set(children))

    def test_every_id_is_above_what_the_last_holder_had_reserved(self) -> None:
        """A new holder of a worker number begins after the reserved instant, in every bucket, though it lies ahead."""
        clock = HandClock()
        above_ms = START_US // 1000 + 30_000
        maker = IdMaker(clock, 3, above_ms=above_ms)
        parents = [(bucket << 12) | 1 for bucket in range(BUCKET_COUNT)]

        assert all(made_at_ms(maker.new_id(parent)) > above_ms for parent in parents)
        assert made_at_ms(maker.new_id()) > above_ms

    def test_a_clock_that_steps_back_changes_nothing(self) -> None:
        """After a step back of an hour ids go on, above all that were made before."""
        clock = HandClock()
        maker = IdMaker(clock, 0)
        before = [maker.new_id() for _ in range(100)]
        parent = before[0]
        clock.at_us -= 3_600_000_000
        after = [maker.new_id() for _ in range(100)]

        assert min(after) > max(before)
        assert maker.new_id(parent) > parent

    def test_a_bucket_that_is_full_for_a_second_says_so_and_recovers(self) -> None:
        """One bucket gives 8 ids a millisecond and may run a second ahead; then it waits for the clock."""
        clock = HandClock()
        maker = IdMaker(clock, 0)
        parent = maker.new_id()
        room = 8 * (AHEAD_MS_MAX + 1) - 1
        made = [maker.new_id(parent) for _ in range(room)]

        with pytest.raises(IdsExhausted) as caught:
            maker.new_id(parent)
        assert caught.value.bucket == bucket_of(parent)
        assert maker.new_id() > parent  # other buckets are not concerned
        clock.at_us += 1000
        assert maker.new_id(parent) > made[-1]

    def test_a_lost_lease_ends_the_making_of_ids(self) -> None:
        """Past the confirmed time no id is made; a new confirmation allows them again, None for ever."""
        clock = HandClock()
        maker = IdMaker(clock, 5)
        maker.confirm(clock.monotonic() + 15)
        maker.new_id()
        clock.at_us += 15_000_001

        with pytest.raises(IdLeaseLost) as caught:
            maker.new_id()
        assert caught.value.worker == 5
        maker.confirm(clock.monotonic() + 15)
        maker.new_id()
        maker.confirm(None)
        clock.at_us += 10**12
        maker.new_id()

    @given(
        steps=st.lists(
            st.tuples(st.integers(-5_000_000, 5_000_000), st.one_of(st.none(), st.integers(0, 5)), st.integers(1, 40)),
            max_size=40,
        ),
    )
    def test_no_id_comes_twice_whatever_the_clock_does(self, steps: list[tuple[int, int | None, int]]) -> None:
        """Over any walk of the clock, with parents and without: all ids differ, and those without parent ascend."""
        clock = HandClock()
        maker = IdMaker(clock, 0)
        plain, children = [maker.new_id()], []
        for stepped_us, parent, count in steps:
            clock.at_us += stepped_us
            for _ in range(count):
                if parent is None:
                    plain.append(maker.new_id())
                else:
                    children.append(maker.new_id((parent * 200) << 12))

        assert plain == sorted(set(plain))
        assert len({*plain, *children}) == len(plain) + len(children)


class TestUuid7:
    @given(st.integers(0, (1 << 48) * 1000 - 1), st.integers(0, (1 << 64) - 1))
    def test_the_microsecond_comes_back(self, now_us: int, bits: int) -> None:
        """A message id holds its time to the microsecond, and is a UUID of version 7 to everybody else."""
        id_ = uuid7(now_us, bits)

        assert uuid7_us(id_) == now_us
        assert len(id_) == 16
        assert (id_[6] >> 4, id_[8] >> 6) == (7, 2)

    def test_later_ids_sort_after_earlier_ones(self) -> None:
        """Bytes sort by time, whatever the random part."""
        assert uuid7(START_US, (1 << 62) - 1) < uuid7(START_US + 1, 0)
