"""The page about cached reads: its app runs on both databases, and its table says what is counted."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dujiang.backends.redis import cache as redis_cache
from dujiang.caching import second
from dujiang.testing.harness import World, running
from dujiang.testing.processes import BinaryMissing
from dujiang.testing.redis import RedisServer
from dujiang.testing.servers import PostgresServer
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


async def test_the_table_of_several_processes_says_what_is_counted(
    catalogue: Any, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breakdown in three processes: the loads of the page's second table, without and with Redis."""
    monkeypatch.setattr(second, "WAIT_S", 300.0)
    monkeypatch.setattr(redis_cache, "LEASE_MS", 300_000)
    database, loads = postgres.create_database(), {}
    try:
        server = RedisServer()
        server.start()
    except BinaryMissing as missing:
        pytest.skip(str(missing))
    with server:
        for cache in ("memory:", server.url(timeout_s=30.0)):
            settings: dict[str, Any] = {"data": tmp_path, "cache": cache, "request_timeout_s": 300.0}
            async with (
                running(catalogue.app, database=database, **settings) as one,
                running(catalogue.app, database=database, **settings) as two,
                running(catalogue.app, database=database, **settings) as three,
            ):
                worlds = (one, two, three)
                await one.put("/products/1", {"title": "tea"})
                for world in worlds:
                    world.runtime.caching.guard._trust_s = 300.0
                    await world.runtime.caching.follower.look()
                before = catalogue.loads["product"]
                answers = await asyncio.gather(*(worlds[n % 3].get("/products/1") for n in range(1000)))
                loads[cache[:6]] = catalogue.loads["product"] - before
                assert {answer.status for answer in answers} == {200}

    table = PAGE.read_text()
    assert f"for a product that nobody has kept | {loads['memory']} loads | {loads['redis:']} load |" in table


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
