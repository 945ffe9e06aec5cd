"""The failing request does what its page says, on both databases."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from dujiang.testing.harness import World, running
from tests.docs.markdown import ROOT, Reader, blocks, write_files

PAGE = ROOT / "docs" / "failing-request.md"
REFUSED, FAULT, LETTER = (block.text.strip() for block in blocks(PAGE) if block.language == "json")


@pytest.fixture
def tickets(site: Path) -> Any:
    """The app of the page."""
    write_files(PAGE, site)
    return importlib.import_module("tickets")


def is_shown(shown: str, printed: bytes) -> bool:
    """Whether an answer is the one on the page."""
    return Reader(Path(), 0).matches(shown, printed.decode())


async def seats(world: World) -> list[str]:
    """The booked seats."""
    from sqlalchemy import text

    async def body(db: Any) -> list[str]:
        return [row.seat for row in (await db.execute(text("SELECT seat FROM tickets_seat ORDER BY seat"))).all()]

    return list(await world.runtime.read(body))


class TestFailingRequest:
    async def test_a_refusal_writes_nothing_and_is_replayed(self, tickets: Any, database: str) -> None:
        """The second booking of a seat is the 409 of the page, and stays it."""
        tickets.printer.paper = True
        async with running(tickets.app, database=database) as world:
            await world.post("/bookings", {"seat": "A1", "name": "Li"})
            await world.settle()
            refused = await world.post("/bookings", {"seat": "A1", "name": "Bo"}, key="k1")
            again = await world.post("/bookings", {"seat": "A1", "name": "Bo"}, key="k1")
            await world.settle()

            assert is_shown(REFUSED, refused.body)
            assert again.body == refused.body
            assert again.headers["idempotent-replayed"] == "true"
            assert tickets.printer.tickets == ["A1"]

    async def test_a_fault_is_rolled_back_and_not_stored(
        self, tickets: Any, database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The bug is the 500 of the page; nothing is written, and the same key runs again."""
        tickets.printer.paper = True
        async with running(tickets.app, database=database) as world:
            failed = await world.post("/bookings", {"seat": "A1", "name": " "}, key="k1")
            again = await world.post("/bookings", {"seat": "A1", "name": " "}, key="k1")
            await world.settle()

            assert is_shown(FAULT, failed.body)
            assert failed.json["trace_id"]
            assert "ZeroDivisionError" in caplog.text
            assert again.status == 500
            assert "idempotent-replayed" not in again.headers
            assert await seats(world) == []
            assert tickets.printer.tickets == []

    async def test_a_reaction_that_keeps_failing_waits_as_a_dead_letter(self, tickets: Any, database: str) -> None:
        """Three tries, one letter as on the page, its key parked alone; a replay prints the ticket once."""
        async with running(tickets.app, database=database) as world:
            booked = await world.post("/bookings", {"seat": "B1", "name": "Li"})
            await world.settle()
            letters = (await world.operate("GET", "/_dj/deadletters")).json
            tickets.printer.paper = True
            await world.post("/bookings", {"seat": "C1", "name": "Bo"})
            await world.settle()
            before = list(tickets.printer.tickets)
            first = await world.operate("POST", f"/_dj/deadletters/{letters[0]['id']}/replay")
            second = await world.operate("POST", f"/_dj/deadletters/{letters[0]['id']}/replay")
            await world.settle()

            assert booked.status == 201
            assert len(letters) == 1
            assert is_shown(LETTER, json.dumps(letters[0], separators=(",", ":")).encode())
            assert before == ["C1"]
            assert (first.status, second.status) == (204, 404)
            assert tickets.printer.tickets == ["C1", "B1"]
