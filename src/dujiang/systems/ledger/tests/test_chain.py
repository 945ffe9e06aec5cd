"""Entries: what is hashed, to the byte; nobody changes them, and whoever did is found."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import delete, text, update

from dujiang import DujiangError, Tx
from dujiang.systems.ledger import app
from dujiang.systems.ledger.chain import GENESIS, canonical, link
from dujiang.systems.ledger.tables import account, entry
from dujiang.testing.harness import World, running

PAY = {"user_id": "ann", "debit": "11", "credit": "13", "amount": "19.99"}
DROP = {
    "postgresql": ("DROP TRIGGER ledger_entry_is_kept ON ledger_entry",),
    "sqlite": ("DROP TRIGGER ledger_entry_is_kept", "DROP TRIGGER ledger_entry_is_not_deleted"),
}


async def chain(world: World, account_id: int) -> Any:
    """What the operation says of an account's entries."""
    return (await world.operate("GET", f"/_dj/ledger/accounts/{account_id}/chain")).json


def test_the_canonical_form_is_the_documented_one() -> None:
    """The bytes of an entry are those that chain.py and the manual show; anybody can compute the hash again."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    said = canonical(GENESIS, 11, 1, transfer_id=77, amount=Decimal("-19.99"), balance=Decimal("980.01"), posted_at=at)

    assert said == b"dujiang-ledger-entry-1\n" + b"0" * 64 + b"\n11\n1\n77\n-1999\n98001\n1767225600000000"
    assert sha256(said).hexdigest() == link(
        GENESIS, 11, 1, transfer_id=77, amount=Decimal("-19.99"), balance=Decimal("980.01"), posted_at=at
    )


@pytest.mark.parametrize("way", ["update", "delete"])
async def test_the_database_refuses_to_change_an_entry(store: str, way: str) -> None:
    """An UPDATE or DELETE of an entry fails, whoever sends it."""
    statement: Any = update(entry).values(amount=Decimal("5.00")) if way == "update" else delete(entry)

    async def change(tx: Tx) -> None:
        await tx.execute(statement.where(entry.c.account_id == 11))

    async with running(app, database=store) as world:
        with pytest.raises(DujiangError):
            await world.runtime.transact(change)

        assert (await chain(world, 11))["intact"] is True


async def test_the_first_changed_entry_is_found(store: str) -> None:
    """With the triggers gone one amount is changed: the operation names the entry, and the laws are broken.

    Method: the balances of the entry and of all behind it are made to fit, so that only the hash tells.
    """
    async with running(app, database=store) as world:
        for number in range(5):
            await world.post("/api/v1/transfers", {**PAY, "reference": f"r{number}"}, key=f"k{number}")
        before = await chain(world, 11)

        async def forge(tx: Tx) -> None:
            for statement in DROP["postgresql" if store else "sqlite"]:
                await tx.execute(text(statement))
            own = entry.c.account_id == 11
            await tx.execute(update(entry).where(own, entry.c.number == 3).values(amount=Decimal("-9.99")))
            later = update(entry).where(own, entry.c.number >= 3)
            await tx.execute(later.values(balance=entry.c.balance + Decimal("10.00")))
            more = update(account).where(account.c.account_id == 11)
            await tx.execute(more.values(balance=account.c.balance + Decimal("10.00")))

        await world.runtime.transact(forge)
        after = await chain(world, 11)
        laws = {violation.name for violation in await world.violations()}

        assert (before["intact"], before["entries"], before["broken"]) == (True, 6, None)
        assert (after["intact"], after["broken"]) == (False, 3)
        assert "hash" in after["why"]
        assert "ledger.chains_are_intact" in laws
        assert (await chain(world, 13))["intact"] is True


async def test_a_removed_entry_is_found(store: str) -> None:
    """The last entry cannot be cut off unseen either: the account says how many there are."""
    async with running(app, database=store) as world:
        await world.post("/api/v1/transfers", {**PAY, "reference": "r"}, key="k")

        async def cut(tx: Tx) -> None:
            for statement in DROP["postgresql" if store else "sqlite"]:
                await tx.execute(text(statement))
            await tx.execute(delete(entry).where(entry.c.account_id == 11, entry.c.number == 2))

        await world.runtime.transact(cut)

        assert (await chain(world, 11))["broken"] == 2
