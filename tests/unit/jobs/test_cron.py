"""Cron: every time of a pattern, compared with a walk over all minutes, on the days on which clocks are moved too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.jobs.cron import Cron, NotCron, zone_of
from dujiang.kernel.clock import instant, microseconds

NEW_YORK, HOWE, SHANGHAI = "America/New_York", "Australia/Lord_Howe", "Asia/Shanghai"
MINUTE = timedelta(minutes=1)

# Zone and a day on which its clocks are moved: forward, back, by half an hour, at midnight, a whole day, never.
DAYS = [
    (NEW_YORK, (2026, 3, 8)),
    (NEW_YORK, (2026, 11, 1)),
    (HOWE, (2026, 10, 4)),
    (HOWE, (2026, 4, 5)),
    ("America/Sao_Paulo", (2018, 11, 4)),
    ("America/Sao_Paulo", (2018, 2, 18)),
    ("America/St_Johns", (2010, 11, 7)),
    ("Pacific/Apia", (2011, 12, 30)),
    ("Europe/Berlin", (2026, 10, 25)),
    (SHANGHAI, (2026, 3, 8)),
    ("UTC", (2026, 3, 8)),
]


def utc(*parts: int) -> datetime:
    """A UTC time."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def fired(text: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """The times of a pattern in (begin, end]."""
    cron, at_us, found = Cron(text, zone_of(zone)), microseconds(begin), []
    while (at_us := cron.after(at_us)) <= microseconds(end):
        found.append(instant(at_us))
    return found


def local(times: list[datetime], zone: str) -> list[str]:
    """Hours and minutes as a clock on the wall shows them."""
    return [time.astimezone(ZoneInfo(zone)).strftime("%H:%M") for time in times]


def walked(text: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """The same by looking at every minute: what the page says, and no cleverness."""
    tz, calendar = ZoneInfo(zone), CronSim(text, datetime(2000, 1, 1))  # noqa: DTZ001  (the zone is the walk's)

    def matches(wall: datetime) -> bool:
        return (
            wall.month in calendar.months
            and calendar.match_day(wall.date())
            and wall.hour in calendar.hours
            and wall.minute in calendar.minutes
        )

    dense, found, at = len(calendar.hours) == 24, [], begin - MINUTE
    before = (at - MINUTE).astimezone(tz)
    while at <= end:
        wall = at.astimezone(tz)
        naive = wall.replace(tzinfo=None)
        gone = naive - before.replace(tzinfo=None)
        swallowed = [before.replace(tzinfo=None) + MINUTE * n for n in range(1, int(gone / MINUTE))]
        first = dense or not wall.fold
        if at > begin and ((first and matches(naive)) or (not dense and any(map(matches, swallowed)))):
            found.append(at)
        before, at = wall, at + MINUTE
    return found


class TestDaysOnWhichClocksAreMoved:
    def test_a_time_that_is_skipped_fires_once_where_the_gap_ends(self) -> None:
        """02:30 does not exist on that day: 03:00 stands for it; the day after is as ever."""
        found = fired("30 2 * * *", NEW_YORK, utc(2026, 3, 7, 12), utc(2026, 3, 9, 12))

        assert found == [utc(2026, 3, 8, 7), utc(2026, 3, 9, 6, 30)]
        assert local(found, NEW_YORK) == ["03:00", "02:30"]

    def test_many_times_in_one_gap_fire_once(self) -> None:
        """Sixty minutes of an hour that does not exist are one firing, and so is one that falls on the gap's end anyway."""
        found = fired("* 2 * * *", NEW_YORK, utc(2026, 3, 8, 0), utc(2026, 3, 8, 23))
        both = fired("30 2 * * *", NEW_YORK, utc(2026, 3, 8, 0), utc(2026, 3, 8, 23))

        assert found == both == [utc(2026, 3, 8, 7)]
        assert fired("0 2,3 * * *", NEW_YORK, utc(2026, 3, 8, 0), utc(2026, 3, 8, 23)) == found

    def test_a_time_that_comes_twice_fires_at_its_first(self) -> None:
        """01:30 of summer time, and not again an hour later; asked from within the repeated hour, tomorrow."""
        found = fired("30 1 * * *", NEW_YORK, utc(2026, 11, 1, 0), utc(2026, 11, 2, 12))

        assert found == [utc(2026, 11, 1, 5, 30), utc(2026, 11, 2, 6, 30)]
        assert fired("30 1 * * *", NEW_YORK, utc(2026, 11, 1, 6, 10), utc(2026, 11, 2, 12)) == found[1:]

    @pytest.mark.parametrize("zone", [NEW_YORK, "Europe/Berlin", SHANGHAI])
    @pytest.mark.parametrize("text", ["*/10 * * * *", "0-59/10 0-23 * * *"])
    def test_a_pattern_of_every_hour_keeps_its_distance(self, zone: str, text: str) -> None:
        """Ten minutes lie between any two, on the days of both changes too; a star and the whole range are one."""
        for begin in (utc(2026, 3, 7), utc(2026, 3, 28), utc(2026, 10, 24), utc(2026, 10, 31)):
            found = fired(text, zone, begin, begin + timedelta(days=2))

            assert {after - before for before, after in pairwise(found)} == {MINUTE * 10}

    def test_a_clock_that_moves_by_half_an_hour(self) -> None:
        """Lord Howe: 02:15 is skipped in October and fires at 02:30; 01:45 comes twice in April and fires once."""
        forward = fired("15 2 * * *", HOWE, utc(2026, 10, 3, 12), utc(2026, 10, 4, 12))
        back = fired("45 1 * * *", HOWE, utc(2026, 4, 4, 12), utc(2026, 4, 5, 12))

        assert local(forward, HOWE) == ["02:30"]
        assert back == [utc(2026, 4, 4, 14, 45)]

    def test_a_day_that_does_not_exist(self) -> None:
        """Samoa went from 29 to 31 December 2011: what was for the 30th fires at the first minute of the 31st."""
        found = fired("0 9 30 12 *", "Pacific/Apia", utc(2011, 12, 1), utc(2012, 2, 1))

        assert [time.astimezone(ZoneInfo("Pacific/Apia")).strftime("%d %H:%M") for time in found] == ["31 00:00"]

    def test_shanghai_is_eight_hours_ahead(self) -> None:
        """The night report of a zone whose clocks are never moved."""
        assert fired("0 3 * * *", SHANGHAI, utc(2026, 1, 1), utc(2026, 1, 2, 23)) == [
            utc(2026, 1, 1, 19),
            utc(2026, 1, 2, 19),
        ]


def field(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a pattern: a star, numbers, a range, a step."""
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    return st.one_of(
        st.just("*"),
        st.lists(number, min_size=1, max_size=3).map(lambda many: ",".join(map(str, many))),
        span,
        st.tuples(st.one_of(st.just("*"), span), st.integers(1, 30)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )


@settings(max_examples=150, deadline=None)
@given(
    minute=field(0, 59),
    hour=field(0, 23),
    day=st.sampled_from(["*", "*", "1-31/2", "1,5,8", "L", "LW", "*/7"]),
    weekday=st.sampled_from(["*", "*", "SUN", "MON-FRI", "0", "7#1", "6L"]),
    place=st.sampled_from(DAYS),
    start=st.integers(-36 * 60, 12 * 60),
)
def test_each_step_is_what_a_walk_over_every_minute_finds(
    minute: str, hour: str, day: str, weekday: str, place: tuple[str, tuple[int, int, int]], start: int
) -> None:
    """Three days around a change of the clocks, from any minute on."""
    text, (zone, moved) = f"{minute} {hour} {day} * {weekday}", place
    begin = utc(*moved) + timedelta(minutes=start)
    end = begin + timedelta(days=3)

    assert fired(text, zone, begin, end) == walked(text, zone, begin, end)


class TestPatterns:
    def test_names_words_and_last_days(self) -> None:
        """Names of months and weekdays in any case, the last day of a month, and the words for common patterns."""
        begin, end = utc(2026, 1, 1), utc(2026, 3, 2)

        assert fired("0 0 L jan-mar *", "UTC", begin, end) == [utc(2026, 1, 31), utc(2026, 2, 28)]
        assert fired("0 12 * * fri#2", "UTC", begin, end) == [utc(2026, 1, 9, 12), utc(2026, 2, 13, 12)]
        assert fired("@monthly", "UTC", begin, end) == [utc(2026, 2, 1), utc(2026, 3, 1)]

    def test_a_leap_day_is_found_over_eight_years(self) -> None:
        """2100 is no leap year; the pattern is right all the same."""
        assert fired("0 0 29 2 *", "UTC", utc(2096, 3, 1), utc(2104, 3, 1)) == [utc(2104, 2, 29)]

    @pytest.mark.parametrize(
        "text",
        ["", "* * * *", "* * * * * *", "61 * * * *", "@foo", "0 0 31 2 *", "0 0 30 2 *", "0 24 * * *", "a b c d e"],
    )
    def test_what_is_no_pattern_or_never_fires_is_refused_with_the_cure(self, text: str) -> None:
        """At declaration, not on the day on which nothing happens."""
        with pytest.raises(NotCron) as refused:
            Cron(text, zone_of("UTC"))

        assert refused.value.how

    @pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "shanghai\x00", "Asia"])
    def test_what_is_no_zone_is_refused(self, name: str) -> None:
        """Paths and folders of the database too."""
        with pytest.raises(NotCron, match="no time zone"):
            zone_of(name)
