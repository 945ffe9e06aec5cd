"""The page about the ledger: its commands print what they show, and its Python agrees with the system."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from dujiang.systems.ledger import app
from dujiang.systems.ledger.chain import GENESIS
from dujiang.testing.harness import running
from dujiang.testing.processes import free_port
from tests.docs.markdown import ROOT, Reader, blocks, needed, write_files

PAGE = ROOT / "docs" / "howto" / "ledger.md"
SECRET = "a-secret-of-the-provider"


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    """Money is moved, set aside, captured, refunded, read and reconciled by `curl`, as shown."""
    needed("curl")

    with Reader(tmp_path, free_port()) as reader:
        for block in blocks(PAGE):
            if block.language == "console":
                reader.session(block.text)


async def test_its_python_computes_the_same_hashes(site: Path, database: str) -> None:
    """The function of the page gives every hash of a statement, from the first entry to the last."""
    write_files(PAGE, site)
    check: Any = importlib.import_module("check")
    body = {"user_id": "ann", "debit": "11", "credit": "13", "amount": "0.29"}

    async with running(app, database=database) as world:
        for number in range(5):
            await world.post("/api/v1/transfers", {**body, "reference": f"r{number}"}, key=f"k{number}")
        entries = (await world.get("/api/v1/accounts/11/statement?user_id=ann")).json["entries"]

    before = GENESIS
    assert len(entries) == 6
    for entry in entries:
        before = check.hash_of("11", before, entry)
        assert entry["hash"] == before


async def test_its_python_signs_as_the_system_reads(site: Path, database: str) -> None:
    """An event that the function of the page signed is taken and booked."""
    write_files(PAGE, site)
    provider: Any = importlib.import_module("provider")
    event = {"event_id": "e1", "kind": "payment.succeeded", "payment_id": "p1", "account_id": "11"}
    event |= {"currency": "EUR", "amount": "50.00", "occurred_at": "2026-03-01T00:00:00Z"}

    async with running(app, database=database) as world:
        await world.operate("PUT", "/_dj/ledger/provider/secrets/spring", {"secret": SECRET})
        seconds = world.runtime.node.clock.now_us() // 1_000_000
        body, header = provider.signed(SECRET, seconds, event)
        answer = await world.post("/api/v1/provider/events", body, headers={"x-provider-signature": header})

    assert json.loads(answer.body) == {"event_id": "e1", "outcome": "applied", "reason": "", "duplicate": False}
