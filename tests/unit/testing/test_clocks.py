"""JumpClock: the clock on which the delays of messaging are tested."""

from __future__ import annotations

from dujiang.kernel.tasks import Tasks
from dujiang.testing.clocks import JumpClock


async def test_who_sleeps_across_a_jump_wakes_at_once() -> None:
    """An hour of sleep ends with a jump of an hour, and not with one that is shorter."""
    clock, tasks = JumpClock(), Tasks("test")
    began = clock.monotonic()
    sleeper = tasks.spawn(clock.sleep(3600.0), name="sleeper")
    await clock.sleep(0)
    clock.jump(1800.0)
    await clock.sleep(0)
    await clock.sleep(0)
    early = sleeper.done()
    clock.jump(1800.0)
    await sleeper

    assert not early
    assert clock.monotonic() - began >= 3600.0


def test_a_jump_moves_both_times_and_a_skew_only_the_wall() -> None:
    """What was jumped over has passed on both clocks; a wrong wall time leaves the monotonic one alone."""
    right, wrong = JumpClock(), JumpClock(skew_s=60.0)
    apart_us = wrong.now_us() - right.now_us()
    before = right.monotonic(), right.now_us()
    right.jump(10.0)

    assert 59_000_000 < apart_us < 61_000_000
    assert right.monotonic() - before[0] >= 10.0
    assert right.now_us() - before[1] >= 10_000_000
