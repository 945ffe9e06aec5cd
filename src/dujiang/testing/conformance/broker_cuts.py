"""Conformance of `Broker` on a store behind a network: every connection to it dies, again and again.

A failover of the database looks like this from here: all connections end at once, a commit or its answer among them.
"""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kernel.tasks import Tasks, outcomes_of
from dujiang.testing.conformance.cases import case
from dujiang.testing.conformance.stage import Stage, StageSuite, Told, effects, fetch, until
from dujiang.testing.proxy import Proxy

CUTS = 50


class CutCases(StageSuite):
    """Connections to the store that end.

    Attributes:
        port: The store's.
    """

    port: int

    def through(self, proxy: Proxy) -> str:
        """The store's URL behind a proxy."""
        return self.url.replace(f":{self.port}/", f":{proxy.port}/")

    async def cut(self) -> None:
        """End the connections to a broker outside the store, too."""

    @case("C45")
    async def test_connections_that_keep_breaking_lose_nothing_and_double_nothing(self) -> None:
        """All connections are cut again and again while events are published and handled: one effect for each."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with Proxy("127.0.0.1", self.port) as proxy, self.playing(stage, url=self.through(proxy)) as world:
            tasks, accepted, done = Tasks("cutter"), list[tuple[str, int]](), asyncio.Event()

            async def cut() -> None:
                while not done.is_set():
                    proxy.cut()
                    await self.cut()
                    await world.runtime.node.clock.sleep(0.03)

            cutter = tasks.spawn(cut(), name="cutter")
            for n in range(200):
                (outcome,) = await outcomes_of(world.publish(Told(line=str(n % 5), n=n)))
                if outcome is None:
                    accepted.append((str(n % 5), n))
                await world.runtime.node.clock.sleep(0)
            done.set()
            await cutter

            async def all_there() -> bool:
                (outcome,) = await outcomes_of(effects(world))
                return isinstance(outcome, list) and set(accepted) <= set(outcome)

            await until(world, all_there, "every accepted event")
            await world.settle()
            found = await effects(world)
            kept = await fetch(world, "SELECT count(*) FROM dj_outbox")

            assert len(found) == len(set(found)) == kept[0][0]

    @pytest.mark.proof
    @case("C31.store")
    async def test_after_each_of_fifty_cuts_of_the_store_events_are_handled_again(self) -> None:
        """Fifty times all connections to the store are cut; each time the next event is handled within 10 s, once."""
        stage = Stage()
        stage.reaction(ordered=True)
        async with Proxy("127.0.0.1", self.port) as proxy, self.playing(stage, url=self.through(proxy)) as world:
            for n in range(CUTS):
                proxy.cut()

                async def accepted(n: int = n) -> bool:
                    (outcome,) = await outcomes_of(world.publish(Told(line="a", n=n)))
                    return outcome is None

                async def came(n: int = n) -> bool:
                    return n in stage.numbers("a")

                await until(world, accepted, f"the publish after cut {n}", within_s=10.0)
                await until(world, came, f"the event after cut {n}", within_s=10.0)
            await world.settle()
            found = await effects(world)

            assert set(found) == {("a", n) for n in range(CUTS)}
            assert len(found) == (await fetch(world, "SELECT count(*) FROM dj_outbox"))[0][0]
