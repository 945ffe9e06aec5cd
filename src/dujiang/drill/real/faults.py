"""Faults: what is done to the stage, and how each is undone; at the end of its function a fault has healed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from dujiang.drill.real.flight import Flight
    from dujiang.drill.real.stage import Stage
    from dujiang.kernel.entropy import Entropy

PROCESS, LINK, DATABASE, BROKER = "process", "link", "database", "broker"
TRAP_S = 3.0
DRAIN_S = 15.0


@dataclass(eq=False)
class Fault:
    """One fault that was done.

    Attributes:
        kind: Its name in `KINDS`.
        target: A process, `database` or `broker`; for a link, the process whose link it is.
        at_s: When it struck, seconds of the monotonic clock.
        held: How much the target had in hand; 0 = it hit nothing and does not count.
        healed_at_s: When the target answered again; 0 = not yet.
        recovered_at_s: When work was done again; 0 = never.
    """

    kind: str
    target: str
    at_s: float
    held: int
    healed_at_s: float = 0.0
    recovered_at_s: float = 0.0

    @property
    def scope(self) -> str:
        """What it was done to: a process, a link, the database, the broker."""
        return KINDS[self.kind].scope


@dataclass(frozen=True)
class Hand:
    """What a fault works with."""

    stage: Stage
    flight: Flight
    entropy: Entropy


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    Attributes:
        scope: What it is done to.
        every_s: The mean time between two of them.
        do: Does it to a target and heals it.
        needs_broker: Whether it means something only with RabbitMQ.
    """

    scope: str
    every_s: float
    do: Callable[[Hand, str], Awaitable[None]]
    needs_broker: bool = False


# Processes ------------------------------------------------------------------------------------------------------------


async def kill(hand: Hand, name: str) -> None:
    """SIGKILL; started again at once, or up to two seconds later."""
    process = hand.stage.processes[name]
    process.kill()
    await hand.stage.clock.sleep(hand.entropy.uniform(0.0, 2.0))
    process.start()
    await hand.stage.wait_ready(process)


async def freeze(hand: Hand, name: str) -> None:
    """SIGSTOP for 1 to 15 seconds: longer than the process's own heartbeat, as a machine that swaps or is moved."""
    process = hand.stage.processes[name]
    process.freeze()
    try:
        await hand.stage.clock.sleep(hand.entropy.uniform(1.0, 15.0))
    finally:
        process.thaw()
    process.ready = False  # It may find its lease lost and end, as it must; then it is started again.
    await hand.stage.wait_ready(process)


async def restart(hand: Hand, name: str) -> None:
    """SIGTERM, as a deploy does it, and a new process."""
    process = hand.stage.processes[name]
    process.ask_to_stop()
    until_s = hand.stage.clock.monotonic() + DRAIN_S
    while process.running and hand.stage.clock.monotonic() < until_s:
        await hand.stage.clock.sleep(0.02)
    process.kill()
    process.start()
    await hand.stage.wait_ready(process)


# Links ----------------------------------------------------------------------------------------------------------------


async def sprung(hand: Hand, trap: asyncio.Event) -> None:
    """Wait for a trap, not for ever: a process that says nothing springs none."""
    until_s = hand.stage.clock.monotonic() + TRAP_S
    while not trap.is_set() and hand.stage.clock.monotonic() < until_s:
        await hand.stage.clock.sleep(0.01)


async def commit_reply(hand: Hand, name: str) -> None:
    """A COMMIT is executed and its answer is lost."""
    await sprung(hand, hand.stage.links[name]["database"].drop_commit_reply(1 + hand.entropy.below(3)))


async def commit_request(hand: Hand, name: str) -> None:
    """A COMMIT never arrives."""
    await sprung(hand, hand.stage.links[name]["database"].drop_commit_request(1 + hand.entropy.below(3)))


async def confirm(hand: Hand, name: str) -> None:
    """RabbitMQ has stored what was published, and its confirm is lost."""
    await sprung(hand, hand.stage.links[name]["broker"].drop_confirm(1 + hand.entropy.below(3)))


async def acknowledgement(hand: Hand, name: str) -> None:
    """A consumer has done with a message, and RabbitMQ does not hear of it."""
    await sprung(hand, hand.stage.links[name]["broker"].drop_acknowledgement(1 + hand.entropy.below(3)))


async def cut(hand: Hand, name: str) -> None:
    """Every connection of a process to one server ends with RST."""
    hand.stage.links[name][some_link(hand, name)].cut()


async def hang(hand: Hand, name: str) -> None:
    """A link falls silent for 0.2 to 8 seconds, in one direction or both; nobody is told."""
    link = hand.stage.links[name][some_link(hand, name)]
    mode: Any = ("hang", "hang_up", "hang_down")[hand.entropy.below(3)]
    await link.become(mode)
    try:
        await hand.stage.clock.sleep(hand.entropy.uniform(0.2, 8.0))
    finally:
        await link.become("ok")


async def refuse(hand: Hand, name: str) -> None:
    """A server is not there for one process, for up to two seconds."""
    link = hand.stage.links[name][some_link(hand, name)]
    await link.become("refuse")
    link.cut()
    try:
        await hand.stage.clock.sleep(hand.entropy.uniform(0.1, 2.0))
    finally:
        await link.become("ok")


async def slow(hand: Hand, name: str) -> None:
    """A link is slow for some seconds."""
    link = hand.stage.links[name][some_link(hand, name)]
    link.latency_s, link.jitter_s = hand.entropy.uniform(0.01, 0.2), 0.01
    try:
        await hand.stage.clock.sleep(hand.entropy.uniform(0.5, 4.0))
    finally:
        link.latency_s = link.jitter_s = 0.0


def some_link(hand: Hand, name: str) -> str:
    """One of the links of a process."""
    kinds = sorted(hand.stage.links[name])
    return kinds[hand.entropy.below(len(kinds))]


# Servers --------------------------------------------------------------------------------------------------------------


async def database_kill(hand: Hand, _: str) -> None:
    """The primary and all its backends die by SIGKILL, and it is started again."""
    await hand.stage.aside(hand.stage.primary.kill)
    await hand.stage.clock.sleep(hand.entropy.uniform(0.0, 1.0))
    await hand.stage.aside(hand.stage.primary.start)


async def database_freeze(hand: Hand, _: str) -> None:
    """The primary stands still for up to three seconds."""
    await hand.stage.aside(hand.stage.primary.pause)
    try:
        await hand.stage.clock.sleep(hand.entropy.uniform(0.5, 3.0))
    finally:
        await hand.stage.aside(hand.stage.primary.resume)


async def backend(hand: Hand, _: str) -> None:
    """One backend of the primary, one that works if there is one, is told to end."""
    with contextlib.suppress(DujiangError):
        await hand.stage.aside(hand.stage.primary.execute, TERMINATE.format(salt=1 + hand.entropy.below(1000)))


TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'
  AND pid <> pg_backend_pid() AND application_name NOT LIKE '%judge%'
  ORDER BY state IN ('active', 'idle in transaction') DESC, pid * {salt}::bigint % 997 LIMIT 1"""


async def failover(hand: Hand, _: str) -> None:
    """The primary dies for good, and its replica takes over."""
    await hand.stage.fail_over()


async def broker_kill(hand: Hand, _: str) -> None:
    """RabbitMQ dies by SIGKILL and is started again."""
    rabbit = hand.stage.rabbit
    assert rabbit is not None
    await hand.stage.aside(rabbit.kill)
    await hand.stage.clock.sleep(hand.entropy.uniform(0.0, 2.0))
    await hand.stage.aside(rabbit.start)


async def broker_cut(hand: Hand, _: str) -> None:
    """Every connection to RabbitMQ ends with RST."""
    for links in hand.stage.links.values():
        links["broker"].cut()


KINDS: dict[str, Kind] = {
    "kill": Kind(scope=PROCESS, every_s=7.0, do=kill),
    "freeze": Kind(scope=PROCESS, every_s=16.0, do=freeze),
    "restart": Kind(scope=PROCESS, every_s=25.0, do=restart),
    "commit_reply": Kind(scope=LINK, every_s=5.0, do=commit_reply),
    "commit_request": Kind(scope=LINK, every_s=8.0, do=commit_request),
    "confirm": Kind(scope=LINK, every_s=8.0, do=confirm, needs_broker=True),
    "acknowledgement": Kind(scope=LINK, every_s=8.0, do=acknowledgement, needs_broker=True),
    "cut": Kind(scope=LINK, every_s=6.0, do=cut),
    "hang": Kind(scope=LINK, every_s=10.0, do=hang),
    "refuse": Kind(scope=LINK, every_s=12.0, do=refuse),
    "slow": Kind(scope=LINK, every_s=10.0, do=slow),
    "database_kill": Kind(scope=DATABASE, every_s=20.0, do=database_kill),
    "database_freeze": Kind(scope=DATABASE, every_s=40.0, do=database_freeze),
    "backend": Kind(scope=DATABASE, every_s=5.0, do=backend),
    "failover": Kind(scope=DATABASE, every_s=150.0, do=failover),
    "broker_kill": Kind(scope=BROKER, every_s=45.0, do=broker_kill, needs_broker=True),
    "broker_cut": Kind(scope=BROKER, every_s=20.0, do=broker_cut, needs_broker=True),
}
# Of these only one at a time: a server that is being killed cannot be promoted.
WHOLE_SERVER = ("database_kill", "database_freeze", "failover", "broker_kill")
