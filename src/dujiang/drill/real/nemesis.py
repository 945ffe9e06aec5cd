"""Nemesis: the schedule of faults, drawn from a seed: each kind comes at its own mean rate, like rain.

    kill       ──x────────x─────────x──        a process or a link has one fault at a time; one that is busy is passed over
    hang       ─────x═══x───────x═x────        a server is killed, frozen or replaced by one fault at a time
    failover   ────────────────x═══════        every fault ends by healing what it did

The schedule follows from the seed and the clock. What it hits is left to the machine: that is what a real drill is for.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from dujiang.drill.real.faults import BROKER, DATABASE, KINDS, WHOLE_SERVER, Fault, Hand
from dujiang.kernel.entropy import SeededEntropy
from dujiang.kernel.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.drill.real.flight import Flight
    from dujiang.drill.real.stage import Stage


class Nemesis:
    """Does faults until it is told to end.

    Args:
        stage: To what.
        flight: What is in hand.
        seed: Of the schedule.
        only: Kinds of faults; empty = all that the stage has servers for.
        pace: By how much the mean times are shortened; 2 = twice as many faults.
        said: Told of each fault.

    Attributes:
        faults: What was done.
        broken: What could not be healed: the drill is over then.
    """

    def __init__(
        self,
        stage: Stage,
        flight: Flight,
        *,
        seed: int,
        only: Sequence[str] = (),
        pace: float = 1.0,
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.stage = stage
        self.faults: list[Fault] = []
        self.broken: list[BaseException] = []
        self._flight = flight
        self._seed = seed
        self._pace = pace
        self._said = said
        self._kinds = [
            name
            for name, kind in KINDS.items()
            if (not only or name in only) and (stage.rabbit is not None or not kind.needs_broker)
        ]
        self._busy: set[str] = set()
        self._ending = False
        self._tasks = Tasks("nemesis", on_crash=lambda _, error: self.broken.append(error))

    def begin(self) -> None:
        """Start the schedule."""
        for name in self._kinds:
            self._tasks.spawn(self._rain(name), name=name)

    async def end(self) -> None:
        """Begin no more faults; return when all have healed."""
        self._ending = True
        await self._tasks.wait_idle()

    async def close(self) -> None:
        """End at once."""
        await self._tasks.close()

    async def _rain(self, name: str) -> None:
        """One kind of fault, again and again."""
        kind, clock = KINDS[name], self.stage.clock
        entropy = SeededEntropy(f"{self._seed}/{name}")
        hand = Hand(self.stage, self._flight, entropy)
        while not self._ending:
            until_s = clock.monotonic() - log(1.0 - entropy.random()) * kind.every_s / self._pace
            while clock.monotonic() < until_s and not self._ending:
                await clock.sleep(min(0.25, max(0.0, until_s - clock.monotonic())))
            if self.broken:
                return
            target = self._target(name, hand)
            if target is not None:
                await self._strike(name, hand, target)

    def _target(self, name: str, hand: Hand) -> str | None:
        """Something that is free; None when everything has its fault already, or when the drill heals."""
        if self._ending:
            return None
        if KINDS[name].scope in (DATABASE, BROKER):
            target = KINDS[name].scope
            free = target not in self._busy
            # A failover kills backends by itself; the others may come while a single one is killed.
            return target if free else None
        names = [each for each, process in self.stage.processes.items() if each not in self._busy and process.ready]
        return names[hand.entropy.below(len(names))] if names else None

    async def _strike(self, name: str, hand: Hand, target: str) -> None:
        clock = self.stage.clock
        exclusive = KINDS[name].scope not in (DATABASE, BROKER) or name in WHOLE_SERVER
        if exclusive:
            self._busy.add(target)
        try:
            held = await self._flight.moment(target)
            fault = Fault(name, target, clock.monotonic(), held)
            self.faults.append(fault)
            self._said(f"{name} {target}")
            await KINDS[name].do(hand, target)
            fault.healed_at_s = clock.monotonic()
        finally:
            if exclusive:
                self._busy.discard(target)
