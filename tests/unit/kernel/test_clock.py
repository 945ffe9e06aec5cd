"""The system's clock never runs backwards, and instants are exact."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kernel.clock import SystemClock, instant, microseconds

# The years 1 to 9999, in microseconds.
US = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)


class Machine:
    """The two clocks of a machine, in place of those of `time`; `pause_ns` passes between two readings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = 1_800_000_000_000_000_000
        self.mono_ns = 5_000_000_000
        self.pause_ns = 0
        monkeypatch.setattr(time, "time_ns", lambda: self._read("wall_ns"))
        monkeypatch.setattr(time, "monotonic_ns", lambda: self._read("mono_ns"))

    def passes(self, seconds: float) -> None:
        """Real time passes."""
        self.wall_ns += int(seconds * 1e9)
        self.mono_ns += int(seconds * 1e9)

    def set_by(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall_ns += int(seconds * 1e9)

    def _read(self, name: str) -> int:
        value: int = getattr(self, name)
        self.passes(self.pause_ns / 1e9)
        return value


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose clocks the test turns."""
    return Machine(monkeypatch)


class TestInstants:
    @given(US)
    def test_microseconds_come_back_as_they_went(self, now_us: int) -> None:
        """No instant loses a microsecond, before 1970 as after it."""
        assert microseconds(instant(now_us)) == now_us

    def test_an_instant_is_utc(self) -> None:
        """An instant carries its zone, and any zone may be given."""
        there = timezone(timedelta(hours=8))

        assert instant(0) == datetime(1970, 1, 1, tzinfo=UTC)
        assert microseconds(datetime(1970, 1, 1, 8, tzinfo=there)) == 0


class TestSystemClock:
    def test_it_follows_the_machine(self, machine: Machine) -> None:
        """It shows wall time while nobody touches it."""
        clock = SystemClock()
        machine.passes(1.5)

        assert clock.now_us() == machine.wall_ns // 1000
        assert clock.stepped_back_us == 0

    def test_a_step_forward_is_followed(self, machine: Machine) -> None:
        """A wall clock that is set forward, as after a suspend, is believed at once."""
        clock = SystemClock()
        machine.set_by(+3600)

        assert clock.now_us() == machine.wall_ns // 1000

    def test_a_step_back_is_survived(self, machine: Machine) -> None:
        """A wall clock that is set back changes nothing: time goes on at its pace, and the distance is shown."""
        clock = SystemClock()
        before = clock.now_us()
        machine.set_by(-3600)
        machine.passes(2)

        assert clock.now_us() == before + 2_000_000
        assert clock.stepped_back_us == 3_600_000_000

    def test_a_pause_between_the_two_readings_leaves_no_trace(self, machine: Machine) -> None:
        """A process that is stopped in the middle of looking at the clock is not ahead for ever afterwards."""
        clock = SystemClock()
        machine.pause_ns = 10_000_000_000
        clock.now_us()
        machine.pause_ns = 0

        assert clock.now_us() == machine.wall_ns // 1000

    @given(steps=st.lists(st.tuples(st.floats(0, 5), st.floats(-100, 100), st.integers(0, 2_000_000_000)), max_size=30))
    def test_it_never_runs_backwards(self, steps: list[tuple[float, float, int]]) -> None:
        """Whatever happens to the wall clock, and however the process is paused, no answer is less than one before."""
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(patch)
            clock = SystemClock()
            seen = [clock.now_us()]
            for passed, stepped, pause_ns in steps:
                machine.passes(passed)
                machine.set_by(stepped)
                machine.pause_ns = pause_ns
                seen.append(clock.now_us())

        assert seen == sorted(seen)

    async def test_sleeping_takes_as_long_as_was_asked(self) -> None:
        """A sleep of nothing returns, and durations are measured by a clock that only goes forward."""
        clock = SystemClock()
        before = clock.monotonic()
        await clock.sleep(0)

        assert clock.monotonic() >= before
