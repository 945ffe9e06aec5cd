"""Cron: the times of a five-field pattern in a time zone, across the days on which its clocks are moved.

    0 3 * * *         Shanghai        every day at 3 o'clock there
    30 2 * * *        New York        02:30 does not exist on 8 March 2026 ──► fires at 03:00, where the gap ends, once
    30 1 * * *        New York        01:30 comes twice on 1 November 2026 ──► fires at the first of them
    */10 * * * *      anywhere        every ten minutes of real time, on both days too

The rule is one sentence for each kind of pattern. With every hour in it a pattern means a distance: each real minute fires
whose local time matches, nothing is added and nothing left out. With certain hours it means times of a day: each of them
fires once on each of its days, whatever the clocks do. Several that one gap swallows fire once together, at its end.

Whether every hour is meant is asked of the parsed field, not of its text: `0-23` is `*`. Debian's cron looks for a star in
the text, so that `* 2 * * *` is lost in a gap there and runs twice as often when an hour is repeated.

Fields and calendar are cronsim's (names, ranges, steps, lists, `L`, `LW`, `5L`, `MON#2`; a day must match both fields if one
of them begins with a star, else one of them); it walks the local calendar without a zone. The clocks are ours: of the two
libraries that know zones one gives times before the one it was asked from when an hour is repeated, and neither has these rules.
tests/unit/jobs/test_cron.py compares each step with a walk over every minute.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from dujiang.kernel.clock import instant, microseconds

__all__ = ["Cron", "NotCron", "zone_of"]

MINUTE_US = 60_000_000
MINUTE = timedelta(minutes=1)
HOURS = 24
FIELDS = 5
# A clock that was turned back over midnight gives a day its last hour a second time.
TURNED_HOURS_MAX = 3
WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class NotCron(ValueError):
    """A text is no pattern, or one whose time never comes; `how` says what to write."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(what)
        self.how = how


class Cron:
    """A pattern in a zone.

    Args:
        text: Five fields (minute, hour, day of the month, month, day of the week), or `@daily` and its like.
        zone: Whose local time they mean.

    Raises:
        NotCron: It is no pattern, or its time never comes.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self.text = text
        self.zone = zone
        fields = WORDS.get(text.strip().lower(), text).split()
        how = "write five fields: minute hour day month weekday, as in '30 3 * * MON-FRI', or @hourly, @daily, @weekly"
        if len(fields) != FIELDS:
            raise NotCron(f"{text!r} has {len(fields)} fields", how)
        self._fields = " ".join(fields)
        never = NotCron(f"{text!r} never fires: no such day comes", "correct day, month or weekday")
        try:
            self._calendar = CronSim(self._fields, datetime(2000, 1, 1))  # noqa: DTZ001  (local time, the zone is added later)
        except (CronSimError, ValueError) as error:
            # It knows itself of days that a month lacks, and calls them bad; in any month they are not.
            anywhen = parses([*fields[:3], "*", fields[4]]) and parses([*fields[:2], "*", *fields[3:]])
            raise (never if anywhen else NotCron(f"{text!r} is no pattern: {error}", how)) from None
        if self._later(datetime(2000, 1, 1)) is None:  # noqa: DTZ001
            raise never

    def __repr__(self) -> str:
        return f"<Cron {self.text!r} in {self.zone.key}>"

    def after(self, moment_us: int) -> int:
        """The first time later than a moment; both in microseconds since the Unix epoch."""
        return self._dense(moment_us) if self._every_hour else self._of_day(moment_us)

    @cached_property
    def _every_hour(self) -> bool:
        return len(self._calendar.hours) == HOURS

    def _later(self, local: datetime) -> datetime | None:
        """The first local time of the calendar after one; None when fifty years have none."""
        return next(CronSim(self._fields, local), None)

    def _of_day(self, moment_us: int) -> int:
        """Certain hours: local times one after another, each at its first occurrence, or at the end of its gap."""
        local = instant(moment_us).astimezone(self.zone).replace(tzinfo=None)
        while True:
            found = self._later(local)
            assert found is not None, self.text  # It had one in the year 2000, and calendars repeat.
            local, at_us = found, first_us(found, self.zone)
            if at_us > moment_us:
                return at_us

    def _dense(self, moment_us: int) -> int:
        """Every hour: real minutes one after another, on the days that match."""
        at = instant(moment_us // MINUTE_US * MINUTE_US) + MINUTE
        while True:
            local = at.astimezone(self.zone)
            today = local.month in self._calendar.months and self._calendar.match_day(local.date())
            if today and local.minute in self._calendar.minutes:
                return microseconds(at)
            if today or local.hour < TURNED_HOURS_MAX:
                at += MINUTE
                continue
            day = self._later(local.replace(hour=23, minute=59, tzinfo=None, fold=0))
            assert day is not None, self.text
            opens_us = first_us(day.replace(hour=0, minute=0), self.zone)
            # Were the clocks turned back over that midnight, the day goes on from here.
            at = max(at + MINUTE, instant(opens_us))


def parses(fields: list[str]) -> bool:
    """Whether five fields are a pattern."""
    try:
        CronSim(" ".join(fields), datetime(2000, 1, 1))  # noqa: DTZ001
    except (CronSimError, ValueError):
        return False
    return True


def first_us(local: datetime, zone: tzinfo) -> int:
    """When a local time first comes; one that does not exist, when the gap ends that has swallowed it."""
    early, late = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert early is not None
    assert late is not None
    at = (local - early).replace(tzinfo=UTC)
    if late <= early:
        return microseconds(at)
    # In a gap `fold` names the offsets before and after it: the clocks are moved somewhere between these two instants.
    low, high = (local - late).replace(tzinfo=UTC), at
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == early:
            low = middle
        else:
            high = middle
    return microseconds(high)


def zone_of(name: str) -> ZoneInfo:
    """The zone of a name such as `Asia/Shanghai`. Raises NotCron."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        what = f"{name!r} is no time zone"
        raise NotCron(what, "name one of the IANA database, as in tz='Asia/Shanghai' or tz='UTC'") from None
