"""Lull: every flow before and after a silence, without any fault.

    each flow ──► a quarter of an hour in no time ──► 4 minutes in which nobody comes ──► the same twice, by two machines

The quarter of an hour passes at once, on every clock: what was held, leased or remembered is over. The silence is lived
through: a loop that waits twice as long each time it finds nothing shows in how late the first event after it is taken up, and
no bell rings in this run, since a bell may only shorten a wait. Random schedules last seconds, as most of what goes wrong does
so within milliseconds; this one run is for what needs time alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.drill.checks import UNHANDLED
from dujiang.drill.clients import CALM_S
from dujiang.drill.violation import Violation

if TYPE_CHECKING:
    from dujiang.drill.clients import Clients
    from dujiang.drill.world import World

SILENCE_S, LATER_S, PROMPT_S = 240.0, 900.0, 30.0


async def lull(clients: Clients) -> list[Violation]:
    """Call, be silent, call again; what was not taken up soon after the silence."""
    world, found, asked = clients.world, [], {}
    for flow in clients.workload.flows:
        asked[flow.name] = clients.workload.request(flow, lambda _label, _high: 0, clients.memory)
        await clients.call("client", asked[flow.name])
        await world.settled(CALM_S)
    world.jumped_us += int(LATER_S * 1e6)
    await world.loop.pause(SILENCE_S)
    for _ in range(2):
        for flow in clients.workload.flows:
            # What was asked before is asked again, under a new key: it stands now beside its own past.
            await clients.call("client", asked[flow.name])
            if lying := await taken_up(world):
                said = f"{PROMPT_S:.0f} s after {flow.name}, which came after a silence, {lying} has not begun"
                found.append(Violation("nothing-stuck", said))
            await world.settled(CALM_S)
    return found


async def taken_up(world: World) -> str:
    """Wait until every event has reached its subscriptions; in words one that has not in time, or nothing."""
    until = world.loop.now + PROMPT_S
    while lying := world.store.rows(UNHANDLED):
        if world.loop.now >= until:
            seq, topic, name = lying[0]
            return f"{name} for event {seq} ({topic})"
        await world.loop.pause(0.1)
    return ""
