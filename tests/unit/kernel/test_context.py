"""The context follows the call: a task inherits it, a change ends with its block."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kernel.clock import microseconds
from dujiang.kernel.context import Context, changed, current, current_or_none, entered, now, random, sleep
from dujiang.kernel.errors import DeadlinePassed, OutsideRuntime
from tests.unit.kernel.clocks import START_US, HandClock, node_with


@pytest.fixture
def clock() -> HandClock:
    """A clock turned by hand."""
    return HandClock()


@pytest.fixture
def context(clock: HandClock) -> Context:
    """A call of one caller on a node with that clock."""
    return Context(node=node_with(clock), caller="ada", trace_id="1" * 32)


def test_outside_a_running_app_there_is_none() -> None:
    """Asking for it says what was called and what to do."""
    assert current_or_none() is None
    with pytest.raises(OutsideRuntime, match="outside a running app") as caught:
        current()
    assert "inside" in caught.value.hint


def test_it_is_there_for_the_block_and_gone_after_it(context: Context) -> None:
    """Entering is undone, by an error too."""
    with pytest.raises(ZeroDivisionError), entered(context):
        assert current() is context
        _ = 1 / 0

    assert current_or_none() is None


def test_a_change_keeps_the_rest_and_ends_with_its_block(context: Context) -> None:
    """One field is replaced for the block; the outer value is untouched, and cannot be touched."""
    with entered(context):
        with changed(tenant="acme") as inner:
            assert current() is inner
            assert (inner.tenant, inner.caller, inner.trace_id) == ("acme", "ada", "1" * 32)
        assert current().tenant == ""

    with pytest.raises(AttributeError):
        context.tenant = "acme"  # type: ignore[misc]


def test_inside_a_transaction_all_else_is_the_same() -> None:
    """`inside` changes the transaction and nothing beside it, whatever fields there are."""
    full = Context._make(range(len(Context._fields)))

    assert full.inside("t") == full.but(transaction="t")


async def test_a_task_inherits_it_and_cannot_change_it_for_others(context: Context) -> None:
    """What a task changes is its own; what its parent does later does not reach it."""
    seen: list[str] = []

    async def child() -> None:
        with changed(tenant="child"):
            await asyncio.sleep(0)
            seen.append(current().tenant)
        seen.append(current().tenant)

    with entered(context):
        task = asyncio.ensure_future(child())
        with changed(tenant="parent"):
            await task
        assert current().tenant == ""

    assert seen == ["child", ""]


class TestDeadline:
    def test_without_one_there_is_no_hurry(self, context: Context) -> None:
        """No deadline means unlimited, not zero."""
        assert context.remaining_s() is None
        context.check_deadline("anything")

    def test_what_is_left_shrinks_to_zero_and_not_below(self, context: Context, clock: HandClock) -> None:
        """The time left is what can be handed on as a timeout."""
        limited = context.but(deadline=clock.monotonic() + 2)
        assert limited.remaining_s() == pytest.approx(2)
        limited.check_deadline("the write")
        clock.at_us += 3_000_000

        assert limited.remaining_s() == 0
        with pytest.raises(DeadlinePassed, match="the write did not finish"):
            limited.check_deadline("the write")


class TestTimeAndChance:
    async def test_they_come_from_the_node(self, context: Context, clock: HandClock) -> None:
        """`now`, `sleep` and `random` ask the node, so that a simulation can answer."""
        with entered(context):
            assert microseconds(now()) == START_US
            await sleep(90)
            assert microseconds(now()) == START_US + 90_000_000
            assert 0 <= random() < 1

        assert clock.slept_s == [90]
