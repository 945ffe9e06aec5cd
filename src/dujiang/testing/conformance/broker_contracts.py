"""Conformance of `Broker`, contracts: an event's class changes while messages of its old form are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dujiang.app import App
from dujiang.data.sql import Sql
from dujiang.messaging.contracts import ContractBroken
from dujiang.messaging.message import Event
from dujiang.messaging.tx import Tx
from dujiang.module import Module
from dujiang.resilience.retry import Retry
from dujiang.testing.conformance.cases import REAL, case
from dujiang.testing.conformance.stage import ADD, QUICK, StageSuite, effects, execute, fetch, playing, until

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from dujiang.testing.harness import World

NOW = Sql("stage_now", "UPDATE dj_ready SET run_at = 0", "Makes everything due.")
LATER = Retry(attempts=4, base="1h", cap="1h")


class First(Event, name="Priced"):
    """The first form: an amount in whole euros."""

    n: int
    amount: int


class Second(Event, name="Priced", version=2):
    """The second form: cents, and a currency."""

    n: int
    cents: int
    currency: str


class Third(Event, name="Priced", version=3):
    """The third form: cents, a currency, and a new field that needs no step."""

    n: int
    cents: int
    currency: str
    note: str = ""


class Careless(Event, name="Priced"):
    """The second form by somebody who forgot the version."""

    n: int
    cents: int
    currency: str


@Third.upcast(1)
def to_cents(payload: dict[str, Any]) -> dict[str, Any]:
    """Euros are cents of euros."""
    return {"n": payload["n"], "cents": payload["amount"] * 100, "currency": "EUR"}


class ContractCases(StageSuite):
    """Events that change."""

    @case("C33.older")
    async def test_what_an_older_version_stored_is_read_through_its_steps(self) -> None:
        """A message of version 1 waits for a retry; version 3 of the code starts, and handles it in its own form."""
        seen: list[Any] = []
        async with self._living(First, None, retry=LATER) as world:
            await self._fails(world, First(n=1, amount=12))
        async with self._living(Third, seen) as world:
            await self._due(world)

            assert await effects(world, "price") == [("priced", 1)]
        assert seen == [Third(n=1, cents=1200, currency="EUR")]

    @pytest.mark.parametrize("event", [Careless, Second])
    @case("C67.refused", needs=REAL)
    async def test_a_start_that_cannot_read_what_waits_is_refused(self, event: type[Event]) -> None:
        """With and without a new version number: the start says what is stored, and what cures it; nothing is lost."""
        async with self._living(First, None, retry=LATER) as world:
            await self._fails(world, First(n=1, amount=12))
        with pytest.raises(ContractBroken) as refused:
            async with self._living(event, []):
                raise AssertionError("it started")
        seen: list[Any] = []
        async with self._living(First, seen) as world:
            await self._due(world)

        assert refused.value.values["stored"] == "1 waiting"
        assert "cents" in refused.value.detail
        assert "`class Priced(Event, version=2)` with `@Priced.upcast(1)`" in refused.value.hint
        assert seen == [First(n=1, amount=12)]

    @case("C67.dead", needs=REAL)
    async def test_a_dead_letter_counts_until_it_is_discarded(self) -> None:
        """A letter that nobody could replay any more refuses the start; discarded, it does not."""
        async with self._living(First, None, retry=Retry(attempts=1)) as world:
            await world.publish(First(n=1, amount=12))
            await world.settle()
        with pytest.raises(ContractBroken, match="1 dead letters"):
            async with self._living(Second, []):
                raise AssertionError("it started")
        async with self._living(First, []) as world:
            (letter,) = await world.runtime.deadletters.list()
            await world.runtime.deadletters.discard(letter.dead_id)
        async with self._living(Second, []) as world:
            assert await fetch(world, "SELECT count(*) FROM dj_dead") == [(0,)]

    @case("C67.handled", needs=REAL)
    async def test_what_was_handled_binds_nobody(self) -> None:
        """The outbox still holds a handled message of the old form; a new form starts, and a start again."""
        async with self._living(First, []) as world:
            await world.publish(First(n=1, amount=12))
            await world.settle()
        for _ in range(2):
            async with self._living(Second, []) as world:
                await world.publish(Second(n=2, cents=1, currency="EUR"))
                await world.settle()

    def _living(
        self, event: type[Event], seen: list[Any] | None, retry: Retry = QUICK
    ) -> AbstractAsyncContextManager[World]:
        """A copy of an app whose only reaction takes this form; without a list it fails."""
        module = Module("prices")

        async def price(tx: Tx, event: Event) -> None:
            if seen is None:
                raise ConnectionError("not now")
            seen.append(event)
            await tx.fetch(ADD, "price", "priced", event.model_dump()["n"])

        price.__annotations__.update(tx=Tx, event=event)
        module.react(event, name="price", retry=retry)(price)
        return playing(App(modules=[module]), self.url, self.folder, broker=self.broker_url, simulation=self.simulation)

    async def _fails(self, world: World, event: Event) -> None:
        """Publish an event, and return when it waits for its retry."""
        await world.publish(event)

        async def failed() -> bool:
            return await fetch(world, "SELECT attempt FROM dj_ready") == [(1,)]

        await until(world, failed, "the failure")

    async def _due(self, world: World) -> None:
        """What waits is due now, and is done."""
        await execute(world.runtime, NOW)
        world.runtime.bells.ring_all()
        await world.settle()
