"""What a framework puts into threads runs inline: plain `def` dependencies drill, and wait in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import Depends

from dujiang import Tx
from dujiang.drill.escape import EscapedSimulation
from tests.drill import apps
from tests.drill.drilled import calm, living, standing, stormy, violated
from tests.drill.test_run import asking

SEEN: list[str] = []
block = time.sleep  # In a drill it takes no time of ours.


def signed() -> None:
    """A plain dependency that blocks its thread."""
    block(0.3)


def opened() -> Iterator[None]:
    """One with an end."""
    SEEN.append("opened")
    yield
    SEEN.append("closed")


def calling_back() -> None:
    """One that wants the loop to do something."""
    anyio.from_thread.run(anyio.sleep, 0)


async def hash_in_thread(tx: Tx, body: apps.Adding) -> int:
    """Do something slow in a thread, with an error that is expected."""

    def slow() -> int:
        block(0.2)
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        await anyio.to_thread.run_sync(slow)
    return await apps.added(tx, body)


class TestThreads:
    def test_a_plain_dependency_blocks_its_request_alone(self) -> None:
        """Its sleep takes virtual time; another request is answered meanwhile. No thread is started."""
        with standing(dependencies=[Depends(signed)]) as cluster, living(cluster) as world:
            began = world.loop.now

            async def both() -> list[int]:
                return [answer.status for answer in await asyncio.gather(*(asking(world, 0, n) for n in (1, 2)))]

            assert world.loop.run_until_complete(both()) == [201, 201]
            assert 0.3 < world.loop.now - began < 0.6

    def test_a_dependency_with_an_end_is_opened_and_closed(self) -> None:
        """Both halves run, the second after the first."""
        SEEN.clear()
        with standing(dependencies=[Depends(opened)]) as cluster, living(cluster) as world:
            assert world.loop.run_until_complete(asking(world)).status == 201
            world.loop.run_until_complete(world.loop.pause(1.0))

        assert SEEN == ["opened", "closed"]

    def test_an_app_with_plain_dependencies_drills(self) -> None:
        """Under kills and all the rest: what a dead machine had in a thread is gone with it, its threads too."""
        search = stormy(seeds=10, add=hash_in_thread, dependencies=[Depends(signed)])

        assert violated(search) == set()
        assert search.found.kills > 0

    def test_a_thread_that_calls_the_loop_is_refused(self) -> None:
        """It could only wait for itself; the line and the way out are named."""
        with pytest.raises(EscapedSimulation, match="from a thread back into the loop") as found:
            calm(dependencies=[Depends(calling_back)])

        assert found.value.where.endswith(" calling_back")
