"""Positions of the log: what they show, and that they survive being bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.messaging.position import RUNNING_MAX, Position, at_number, at_snapshot, decoded, origin_of

HERE = origin_of("here")
positions = st.builds(
    lambda first, above, running: Position(
        HERE, first, first + above, frozenset(first + each for each in running if each < above)
    ),
    st.integers(0, 2**48),
    st.integers(0, 1000),
    st.frozensets(st.integers(0, 999), max_size=20),
)


def test_a_snapshot_shows_what_had_ended() -> None:
    """Below its first: ended; between: unless it was running; from its end on: not begun."""
    position = at_snapshot(HERE, "10:20:11,13")

    assert [number for number in range(8, 22) if position.shows(number)] == [8, 9, 10, 12, 14, 15, 16, 17, 18, 19]


def test_a_number_shows_what_came_up_to_it() -> None:
    """Where one writer commits in order a position is the last row's number."""
    assert [number for number in range(6) if at_number(HERE, 3).shows(number)] == [0, 1, 2, 3]


@given(positions)
def test_bytes_are_the_same_position(position: Position) -> None:
    """Any position comes back as it was, and from the middle of other bytes too."""
    raw = position.encode()

    assert decoded(raw) == (position, len(raw))
    assert decoded(b"xx" + raw + b"yy", 2) == (position, len(raw) + 2)


def test_with_too_many_that_run_it_is_an_older_one() -> None:
    """It shows nothing that it did not show before, and stays small."""
    running = frozenset(range(1000, 1000 + 2 * (RUNNING_MAX + 1), 2))
    position = Position(HERE, 1000, 5000, running)
    raw = position.encode()
    older, _ = decoded(raw)

    assert len(raw) < 40
    assert all(position.shows(number) for number in range(900, 5100) if older.shows(number))
    assert older.shows(999)
    assert not older.shows(1001)


@given(st.binary(max_size=60))
def test_bytes_that_are_none_are_refused(raw: bytes) -> None:
    """Whatever the bytes are: a position, or ValueError."""
    try:
        position, end = decoded(raw)
    except ValueError:
        return
    assert isinstance(position, Position)
    assert end <= len(raw)


def test_every_cut_is_refused() -> None:
    """Bytes that end too early are no position."""
    raw = at_snapshot(HERE, "10:20:11,13").encode()
    for length in range(len(raw)):
        with pytest.raises(ValueError, match="no position"):
            decoded(raw[:length])
