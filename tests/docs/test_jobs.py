"""The page about jobs: its app runs on both databases as the page says, and its drill finds nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.sql import Sql
from dujiang.testing.harness import running
from tests.docs.markdown import ROOT, write_files

if TYPE_CHECKING:
    from pathlib import Path

LATER = Sql("test_later", "SELECT count(*) FROM dj_ready", "Counts what waits.")
PAGE = ROOT / "docs" / "howto" / "jobs.md"


@pytest.fixture
def letters(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("letters")


async def test_the_jobs_of_the_page_end_as_it_says(letters: Any, database: str) -> None:
    """A letter is posted, one to nobody is dead with its code, the congratulation waits, every drawer is counted."""
    async with running(letters.app, database=database) as world:
        sent = await world.post("/api/v1/letters", {"recipient": "ann", "pages": 3}, key="k")
        refused = await world.post("/api/v1/letters", {"recipient": "nobody"})
        await world.post("/api/v1/inventory")
        await world.settle()
        for _ in range(2):
            assert (await world.post("/api/v1/birthdays", {"recipient": "bob"})).status == 204
        found = (await world.get(sent.headers["location"])).json
        dead = (await world.get(refused.headers["location"])).json
        rows = await world.runtime.read(lambda db: db.execute(letters.posted.select()))

        assert (sent.status, found["state"], found["result"]["sheets"]) == (202, "done", 2)
        assert (dead["state"], dead["error"], dead["note"]) == ("dead", "no_such_street", "printed")
        assert [row.recipient for row in rows.all()] == ["ann"]
        assert await world.runtime.database.read(lambda c: c.fetch(LATER)) == [(1,)]


def test_the_drill_of_the_page_finds_nothing(letters: Any, site: Path) -> None:
    """The command of the page, as it stands there: kills, lost answers, cancelled jobs, no violation."""
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.cli", "drill", f"{letters.__name__}:app", "--seeds", "4", "--no-sweep"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert "0 violations" in done.stdout, done.stdout + done.stderr
