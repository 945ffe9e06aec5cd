"""Parts: which must exist, and that none leaves a hole to its neighbour."""

from __future__ import annotations

from itertools import pairwise

from dujiang.kernel.ids import uuid7
from dujiang.messaging.partitions import DAY_US, DAYS_AHEAD, OUTBOX_SPAN, parts_from, uuid_bound

NOW_US = 1_800_000_000_000_000


def test_parts_reach_from_yesterday_to_days_ahead_without_a_hole() -> None:
    """Each part begins where the one before it ends, and now lies inside, with days to spare."""
    for table in ("dj_inbox", "dj_outcome"):
        parts = [part for part in parts_from(NOW_US, 0) if part.table == table]

        assert len(parts) == 2 + DAYS_AHEAD
        assert all(before.high == after.low for before, after in pairwise(parts))
        assert parts[0].name < f"{table}_{NOW_US // DAY_US:08d}" < parts[-DAYS_AHEAD].name


def test_the_outbox_has_its_present_part_and_the_next() -> None:
    """The last number drawn lies in the first part; the second one begins at its end."""
    for last in (0, 1, OUTBOX_SPAN - 1, OUTBOX_SPAN, 7 * OUTBOX_SPAN + 3):
        present, following = [part for part in parts_from(NOW_US, last) if part.table == "dj_outbox"]

        assert int(present.low) <= last < int(present.high) == int(following.low)


def test_an_id_of_a_day_lies_between_the_bounds_of_that_day() -> None:
    """The bounds of the inbox compare with message ids as bytes."""
    day = NOW_US // DAY_US
    low, high = (bytes.fromhex(uuid_bound(each * DAY_US)[3:35]) for each in (day, day + 1))

    assert low <= uuid7(day * DAY_US, 0) < uuid7((day + 1) * DAY_US - 1, (1 << 62) - 1) < high
