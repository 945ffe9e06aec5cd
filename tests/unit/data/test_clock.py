"""The store's clock: what it makes of samples, honest, slow and strange."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest

from dujiang.data.clock import SAMPLES_KEPT, StoreClock
from tests.unit.kernel.clocks import HandClock

SERVER_AHEAD_US = 60_000_000


class Server:
    """A database whose clock is `ahead_us` from ours and whose ways there and back take what a test says."""

    def __init__(self, clock: HandClock, *, many_writers: bool = True) -> None:
        self.capabilities: Any = self
        self.many_writers = many_writers
        self.ahead_us = SERVER_AHEAD_US
        self.there_us = self.back_us = 500
        self.looks = 0
        self._clock = clock

    async def statement(self, *_: Any) -> list[tuple[int]]:
        """The server's time, asked in between."""
        self.looks += 1
        self._clock.at_us += self.there_us
        now_us = self._clock.at_us + self.ahead_us
        self._clock.at_us += self.back_us
        return [(now_us,)]


async def following(**options: Any) -> tuple[HandClock, Server, StoreClock]:
    """A clock that follows a server a minute ahead of us."""
    hand = HandClock()
    server = Server(hand, **options)
    clock = StoreClock(hand)
    await clock.follow(server)  # type: ignore[arg-type]
    return hand, server, clock


def wrong_us(hand: HandClock, server: Server, clock: StoreClock) -> int:
    """By how much the clock differs from the server's."""
    return clock.now_us() - (hand.at_us + server.ahead_us)


async def test_the_time_is_the_servers_to_half_a_round_trip() -> None:
    """After the start the clock shows the server's time, and goes on with ours between samples."""
    hand, server, clock = await following()
    hand.at_us += 4_000_000

    assert abs(wrong_us(hand, server, clock)) <= 500
    assert clock.skew_us == pytest.approx(-SERVER_AHEAD_US, abs=500)


async def test_slow_and_lopsided_answers_do_not_move_it() -> None:
    """An answer that took two seconds on its way back says little, and the narrow ones before it go on counting."""
    hand, server, clock = await following()
    server.back_us = 2_000_000
    for _ in range(SAMPLES_KEPT - 1):
        hand.at_us += 5_000_000
        await clock.sample()

        assert abs(wrong_us(hand, server, clock)) <= 500
    assert clock.stepped is None


async def test_a_slow_drift_is_followed() -> None:
    """A server that gains 0.1 ms in each second is followed for an hour, without an alarm."""
    hand, server, clock = await following()
    for _ in range(720):
        hand.at_us += 5_000_000
        server.ahead_us += 500
        await clock.sample()

        assert abs(wrong_us(hand, server, clock)) < 20_000
    assert clock.stepped is None


async def test_a_server_set_ahead_is_believed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """One sample that cannot be explained by its round trip is enough; it is an alarm, and it is remembered when."""
    hand, server, clock = await following()
    caplog.clear()
    server.ahead_us += 3_600_000_000
    await clock.sample()

    assert abs(wrong_us(hand, server, clock)) <= 500
    assert clock.stepped == clock.monotonic()
    assert {record.levelno for record in caplog.records} == {logging.ERROR, logging.WARNING}


async def test_a_server_set_back_is_approached_without_going_backwards() -> None:
    """After ten seconds backwards our time runs at half speed for twenty seconds, and then is the server's again."""
    hand, server, clock = await following()
    server.ahead_us -= 10_000_000
    said = [clock.now_us()]
    for _ in range(20):
        await clock.sample()
        hand.at_us += 999_000  # With the round trip: a second.
        said.append(clock.now_us())

    assert all(0 < later - earlier < 600_000 for earlier, later in pairwise(said[:-1]))
    hand.at_us += 1_000_000
    assert abs(wrong_us(hand, server, clock)) <= 500


async def test_a_store_of_one_process_has_that_process_clock() -> None:
    """Nothing is asked, and the time is ours."""
    hand, server, clock = await following(many_writers=False)
    await clock.sample()

    assert (clock.now_us(), server.looks) == (hand.at_us, 0)


async def test_a_wrong_machine_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A machine a minute off is named when that is found, and not with every sample."""
    hand, _, clock = await following()
    for _ in range(5):
        hand.at_us += 5_000_000
        await clock.sample()

    assert len([record for record in caplog.records if "time service" in record.getMessage()]) == 1
