"""A request that outlives the task that waits for it."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.backends.postgres.sent import Sent
from dujiang.kernel.tasks import Tasks, outcomes_of


class Wire:
    """A request whose answer the test gives."""

    def __init__(self, answer: str | Exception = "COMMIT") -> None:
        self.arrived = asyncio.get_running_loop().create_future()
        self.steps: list[str] = []
        self._answer = answer

    async def request(self) -> str:
        """Send, wait, wait once more, answer."""
        self.steps.append("sent")
        await self.arrived
        self.steps.append("read")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def whole(sent: Sent[str]) -> str:
    """Wait for the answer and take it."""
    await sent.answered()
    return await sent


async def test_the_request_leaves_at_once_and_the_answer_comes() -> None:
    """The first step is made by the constructor; the answer is what the coroutine returns."""
    wire, tasks = Wire(), Tasks("test")
    sent = Sent(wire.request())
    assert wire.steps == ["sent"]
    waiting = tasks.spawn(whole(sent), name="waiter")
    await asyncio.wait([waiting], timeout=0)
    wire.arrived.set_result(None)

    assert await waiting == "COMMIT"
    assert wire.steps == ["sent", "read"]


async def test_an_error_is_raised_to_whoever_takes_the_answer() -> None:
    """Not before, and unchanged."""
    wire = Wire(OSError("gone"))
    sent = Sent(wire.request())
    wire.arrived.set_result(None)

    await sent.answered()
    with pytest.raises(OSError, match="gone"):
        await sent


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_waiter_leaves_the_request_to_another(times: int) -> None:
    """However many waiters are cancelled, the request is not, and the next one gets its answer."""
    wire, tasks = Wire(), Tasks("test")
    sent = Sent(wire.request())
    for _ in range(times):
        waiting = tasks.spawn(whole(sent), name="leaver")
        await asyncio.wait([waiting], timeout=0.001)
        waiting.cancel()
        (outcome,) = await outcomes_of(waiting)
        assert isinstance(outcome, asyncio.CancelledError)
    assert not wire.arrived.cancelled()
    rest = tasks.spawn(whole(sent), name="rest")
    wire.arrived.set_result(None)

    assert await rest == "COMMIT"


async def test_a_coroutine_that_never_waits_answers_or_fails_as_well() -> None:
    """A connection that is closed already raises before anything is sent."""

    async def at_once() -> str:
        return "done"

    async def fails() -> str:
        raise OSError("closed")

    assert await whole(Sent(at_once())) == "done"
    with pytest.raises(OSError, match="closed"):
        await whole(Sent(fails()))


async def test_a_coroutine_that_waits_again_is_driven_to_its_end() -> None:
    """After the first answer the coroutine may wait for more."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    async def twice() -> str:
        await first
        return str(await second)

    sent = Sent(twice())
    first.set_result(None)
    loop.call_soon(second.set_result, "late")

    assert await whole(sent) == "late"
