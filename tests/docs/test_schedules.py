"""The page about schedules: its app runs on both databases as the page says, and its drill finds nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.kernel.clock import microseconds
from dujiang.testing.harness import running
from tests.docs.markdown import ROOT, write_files

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "schedules.md"
NAME = "reports.nightly_report"


@pytest.fixture
def reports(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("reports")


async def test_the_schedules_of_the_page_fire_as_it_says(reports: Any, database: str) -> None:
    """Three nights are made up for, each with its own report; a second backfill of them asks for nothing."""
    first, until = (microseconds(datetime(2026, 3, day, tzinfo=UTC)) for day in (1, 4))
    async with running(reports.app, database=database) as world:
        desk = world.runtime.schedules
        counts = [await desk.backfill(NAME, first, until) for _ in range(2)]
        clock = world.runtime.node.clock
        limit = clock.monotonic() + 60.0
        while (await desk.show(NAME))["wanted"]:
            assert clock.monotonic() < limit
            await clock.sleep(0.01)
        await world.settle(within_s=60.0)
        found = await world.runtime.read(lambda db: db.execute(reports.report.select()))
        rows = await desk.list()

        assert counts == [3, 0]
        assert sorted(row.night for row in found.all()) == [f"2026-03-0{day}T19:00:00+00:00" for day in (1, 2, 3)]
        assert [(row["name"], row["when"], row["misfire"], row["overlap"]) for row in rows] == [
            (NAME, "0 3 * * *", "all", "queue"),
            ("reports.refresh_rates", "15m", "once", "skip"),
        ]
        assert await world.violations() == []


def test_the_drill_of_the_page_finds_nothing(reports: Any, site: Path) -> None:
    """The command of the page, as it stands there: kills while times fall due, no violation."""
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.cli", "drill", f"{reports.__name__}:app", "--seeds", "4", "--no-sweep"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert "0 violations\n" in done.stdout, done.stdout + done.stderr
