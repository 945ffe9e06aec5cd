"""Cached reads in the drill: what a user forgets to forget is found, what the platform must not give is found, else nothing."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from sqlalchemy import insert, select, update

from dujiang import App, Module, Read, Tx
from dujiang.caching.caching import Caching
from dujiang.caching.floors import Floors
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from tests.drill.apps import Adding, Level, Receipt, entry, metadata, pot, seed
from tests.drill.drilled import first, searched, violated

FEW = Scenario(clients=3, operations=4, faults_s=3.0, only=("cache",))
TAG: dict[str, Any] = {"tags": ("pot:{name}",)}


def app_of(*, forgets: bool = True, **options: Any) -> App:
    """Two pots, of which one grows; what they hold is kept for an hour."""
    module = Module("tally", tables=metadata, migrations="tests.drill.migrations", seed=seed)

    @module.read("GET /pots/{name}", ttl="1h", **options)
    async def read_pot(db: Read, name: Literal["a", "b"]) -> Level | None:
        found = (await db.execute(select(pot).where(pot.c.name == name))).one_or_none()
        return None if found is None else Level(pot=found.name, held=found.held)

    @module.write("POST /entries")
    async def make_entry(tx: Tx, body: Adding) -> Receipt:
        await tx.execute(update(pot).where(pot.c.name == body.pot).values(held=pot.c.held + body.amount))
        entry_id = tx.new_id()
        await tx.execute(insert(entry), {"entry_id": entry_id, "pot": body.pot, "amount": body.amount})
        if forgets:
            tx.forget(read_pot, body.pot)
        return Receipt(entry_id=entry_id, number=0)

    return App(modules=[module])


def read(seeds: int = 3, **options: Any) -> Search:
    """Some random schedules of the two pots."""
    return searched(app_of(**options), FEW, seeds=seeds, calmly=False)


def test_reads_that_are_forgotten_are_sound() -> None:
    """A shared cache that loses, delays, repeats and is away: nobody sees anything of it."""
    assert violated(read(seeds=6)) == set()


def test_a_write_that_forgets_nothing_is_found() -> None:
    """The read has a tag, so somebody means to keep it up to date: its writer is told, and every machine is asked at the end."""
    search = read(forgets=False, **TAG)

    assert violated(search) == {"read-your-writes", "stale-for-ever"}
    _, said = first(search, "stale-for-ever")
    assert 'to GET /pots/a; the database has 200 {"pot":"a","held":' in said
    assert first(search, "read-your-writes")[1].startswith("POST /entries was answered 201; ")


def test_a_read_that_nobody_forgets_is_as_old_as_its_ttl_on_purpose() -> None:
    """No tag, and no transaction that forgets it: nothing is judged."""
    assert violated(read(forgets=False)) == set()


def test_shared_answers_that_are_not_judged_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what lies in the shared cache is taken for good."""
    monkeypatch.setattr(Floors, "allow", lambda *_: True)

    assert "stale-for-ever" in violated(read(seeds=6))


def test_a_writer_that_waits_for_its_own_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the process that commits touches nothing, and learns of it from the log like all the others."""
    monkeypatch.setattr(Caching, "forgot", lambda *_: None)

    assert violated(read(seeds=24)) == {"read-your-writes"}
