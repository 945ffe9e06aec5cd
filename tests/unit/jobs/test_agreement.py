"""Agreement: two versions of a program on one store; looks are given by hand, so nothing depends on time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dujiang import App, Job, Module
from dujiang.jobs.agreement import LOOKS_MAX, Agreement
from dujiang.jobs.schedule import Schedule
from dujiang.testing.harness import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dujiang.data.database import Database

NAME = "clock.strike"
LOOK_US, HOUR_US = 21_000_000, 3_600_000_000


@asynccontextmanager
async def known() -> AsyncIterator[tuple[Database, int]]:
    """A store that knows the schedule, with nobody who fires; and its time."""
    clock = Module("clock")

    @clock.every("1h")
    async def strike(_: Job) -> None:
        """Nothing."""

    async with running(App(modules=[clock])) as world:
        await world.runtime.scheduler.stop()
        yield world.runtime.database, world.runtime.node.clock.now_us()


async def said(agreement: Agreement, now_us: int, *, starting: bool = False) -> str:
    """What counts after a look."""
    row = (await agreement.reach(now_us, starting=starting))[NAME]
    assert row.schedule is not None
    return row.schedule.text


async def test_an_older_version_waits_as_long_as_somebody_renews_the_row() -> None:
    """A hundred looks of both in turns change nothing, and the older one's next start neither."""
    async with known() as (database, now_us):
        old, new = (Agreement(database, {NAME: Schedule(text=text)}) for text in ("1h", "20m"))
        assert await said(new, now_us, starting=True) == "20m"
        for look in range(1, 101):
            assert await said(old, now_us + LOOK_US * look) == "20m"
            assert await said(new, now_us + LOOK_US * look) == "20m"

        again = Agreement(database, {NAME: Schedule(text="1h")})
        assert await said(again, now_us + LOOK_US * 101, starting=True) == "20m"


async def test_an_older_version_that_is_alone_counts_after_some_looks() -> None:
    """Nobody renews the row any more: the old text counts, and the new one is the older then."""
    async with known() as (database, now_us):
        old, new = (Agreement(database, {NAME: Schedule(text=text)}) for text in ("1h", "20m"))
        await said(new, now_us, starting=True)
        found = [await said(old, now_us + LOOK_US * look) for look in range(LOOKS_MAX + 1)]

        assert found == ["20m"] * LOOKS_MAX + ["1h"]
        assert await said(new, now_us + LOOK_US * 5, starting=True) == "1h"


async def test_an_hour_without_the_store_changes_nothing() -> None:
    """Both find the row old when it is back; the older one's look comes first, and it waits all the same."""
    async with known() as (database, now_us):
        old, new = (Agreement(database, {NAME: Schedule(text=text)}) for text in ("1h", "20m"))
        await said(new, now_us, starting=True)
        await said(old, now_us)
        back_us = now_us + HOUR_US

        assert await said(old, back_us) == "20m"
        assert await said(new, back_us) == "20m"
        assert await said(old, back_us + LOOK_US) == "20m"
