"""Schedules: which times fire when somebody looks, under each rule; and what cannot be declared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.jobs.cron import NotCron
from dujiang.jobs.schedule import DUE, LATE, Schedule
from dujiang.kernel.clock import microseconds

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


def at(*parts: int) -> int:
    """A UTC time of 2 January 2026, microseconds."""
    return microseconds(datetime(2026, 1, 2, *parts, tzinfo=UTC))  # type: ignore[arg-type,misc]


def fired(schedule: Schedule, next_us: int, now_us: int, most: int = 1000) -> list[int]:
    """The hours that fire."""
    return [(us - at(0)) // HOUR_US for us, _ in schedule.plan(next_us, now_us, most).fires]


HOURLY = Schedule(text="0 * * * *")


class TestMissed:
    @pytest.mark.parametrize(
        ("rule", "half_past", "at_once"),
        [("once", [5], [5]), ("all", [3, 4, 5], [3, 4, 5]), ("skip", [], [5])],
    )
    def test_the_table_of_the_page(self, rule: Any, half_past: list[int], at_once: list[int]) -> None:
        """Three hours of which nobody took notice, found half an hour later, and half a minute after the third."""
        schedule = Schedule(text="0 * * * *", misfire=rule)

        assert fired(schedule, at(3), at(5, 30)) == half_past
        assert fired(schedule, at(3), at(5, 0, 30)) == at_once
        for now_us in (at(5, 30), at(5, 0, 30)):
            assert schedule.plan(at(3), now_us, 1000).next_us == at(6)

    @pytest.mark.parametrize("rule", ["once", "all", "skip"])
    def test_what_is_found_within_a_minute_fires_each_for_itself(self, rule: Any) -> None:
        """A pause of some seconds costs a schedule of seconds nothing."""
        plan = Schedule(text="1s", misfire=rule).plan(at(3), at(3, 0, 5), 1000)

        assert plan.fires == tuple((at(3, 0, second), DUE) for second in range(6))
        assert (plan.next_us, plan.passed_us) == (at(3, 0, 6), None)

    def test_at_most_so_many_are_caught_up_with_and_they_are_the_latest(self) -> None:
        """A day of minutes, two of which are wanted; the first of those given up is named."""
        plan = Schedule(text="* * * * *", misfire="all", catch_up=2).plan(at(0), at(23, 0, 30), 1000)

        assert plan.fires == ((at(22, 59), LATE), (at(23), DUE))
        assert plan.passed_us == at(0)

    def test_what_does_not_fit_into_one_go_is_left_for_the_next(self) -> None:
        """Slices together are the whole, each time once."""
        schedule, next_us, found = Schedule(text="* * * * *", misfire="all", catch_up=1000), at(0), []
        while next_us <= at(10):
            plan = schedule.plan(next_us, at(10), 50)
            found += [us for us, _ in plan.fires]
            next_us = plan.next_us

        assert found == [at(0) + MINUTE_US * n for n in range(601)]


@settings(deadline=None)
@given(
    text=st.sampled_from(["* * * * *", "*/7 * * * *", "0 3 * * *", "30s", "17m", "0 0 1 * *"]),
    first_us=st.integers(at(0), at(23)),
    gone_us=st.integers(0, 10 * 24 * HOUR_US),
    count=st.integers(1, 5),
)
def test_the_latest_times_are_the_end_of_all_times(text: str, first_us: int, gone_us: int, count: int) -> None:
    """Found without a walk over everything that was missed."""
    schedule, until_us = Schedule(text=text), first_us + gone_us // (100 if text == "30s" else 1)

    assert schedule.latest(count, first_us, until_us) == list(schedule.times(first_us, until_us))[-count:]


def test_an_interval_is_counted_from_the_epoch() -> None:
    """Every process finds the same times, whenever it began."""
    assert Schedule(text="15m").after(at(3, 1)) == at(3, 15)
    assert Schedule(text="15m").after(at(3, 15)) == at(3, 30)


def test_jitter_follows_from_the_name() -> None:
    """The same in every process, below its bound, and not the same for everybody."""
    schedule = Schedule(text="1h", jitter_us=HOUR_US)
    drawn = {schedule.delay_us(f"m.f{n}") for n in range(20)}

    assert len(drawn) == 20
    assert all(0 <= each < HOUR_US for each in drawn)
    assert schedule.delay_us("m.f1") == Schedule(text="1h", jitter_us=HOUR_US).delay_us("m.f1")
    assert HOURLY.delay_us("m.f1") == 0


def test_a_schedule_is_read_as_it_was_stored() -> None:
    """One text for one schedule; one of a newer version is told from a broken one."""
    schedule = Schedule(text="0 3 * * *", tz="Asia/Shanghai", misfire="all", catch_up=7, overlap="skip", jitter_us=5)

    assert Schedule.read(schedule.stored()) == schedule
    with pytest.raises(ValueError, match="unexpected"):
        Schedule.read('{"text": "1h", "moon": "full"}')


@pytest.mark.parametrize(
    "options",
    [
        {"text": "never"},
        {"text": "10"},
        {"text": "500ms"},
        {"text": "0 0 31 2 *"},
        {"text": "1h", "tz": "Asia/Shanghai"},
        {"text": "0 3 * * *", "tz": "Asia/Peking"},
        {"text": "1h", "misfire": "maybe"},
        {"text": "1h", "overlap": "maybe"},
        {"text": "1h", "catch_up": 0},
        {"text": "1h", "jitter_us": -1},
        {"text": "1h", "jitter_us": 25 * HOUR_US},
    ],
)
def test_what_cannot_hold_is_refused_with_the_cure(options: dict[str, Any]) -> None:
    """When it is declared."""
    with pytest.raises(NotCron) as refused:
        Schedule(**options)

    assert refused.value.how
