"""The page about calls to the world outside: its app runs on both databases, and its drill finds nothing, or the planted key."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.harness import running
from tests.docs.markdown import ROOT, write_files

PAGE = ROOT / "docs" / "howto" / "call-the-outside.md"
DRILL = ("--no-sweep", "--only", "external", "--json", "--fail-fast")


@pytest.fixture
def billing(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("billing")


def drilled(site: Path, seeds: int) -> dict[str, Any]:
    """The report of a drill of the page's app, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.cli", "drill", "billing:app", "--seeds", str(seeds), *DRILL],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_the_app_of_the_page_collects_once(billing: Any, database: str) -> None:
    """An invoice is collected under one key, and the bank's reference is written down."""
    async with running(billing.app, database=database) as world:
        await world.post("/invoices", {"amount": "20.00"})
        await world.settle()

        assert list(billing.bank.collected.values()) == ["ref-1"]
        assert [len(key) for key in billing.bank.collected] == [32]
        rows = await world.runtime.read(lambda db: db.execute(billing.invoice.select()))
        assert [row.reference for row in rows.all()] == ["ref-1"]


def test_the_drill_of_the_page_finds_nothing(billing: Any, site: Path) -> None:
    """Requests and answers are lost and doubled, the bank is asked again, and nothing is violated."""
    report = drilled(site, 8)

    assert report["violations"] == []
    assert report["faults"]["external"] > 0
    assert report["sometimes"]["the bank was asked again"] > 0


def test_a_key_of_ones_own_is_found(billing: Any, site: Path) -> None:
    """The page's app with the attempt in its key: the drill names the line and the cure."""
    file = site / "billing" / "__init__.py"
    text = file.read_text()
    file.write_text(text.replace("collect(bank, call.key,", 'collect(bank, f"{call.key}-{call.attempt}",'))
    assert file.read_text() != text
    report = drilled(site, 30)

    assert [each["invariant"] for each in report["violations"]] == ["external-keyed"]
    assert "billing/__init__.py" in report["violations"][0]["story"]
    assert "call.key" in report["violations"][0]["cause"]["cure"]
