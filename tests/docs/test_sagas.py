"""The page about sagas: its app runs on both databases as the page says, and its drill finds nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dujiang.testing.harness import running
from tests.docs.markdown import ROOT, write_files

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "sagas.md"


@pytest.fixture
def checkout(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("checkout")


async def test_the_sagas_of_the_page_end_as_it_says(checkout: Any, database: str) -> None:
    """One waits by name until the bank calls and is shipped; one whose card is refused gives its stock back."""
    async with running(checkout.app, database=database) as world:
        good, bad = [(await world.post("/api/v1/orders", {"pieces": n})).json["order_id"] for n in (2, 60)]
        await world.settle()
        waiting = (await world.get(f"/api/v1/orders/{good}/checkout")).json
        assert (waiting["state"], waiting["step"], waiting["done"]) == ("waiting", "paid", ["reserve", "charge"])
        for _ in range(2):
            await world.post(f"/api/v1/orders/{good}/payment")
        await world.settle()
        found = [(await world.get(f"/api/v1/orders/{one}/checkout")).json for one in (good, bad)]
        rows = await world.runtime.read(lambda db: db.execute(checkout.order.select()))

        assert [one["state"] for one in found] == ["done", "compensated"]
        assert found[1]["why"] == "the card is refused"
        assert {str(row.order_id): row.status for row in rows.all()} == {good: "shipped", bad: "refused"}
        assert await world.violations() == []


def test_the_drill_of_the_page_finds_nothing(checkout: Any, site: Path) -> None:
    """The command of the page: kills, lost answers of the bank, waits in vain, no violation."""
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.cli", "drill", f"{checkout.__name__}:app", "--seeds", "4", "--no-sweep"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert "0 violations" in done.stdout, done.stdout + done.stderr
