"""Nemesis: who does harm in a random run, and how much of which kind.

A seed does not do everything at once: it takes some kinds of faults, each rarely, now and then or often. Few kinds at
a time find more than all together, because faults hide each other.

Some seeds bring a crowd: clients that come in waves, want the newest thing, and often ask twice. Most of what goes wrong
between two statements needs two clients on one row within milliseconds, which scattered clients seldom are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.drill.tape import Plan
from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from dujiang.drill.run import Scenario
    from dujiang.drill.world import World

# Family -> its label, and the probability of one draw when it happens rarely, now and then, often.
FAMILIES: dict[str, tuple[str, float, float, float]] = {
    "kill": ("kill", 0.0004, 0.002, 0.004),
    "pause": ("pause", 0.01, 0.04, 0.1),
    "term": ("term", 0.005, 0.02, 0.06),
    "clock": ("clock", 0.01, 0.05, 0.1),
    "request": ("lost.request", 0.01, 0.05, 0.2),
    "reply": ("lost.reply", 0.01, 0.05, 0.2),
    "twice": ("twice", 0.02, 0.1, 0.4),
    "notify": ("lost.notify", 0.05, 0.3, 1.0),
    "cut": ("cut", 0.0005, 0.003, 0.015),
    "commit": ("cut.db.commit", 0.002, 0.02, 0.1),
    "deadlock": ("db.deadlock", 0.002, 0.01, 0.05),
    "outage": ("outage", 0.005, 0.02, 0.05),
    "poison": ("poison", 0.01, 0.05, 0.15),
    "order": ("unordered", 0.5, 0.5, 0.5),
    "external": ("external", 0.02, 0.1, 0.3),
    "rabbit": ("rabbit", 0.005, 0.02, 0.1),
    "upgrade": ("upgrade", 0.02, 0.06, 0.15),
    "cache": ("cache", 0.02, 0.1, 0.4),
    "suspend": ("suspend", 0.002, 0.006, 0.02),
}
# Families that came later have a chance of their own, so that the plans of known seeds stay what they were.
LATER = ("upgrade", "suspend", "cache")
CROWDS, CROWD_TWICE = 0.35, 0.25  # Share of seeds that bring one; how often a request of it comes twice at least.
LOOKS_S = 0.25
PAUSES_S = (0.3, 3.0, 25.0)
SKEWS_S = (-30.0, -1.0, 1.0, 60.0)
OUTAGES_S = (0.2, 1.5, 8.0)
SUSPENDED_S = (90.0, 900.0)


def plan_of(seed: str, scenario: Scenario) -> Plan:
    """The faults of a seed."""
    if scenario.kind != "random":  # In a silence nobody is woken: a bell is never more than a shorter wait.
        return Plan(jitter=False, rates={"lost.notify": 1.0} if scenario.kind == "lull" else {})
    chance = SeededEntropy(f"{seed}/plan")
    rates: dict[str, float] = {}
    for name, (label, rare, common, often) in FAMILIES.items():
        drawn = SeededEntropy(f"{seed}/plan/{name}") if name in LATER else chance
        taken, level = drawn.random() < 0.5, drawn.below(3)
        if taken and (not scenario.only or name in scenario.only):
            rates[label] = (rare, common, often)[level]
    if not scenario.only and "kill" not in rates:
        rates["kill"] = FAMILIES["kill"][1:][chance.below(3)]  # What the drill is about happens in every seed.
    crowd = not scenario.only and SeededEntropy(f"{seed}/plan/crowd").random() < CROWDS
    if crowd:
        label = FAMILIES["twice"][0]
        rates[label] = max(CROWD_TWICE, rates.get(label, 0.0))
    return Plan(rates=rates, jitter=chance.random() < 0.9, crowd=crowd)


class Nemesis:
    """Looks now and then whether something big goes wrong.

    Args:
        world: Where.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    async def rage(self) -> None:
        """Do harm until cancelled."""
        world = self._world
        while True:
            await world.loop.pause(LOOKS_S)
            for name in list(world.machines):
                self._look_at(name)
            form = world.tape.draw("outage.database", len(OUTAGES_S))
            if form:
                world.fault(None, "outage.database", form)
                world.store.down_until_us = world.now_us() + int(OUTAGES_S[form - 1] * 1e6)
            form = world.tape.draw("suspend.all", len(SUSPENDED_S))
            if form:  # All machines at once, as when their host is put to sleep: leases end, and what waits grows old.
                world.fault(None, "suspend.all", form)
                world.jumped_us += int(SUSPENDED_S[form - 1] * 1e6)

    def _look_at(self, name: str) -> None:
        world, tape = self._world, self._world.tape
        machine = world.machines[name]
        if not machine.ready:
            return
        form = tape.draw(f"pause.{name}", len(PAUSES_S))
        if form:
            world.fault(machine, f"pause.{name}", form)
            world.pause(machine, PAUSES_S[form - 1])
        form = tape.draw(f"clock.{name}", len(SKEWS_S))
        if form:
            world.fault(machine, f"clock.{name}", form)
            machine.skew_us = int(SKEWS_S[form - 1] * 1e6)
        if world.cluster.other is not None and tape.draw(f"upgrade.{name}"):
            world.fault(machine, f"upgrade.{name}", 2 if name in world.upgraded else 1, "")
            world.upgraded ^= {name}
            world.tasks.spawn(world.terminate(machine), name=f"upgrade {name}")
        elif tape.draw(f"term.{name}"):
            world.fault(machine, f"term.{name}", 1)
            world.tasks.spawn(world.terminate(machine), name=f"terminate {name}")
