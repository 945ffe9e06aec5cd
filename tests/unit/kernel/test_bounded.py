"""A bounded queue refuses when it is full, keeps its order, and wakes who waits."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kernel.bounded import BoundedQueue
from dujiang.kernel.errors import Overloaded


@pytest.fixture
def queue() -> BoundedQueue[int]:
    """A queue for three."""
    return BoundedQueue("wake-ups", 3)


async def test_what_is_put_first_is_taken_first(queue: BoundedQueue[int]) -> None:
    """Order is kept through both ways of putting and of taking."""
    queue.put_nowait(1)
    await queue.put(2)
    queue.put_nowait(3)

    assert await queue.get() == 1
    assert queue.take_nowait(10) == [2, 3]
    assert queue.take_nowait(10) == []


def test_a_full_queue_refuses_with_its_name_and_limit(queue: BoundedQueue[int]) -> None:
    """The error says what is full, and the caller may try later."""
    for item in range(3):
        queue.put_nowait(item)

    with pytest.raises(Overloaded) as caught:
        queue.put_nowait(3)

    assert str(caught.value) == "wake-ups is full: 3 of 3 [overloaded, wait]"
    assert len(queue) == 3
    assert repr(queue) == "<BoundedQueue wake-ups: 3 of 3>"


async def test_who_puts_into_a_full_queue_waits_for_room(queue: BoundedQueue[int]) -> None:
    """Waiting putters come in one for each place that becomes free; none is lost."""
    puts = [asyncio.ensure_future(queue.put(item)) for item in range(10)]
    await asyncio.sleep(0)
    assert len(queue) == 3

    taken = [await queue.get() for _ in range(10)]
    await asyncio.gather(*puts)

    assert taken == list(range(10))
    assert len(queue) == 0


async def test_who_takes_from_an_empty_queue_waits_for_an_item(queue: BoundedQueue[int]) -> None:
    """Each item goes to one of those who wait, and each of them gets one."""
    gets = [asyncio.ensure_future(queue.get()) for _ in range(5)]
    await asyncio.sleep(0)
    for item in range(5):
        await queue.put(item)

    assert sorted(await asyncio.gather(*gets)) == [0, 1, 2, 3, 4]


async def test_a_cancelled_waiter_takes_nothing_along(queue: BoundedQueue[int]) -> None:
    """An item meant for somebody who has gone is there for the next one."""
    gone = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(7)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone

    assert await queue.get() == 7


def test_a_queue_without_a_place_is_our_own_mistake() -> None:
    """A limit below one is refused when the queue is made."""
    with pytest.raises(AssertionError):
        BoundedQueue("none", 0)
