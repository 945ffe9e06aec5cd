"""Services start and stop in order; a start that fails leaves nothing running."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dujiang.kernel.service import Services

NAMES = ("a", "b", "c", "d")


class Part:
    """A service that writes down what happens to it, and fails where it is told to."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.running = False
        self.start_fails: BaseException | None = None
        self.stop_fails: Exception | None = None
        self.holds: asyncio.Event | None = None
        self.stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin; a failing start has already taken something, as real ones have."""
        self.running = True
        await asyncio.sleep(0)
        if self.start_fails is not None:
            raise self.start_fails
        self.log.append(f"+{self.name}")

    async def stop(self) -> None:
        """End."""
        self.stopping.set()
        if self.holds is not None:
            await self.holds.wait()
        self.running = False
        self.log.append(f"-{self.name}")
        if self.stop_fails is not None:
            raise self.stop_fails


class World:
    """Four services and their group."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.parts = {name: Part(name, self.log) for name in NAMES}
        self.group = Services(list(self.parts.items()))

    @property
    def running(self) -> list[str]:
        """The names of what runs."""
        return [name for name, part in self.parts.items() if part.running]


async def test_services_start_in_order_and_stop_in_reverse() -> None:
    """What starts later may need what started earlier, also while it stops."""
    world = World()
    await world.group.start()
    await world.group.stop()

    assert world.log == ["+a", "+b", "+c", "+d", "-d", "-c", "-b", "-a"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [OSError("taken"), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
async def test_a_start_that_fails_anywhere_leaves_nothing_running(name: str, error: BaseException) -> None:
    """The error is raised as it is, what had started is stopped in reverse, the failed one included."""
    world = World()
    world.parts[name].start_fails = error

    with pytest.raises(type(error)):
        await world.group.start()

    assert world.running == []
    before = NAMES[: NAMES.index(name)]
    assert world.log == [*(f"+{n}" for n in before), f"-{name}", *(f"-{n}" for n in reversed(before))]


async def test_a_group_whose_start_failed_can_be_started_again() -> None:
    """After the cause is cured, everything starts."""
    world = World()
    world.parts["c"].start_fails = OSError("taken")
    with pytest.raises(OSError, match="taken"):
        await world.group.start()
    world.parts["c"].start_fails = None
    await world.group.start()

    assert world.running == list(NAMES)
    await world.group.stop()


async def test_stopping_twice_or_without_a_start_does_nothing() -> None:
    """Each service is stopped once."""
    world = World()
    await world.group.stop()
    await world.group.start()
    await world.group.stop()
    await world.group.stop()

    assert [entry for entry in world.log if entry.startswith("-")] == ["-d", "-c", "-b", "-a"]


async def test_a_second_start_starts_nothing_twice() -> None:
    """A group that runs stays as it is."""
    world = World()
    await world.group.start()
    await world.group.start()

    assert world.log == ["+a", "+b", "+c", "+d"]
    await world.group.stop()


async def test_a_stop_that_fails_does_not_keep_the_others_running(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged with the name of its service, and the rest is stopped."""
    world = World()
    world.parts["c"].stop_fails = OSError("gone")
    await world.group.start()
    with caplog.at_level(logging.ERROR, logger="dujiang.service"):
        await world.group.stop()

    assert world.running == []
    assert "service c did not stop cleanly" in caplog.text


async def test_a_stop_that_was_cancelled_is_finished_by_the_next_one() -> None:
    """Who is cancelled in the middle of stopping leaves nothing forgotten."""
    world = World()
    await world.group.start()
    world.parts["c"].holds = asyncio.Event()
    stopping = asyncio.ensure_future(world.group.stop())
    await world.parts["c"].stopping.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    world.parts["c"].holds = None
    await world.group.stop()

    assert world.running == []
    assert world.log.count("-d") == 1


async def test_a_group_shows_what_runs() -> None:
    """Its repr names the started services and all of them."""
    world = World()
    await world.group.start()

    assert repr(world.group) == "<Services ['a', 'b', 'c', 'd'] of ['a', 'b', 'c', 'd']>"
    await world.group.stop()
    assert repr(world.group) == "<Services [] of ['a', 'b', 'c', 'd']>"
