"""The page about locks: its app counts right on both databases, with many at once, and its drill finds nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.data.database import Conflict
from dujiang.data.transaction import Stale
from dujiang.kernel.tasks import all_of
from dujiang.testing.harness import running
from tests.docs.markdown import ROOT, write_files

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "locks.md"


@pytest.fixture
def stocktake(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("stocktake")


async def test_the_totals_of_the_page_are_right_with_many_at_once(stocktake: Any, database: str) -> None:
    """Six counts under the lock and six returns by version, all at once: no total misses one."""
    async with running(stocktake.app, database=database) as world:
        answers = await all_of(
            *(world.post("/api/v1/counts", {"pieces": n}) for n in range(1, 7)),
            *(world.post("/api/v1/returns", {"pieces": n}) for n in range(1, 7)),
        )
        await world.settle(within_s=120.0)
        rows = (await world.runtime.read(lambda db: db.execute(stocktake.shelf.select()))).all()
        returned = 6 - sum(answer.status == 503 for answer in answers[6:])

        assert {answer.status for answer in answers[:6]} == {202}
        assert {row.name: row.total for row in rows}["front"] == 21
        assert {row.name: row.version for row in rows}["back"] == returned
        assert await world.violations() == []


async def test_a_stale_transaction_runs_again_and_not_for_ever(stocktake: Any, database: str) -> None:
    """Stale twice: the third run counts, and nothing of the others is left. Stale each time: Conflict after five runs."""
    runs: list[int] = []

    async def body(tx: Any, stale: int) -> int:
        runs.append(1)
        await tx.execute(stocktake.count.insert().values(count_id=stale * 100 + len(runs), shelf="none", pieces=1))
        if len(runs) <= stale:
            raise Stale("a test says so")
        return len(runs)

    async with running(stocktake.app, database=database) as world:
        assert await world.runtime.transact(lambda tx: body(tx, 2)) == 3
        found = (await world.runtime.read(lambda db: db.execute(stocktake.count.select()))).all()
        assert [row.count_id for row in found] == [203]
        runs.clear()
        with pytest.raises(Conflict, match="a test says so") as caught:
            await world.runtime.transact(lambda tx: body(tx, 99))
        assert (caught.value.runs, len(runs)) == (5, 5)


def test_the_drill_of_the_page_finds_nothing(stocktake: Any, site: Path) -> None:
    """Machines are paused for longer than the ttl and killed: no violation."""
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.cli", "drill", f"{stocktake.__name__}:app", "--seeds", "4", "--no-sweep"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert "0 violations\n" in done.stdout, done.stdout + done.stderr
