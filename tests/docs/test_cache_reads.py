"""The page about cached reads: its app runs on both databases, and its table says what is counted."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.harness import World, running
from tests.docs.markdown import ROOT, write_files

PAGE = ROOT / "docs" / "howto" / "cache-reads.md"


@pytest.fixture
def catalogue(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("catalogue")


async def loads_of(catalogue: Any, world: World, path: str, name: str, ids: list[int]) -> tuple[int, Counter[int]]:
    """Ask for products, all at once; how many loads that took, and the answers by status."""
    before = catalogue.loads[name]
    answers = await asyncio.gather(*(world.get(f"/{path}/{each}") for each in ids))
    return catalogue.loads[name] - before, Counter(answer.status for answer in answers)


async def test_writes_end_what_they_change(catalogue: Any, database: str) -> None:
    """A title, an insert after a 404, and the size of the catalogue by its tag."""
    async with running(catalogue.app, database=database) as world:
        assert (await world.get("/products/1")).status == 404
        assert (await world.get("/size")).json == {"products": 0}
        for title in ("tea", "green tea"):
            await world.put("/products/1", {"title": title})
            assert (await world.get("/products/1")).json["title"] == title
            assert (await world.get("/size")).json == {"products": 1}


async def test_the_table_says_what_is_counted(catalogue: Any, database: str) -> None:
    """Penetration and breakdown: the loads of the page's table."""
    table = PAGE.read_text()
    async with running(catalogue.app, database=database, request_timeout_s=300.0) as world:
        absent = [n % 10 + 100 for n in range(1000)]
        plain, cached = [
            await loads_of(catalogue, world, path, name, absent)
            for path, name in (("plain", "plain"), ("products", "product"))
        ]
        assert (plain[1], cached[1]) == (Counter({404: 1000}), Counter({404: 1000}))
        assert f"| {plain[0]:,} loads | {cached[0]} loads |" in table

        await world.put("/products/1", {"title": "tea"})
        hot = [1] * 1000
        plain, cached = [
            await loads_of(catalogue, world, path, name, hot)
            for path, name in (("plain", "plain"), ("products", "product"))
        ]
        assert (plain[1], cached[1]) == (Counter({200: 1000}), Counter({200: 1000}))
        assert f"| {plain[0]:,} loads | {cached[0]} load |" in table
