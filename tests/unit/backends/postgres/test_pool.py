"""The line before the connections: order, bound, deadline, and places that are never lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dujiang.backends.postgres.pool import Pool
from dujiang.data.database import DatabaseUnreachable
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.context import Context, entered
from dujiang.kernel.deadline import Limits
from dujiang.kernel.errors import DeadlinePassed, Overloaded
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Tasks, outcomes_of


class Plug:
    """Stands where a link would; the pool knows no more of it than this."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.usable = True
        self.fresh = True
        self.closed = False

    async def close(self) -> None:
        """Note it."""
        self.usable = False
        self.closed = True


class Maker:
    """Makes plugs, or fails, or waits, as the test says."""

    def __init__(self) -> None:
        self.made: list[Plug] = []
        self.fails = self.asked = 0
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> Any:
        """A new plug."""
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise DatabaseUnreachable(url="", why="told to fail")
        self.made.append(Plug(len(self.made)))
        return self.made[-1]


def new_pool(maker: Maker, *, size: int = 2, waiters_max: int = 5) -> Pool:
    """An open pool."""
    pool = Pool(
        "plugs", maker, Tasks("pool"), Limits(SystemClock()), url="", size=size, waiters_max=waiters_max, wait_s=30.0
    )
    pool.open()
    return pool


async def turns(count: int = 5) -> None:
    """Let ready tasks run."""
    node = Node.system("test")
    for _ in range(count):
        await node.clock.sleep(0)


async def test_connections_are_made_when_needed_and_used_again() -> None:
    """One caller after another needs one connection."""
    maker = Maker()
    pool = new_pool(maker)
    for _ in range(3):
        pool.give(await pool.take())

    assert len(maker.made) == 1


async def test_what_is_given_back_goes_to_the_first_in_line() -> None:
    """A caller that arrives between the return and the waiter's turn does not overtake it."""
    maker, tasks, order = Maker(), Tasks("test"), list[str]()
    pool = new_pool(maker, size=1)
    link = await pool.take()

    async def come(name: str) -> None:
        got = await pool.take()
        order.append(name)
        pool.give(got)

    for name in "abc":
        tasks.spawn(come(name), name=name)
        await turns()
    pool.give(link)
    await come("late")
    await tasks.wait_idle()

    assert order == ["a", "b", "c", "late"]


async def test_the_line_is_bounded() -> None:
    """One more than may wait is refused at once, with the numbers."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=1, waiters_max=2)
    link = await pool.take()
    waiting = [tasks.spawn(pool.take(), name="waiter") for _ in range(2)]
    await turns()

    with pytest.raises(Overloaded) as caught:
        await pool.take()

    assert (caught.value.size, caught.value.limit) == (2, 2)
    for task in waiting:
        pool.give(link)
        link = await task


async def test_a_deadline_ends_the_wait_and_the_place_in_line_is_gone() -> None:
    """What is given back later goes to the next."""
    maker, tasks, node = Maker(), Tasks("test"), Node.system("test")
    pool = new_pool(maker, size=1)
    link = await pool.take()

    with entered(Context(node=node, deadline=node.clock.monotonic() + 0.01)):
        early = tasks.spawn(pool.take(), name="early")
        await turns()
    later = tasks.spawn(pool.take(), name="later")
    (outcome,) = await outcomes_of(early)
    pool.give(link)

    assert isinstance(outcome, DeadlinePassed)
    assert await later is link


async def test_a_waiter_cancelled_in_the_instant_of_its_turn_passes_it_on() -> None:
    """The connection that was handed to it is not lost."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=1)
    link = await pool.take()
    first = tasks.spawn(pool.take(), name="first")
    second = tasks.spawn(pool.take(), name="second")
    await turns()

    pool.give(link)
    first.cancel()
    (outcome,) = await outcomes_of(first)

    assert isinstance(outcome, asyncio.CancelledError)
    assert await second is link


async def test_a_broken_connection_gives_its_place_to_the_first_in_line() -> None:
    """It is closed first, so the server never sees one more than the size; the waiter then makes a new one."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=1)
    link: Any = await pool.take()
    waiting = tasks.spawn(pool.take(), name="waiter")
    await turns()
    link.usable = False
    pool.give(link)
    fresh: Any = await waiting

    assert link.closed
    assert fresh.number == 1


async def test_an_idle_connection_that_broke_is_not_handed_out() -> None:
    """It is dropped when it would be next."""
    maker = Maker()
    pool = new_pool(maker, size=1)
    link: Any = await pool.take()
    pool.give(link)
    link.usable = False

    fresh: Any = await pool.take()

    assert fresh.number == 1


async def test_a_connection_that_cannot_be_made_costs_no_place() -> None:
    """The one who tried gets the error, the next in line tries again."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=1)
    maker.fails, maker.gate = 1, asyncio.Event()
    trying = tasks.spawn(pool.take(), name="first")
    await turns()
    waiting = tasks.spawn(pool.take(), name="second")
    await turns()
    maker.gate.set()
    first, second = await outcomes_of(trying, waiting)

    assert isinstance(first, DatabaseUnreachable)
    assert isinstance(second, Plug)


async def test_a_caller_cancelled_while_its_connection_is_made_leaves_it_to_the_next() -> None:
    """The connection is not broken off half made; the next in line gets it."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=1)
    maker.gate = asyncio.Event()
    trying = tasks.spawn(pool.take(), name="first")
    await turns()
    waiting = tasks.spawn(pool.take(), name="second")
    await turns()
    trying.cancel()
    await outcomes_of(trying)
    maker.gate.set()

    given: Any = await waiting
    assert given is maker.made[0]
    assert len(maker.made) == maker.asked == 1


async def test_a_deadline_ends_the_wait_for_a_connection_and_not_its_making() -> None:
    """The caller is told in time, and the connection serves the next one."""
    maker, node = Maker(), Node.system("test")
    pool = new_pool(maker, size=1)
    maker.gate = asyncio.Event()
    with entered(Context(node, deadline=node.clock.monotonic() + 0.01)), pytest.raises(DeadlinePassed):
        await pool.take()
    maker.gate.set()

    given: Any = await pool.take()
    assert given is maker.made[0]
    assert maker.asked == 1


async def test_stop_waits_for_holders_and_closes_everything() -> None:
    """Those in line are told, those who hold a connection may finish, and nothing stays open."""
    maker, tasks = Maker(), Tasks("test")
    pool = new_pool(maker, size=2)
    first, second = await pool.take(), await pool.take()
    waiting = tasks.spawn(pool.take(), name="waiter")
    await turns()
    pool.give(first)
    first = await waiting
    waiting = tasks.spawn(pool.take(), name="waiter")
    await turns()
    stopping = tasks.spawn(pool.stop(10.0), name="stopper")
    await turns()
    (told,) = await outcomes_of(waiting)
    assert isinstance(told, DatabaseUnreachable)
    assert not stopping.done()
    pool.give(first)
    pool.give(second)
    await stopping

    assert all(plug.closed for plug in maker.made)
    with pytest.raises(DatabaseUnreachable):
        await pool.take()


async def test_stop_does_not_wait_for_ever() -> None:
    """A connection that nobody gives back is closed when the grace is over."""
    maker = Maker()
    pool = new_pool(maker)
    link: Any = await pool.take()

    await pool.stop(0.01)
    pool.give(link)

    assert link.closed
