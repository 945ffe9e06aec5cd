"""Schedule: when a job is due by the clock, what becomes of times that nobody was there for, and of runs that meet.

    @reports.every("0 3 * * *", tz="Asia/Shanghai")      a pattern in a zone; cron.py has its rules
    @reports.every("15m", jitter="1m")                   an interval, counted from the Unix epoch: :00, :15, :30, :45

An interval needs no beginning that somebody would have to remember: every process and every version counts the same.

A time is missed when it is found more than MISSED_S late: no process with the role `scheduler` was up, or the store was away.
What is found sooner fires, each time for itself, under every rule.

    misfire    due: 03:00 04:00 05:00, found at 05:30          found at 05:00:30
    once       05:00                                           05:00, which stands for the others too
    all        03:00 04:00 05:00, the latest `catch_up`        the same
    skip       -                                               05:00

All of it is a function of the schedule and two times, so that a test can ask about years; scheduler.py does what it says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from dujiang.jobs.cron import WORDS, Cron, NotCron, zone_of
from dujiang.kernel.units import duration_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.kernel.units import Duration

__all__ = ["DUE", "LATE", "Misfire", "Overlap", "Plan", "Schedule"]

Misfire = Literal["once", "all", "skip"]
Overlap = Literal["allow", "skip", "queue", "cancel_running"]

MISSED_S = 60
MISSED_US = MISSED_S * 1_000_000
INTERVAL_US_MIN = 1_000_000
CATCH_UP_MAX = 10_000
JITTER_US_MAX = 86_400_000_000
HOUR_US = 3_600_000_000
# How a firing came about, as dj_fire keeps it.
DUE, LATE, BY_HAND, BACKFILL = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the times that are due.

    Attributes:
        fires: When, microseconds, and whether it was missed; ascending.
        next_us: The first time that is not dealt with.
        passed_us: The first time that is given up, or None.
    """

    fires: tuple[tuple[int, int], ...]
    next_us: int
    passed_us: int | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as it is declared, and as the store keeps it.

    Attributes:
        text: A pattern of five fields, or an interval such as "15m".
        tz: The zone of a pattern.
        misfire: What becomes of missed times.
        catch_up: How many of them at most, the latest, under the rule `all`.
        overlap: What a firing does when an earlier run of the job has not ended.
        jitter_us: Up to how long after its time a job begins.

    Raises:
        NotCron: It cannot hold; `how` is the cure.
    """

    text: str
    tz: str = "UTC"
    misfire: Misfire = "once"
    catch_up: int = 100
    overlap: Overlap = "allow"
    jitter_us: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot hold."""
        for what, value, known in (
            ("misfire", self.misfire, get_args(Misfire)),
            ("overlap", self.overlap, get_args(Overlap)),
        ):
            if value not in known:
                raise NotCron(f"{what}={value!r} is no rule", f"write one of {', '.join(known)}")
        if not 1 <= self.catch_up <= CATCH_UP_MAX:
            raise NotCron(f"catch_up={self.catch_up}", f"give it 1 to {CATCH_UP_MAX}")
        if not 0 <= self.jitter_us <= JITTER_US_MAX:
            raise NotCron(f"a jitter of {self.jitter_us / 1e6:g} s", "give it at most a day, as in jitter='5m'")
        if self.step_us is None:
            self.cron  # noqa: B018  (raises)
        elif self.step_us < INTERVAL_US_MIN:
            raise NotCron(f"{self.text!r} is shorter than a second", "poll in a loop of one job, or take a second")
        elif self.tz != "UTC":
            raise NotCron(f"an interval in {self.tz}", "leave tz= out, or write a pattern, as in '0 3 * * *'")

    def __str__(self) -> str:
        return self.text if self.step_us is not None else f"{self.text} {self.tz}"

    @classmethod
    def of(cls, when: Duration, *, jitter: Duration | None, **rest: object) -> Schedule:
        """A schedule from what a module declares. Raises NotCron."""
        text = when if isinstance(when, str) else f"{when.total_seconds():g}s"
        try:
            jitter_us = 0 if jitter is None else int(duration_s(jitter) * 1e6)
        except ValueError as error:
            raise NotCron(str(error), "correct the jitter") from None
        return cls(text=" ".join(text.split()), jitter_us=jitter_us, **rest)  # type: ignore[arg-type]

    @classmethod
    def read(cls, stored: str) -> Schedule:
        """A schedule that the store keeps. Raises NotCron, or ValueError for one of a newer version."""
        try:
            return remembered(stored)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def stored(self) -> str:
        """As the store keeps it: the same text for the same schedule."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def step_us(self) -> int | None:
        """The length of an interval; None = it is a pattern."""
        if " " in self.text or self.text.lower() in WORDS or self.text.startswith("@"):
            return None
        try:
            return int(duration_s(self.text) * 1e6)
        except ValueError as error:
            raise NotCron(str(error), "write an interval, as in '15m', or five fields, as in '0 3 * * *'") from None

    @cached_property
    def cron(self) -> Cron:
        """The pattern."""
        return Cron(self.text, zone_of(self.tz))

    def after(self, moment_us: int) -> int:
        """The first time later than a moment."""
        if self.step_us is not None:
            return (moment_us // self.step_us + 1) * self.step_us
        return self.cron.after(moment_us)

    def times(self, first_us: int, until_us: int) -> Iterator[int]:
        """Every time from `first_us` to `until_us`, both included."""
        at_us = self.after(first_us - 1)
        while at_us <= until_us:
            yield at_us
            at_us = self.after(at_us)

    def latest(self, count: int, first_us: int, until_us: int) -> list[int]:
        """The last `count` times from `first_us` to `until_us`, ascending; looks at few more than these."""
        if self.step_us is not None:
            return list(self.times(max(first_us, until_us - self.step_us * count + 1), until_us))
        back_us = HOUR_US
        while True:
            begin_us = max(first_us, until_us - back_us)
            found = list(self.times(begin_us, until_us))
            if len(found) >= count or begin_us == first_us:
                return found[-count:]
            back_us *= 4

    def plan(self, next_us: int, now_us: int, most: int) -> Plan:
        """What to do about the times from `next_us` to `now_us`, at most `most` firings in one go."""
        on_time_us = now_us - MISSED_US
        if next_us >= on_time_us:
            fires, given_up = list(self.times(next_us, now_us)), False
        elif self.misfire == "skip":
            fires, given_up = list(self.times(on_time_us, now_us)), True
        else:
            count = self.catch_up if self.misfire == "all" else 1
            fires = self.latest(count, next_us, now_us)
            given_up = bool(fires) and fires[0] > next_us
        chosen = fires[:most]
        follows = fires[most] if len(fires) > most else self.after(now_us)
        late = tuple((at_us, LATE if at_us < on_time_us else DUE) for at_us in chosen)
        return Plan(late, follows, next_us if given_up else None)

    def delay_us(self, name: str) -> int:
        """How long after its time the job begins: drawn from the name, so always the same, and in every process."""
        if not self.jitter_us:
            return 0
        drawn = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        return drawn % self.jitter_us


@lru_cache(maxsize=1000)
def remembered(stored: str) -> Schedule:
    """A schedule from its stored text; the same object for the same text."""
    return Schedule(**json.loads(stored))
