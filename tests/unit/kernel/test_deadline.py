"""Limits on waiting."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kernel.deadline import FINE_BELOW_S, Limits


class StandingClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        """Where the test put it."""
        return self.at

    def now_us(self) -> int:
        """Not used by limits."""
        return int(self.at * 1e6)

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.at += seconds


async def waits_for_ever() -> None:
    """Never returns."""
    await asyncio.get_running_loop().create_future()


class TestLimits:
    """`with limits.within(seconds):`."""

    @pytest.mark.parametrize("seconds", [0.001, FINE_BELOW_S + 4])
    async def test_a_block_that_waits_too_long_ends_with_timeout(self, seconds: float) -> None:
        """A fine and a coarse limit both end the wait with TimeoutError, and the task lives on."""
        clock = StandingClock()
        limits = Limits(clock)

        with pytest.raises(TimeoutError), limits.within(seconds):
            clock.at = seconds
            await waits_for_ever()

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert repr(limits) == "<Limits 0 standing>"

    @pytest.mark.parametrize("left", [-1.0, 0.001, FINE_BELOW_S + 4])
    async def test_a_deadline_is_a_limit_of_what_is_left(self, left: float) -> None:
        """Until a deadline, passed, near or far, a block may take what is left; without one, for ever."""
        clock = StandingClock()
        clock.at = 100.0
        limits = Limits(clock)

        with pytest.raises(TimeoutError), limits.until(100.0 + left) as limit:
            clock.at += max(0.0, left)
            await waits_for_ever()

        assert limit.seconds == pytest.approx(left)
        assert repr(limits) == "<Limits 0 standing>"
        with limits.until(None):
            assert repr(limits) == "<Limits 0 standing>"

    async def test_a_block_in_time_is_left_alone(self) -> None:
        """What returns in time is not disturbed later, and nothing stays on the list."""
        limits = Limits(StandingClock())

        with limits.within(30.0):
            await asyncio.get_running_loop().run_in_executor(None, int)

        assert repr(limits) == "<Limits 0 standing>"

    async def test_the_inner_limit_does_not_speak_for_the_outer(self) -> None:
        """When the outer limit is over, the inner block lets the cancellation pass and the outer turns it."""
        clock = StandingClock()
        limits = Limits(clock)
        inner_saw: list[type[BaseException]] = []

        with pytest.raises(TimeoutError), limits.within(2.0):
            try:
                with limits.within(60.0):
                    clock.at = 2.0
                    await waits_for_ever()
            except BaseException as error:
                inner_saw.append(type(error))
                raise

        assert inner_saw == [asyncio.CancelledError]

    async def test_a_foreign_cancellation_stays_one(self) -> None:
        """A task cancelled by somebody else inside the block ends as cancelled, not as timed out."""
        limits = Limits(StandingClock())

        async def work() -> None:
            with limits.within(30.0):
                await waits_for_ever()

        task = asyncio.get_running_loop().create_task(work())
        await asyncio.wait({task}, timeout=0)
        task.cancel()
        await asyncio.wait({task})

        assert task.cancelled()

    async def test_no_limit_waits_for_ever_if_need_be(self) -> None:
        """None arms nothing."""
        limits = Limits(StandingClock())

        with limits.within(None):
            assert repr(limits) == "<Limits 0 standing>"
