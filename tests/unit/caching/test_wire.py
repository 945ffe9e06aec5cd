"""Answers as bytes in a shared cache: they come back as they were, and whatever is wrong is none."""

from __future__ import annotations

import pytest

from dujiang.caching.cache import Entry
from dujiang.caching.wire import Moment, packed, unpacked
from dujiang.messaging.position import at_snapshot, origin_of

POSITION = at_snapshot(origin_of("here"), "10:20:11,13")
INFINITE = float("inf")


def entry(body: bytes | None, *, refresh_s: float = 60.0) -> Entry:
    """An entry of a process whose clock shows about 50 s."""
    return Entry(body, (1, 2), tick=7, loaded_s=49.0, refresh_s=refresh_s, fresh_s=70.0, stale_s=100.0)


@pytest.mark.parametrize("body", [None, b"", b'{"a":1}', bytes(range(256)) * 100])
def test_an_entry_comes_back_by_the_clock_of_another_process(body: bytes | None) -> None:
    """Body and position as they were, times by the other's clock, names and tick as the other says."""
    raw = packed(entry(body), POSITION, Moment(50.0, 1_000_000_000))
    found, position = unpacked(raw, (3,), 5, Moment(1050.0, 1_002_000_000))

    assert (found.body, position, found.names, found.tick) == (body, POSITION, (3,), 5)
    assert (found.loaded_s, found.refresh_s, found.fresh_s, found.stale_s) == (1047.0, 1058.0, 1068.0, 1098.0)


def test_what_is_never_loaded_ahead_stays_so() -> None:
    """An infinite time is one in every process."""
    raw = packed(entry(None, refresh_s=INFINITE), POSITION, Moment(50.0, 1_000_000_000))

    assert unpacked(raw, (), 0, Moment(0.0, 0))[0].refresh_s == INFINITE


def test_every_bit_that_turns_and_every_cut_makes_it_none() -> None:
    """No single fault of a bit, no missing end and no further byte is taken for an answer."""
    raw, now = packed(entry(b'{"a":1}'), POSITION, Moment(50.0, 1_000_000_000)), Moment(50.0, 1_000_000_000)
    turned = [
        raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :] for place in range(len(raw)) for bit in range(8)
    ]
    for bad in [*turned, *(raw[:length] for length in range(len(raw))), raw + b"x", b"\x80\x04N."]:
        with pytest.raises(ValueError, match=r"no entry|no position"):
            unpacked(bad, (), 0, now)
