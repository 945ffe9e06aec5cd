"""Versions: two declarations of one app in one cluster, as during a rolling upgrade.

    api1  worker1      the app                 upgrade / rollback: a machine is stopped gracefully
    api2  worker2      its other version       and starts again in the version that it did not run

Half of the machines run the other version when a run begins, so events of both are in flight from the first moment; a kill
restarts a machine in the version that it ran. Clients speak the language of the first version, which must hold on both.

What nobody reacts to any more is found here: the catalogue has one topic for each reaction, the one of whoever started last.

Not simulated: migrations that run while machines of the first version work. Both versions must start on the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError
from dujiang.react import Reaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dujiang.app.declaration import App
    from dujiang.app.runtime import Runtime
    from dujiang.drill.world import World

UPGRADED = ("api2", "worker2")
STARTS_WITHIN_S = 60.0

UNHEARD = """SELECT o.seq, o.topic FROM dj_outbox o
  WHERE NOT EXISTS (SELECT 1 FROM dj_subscription s WHERE s.topic = o.topic AND s.active = 1)
    AND NOT EXISTS (SELECT 1 FROM dj_inbox i WHERE i.message_id = o.message_id) ORDER BY o.seq"""


@dataclass(eq=False, kw_only=True)
class VersionRefused(DujiangError):
    """A machine does not start in one of the versions while the other one runs; nothing was drilled."""

    code = "drill_version"
    move = "fix"
    says = "{machine} does not start in the {version} version beside the other one: {why}"
    cure = "make each version start on what the other one leaves: {instead}"

    machine: str
    version: str
    why: str
    instead: str


def reactions_by_topic(app: App) -> dict[str, str]:
    """The names of an app's reactions by the topic that they take; one for each topic."""
    return {verb.event.event_name: verb.name for verb in app.verbs() if isinstance(verb, Reaction)}


def unheard(world: World) -> Iterator[tuple[int, str, str]]:
    """Events that a reaction of one of the versions takes and that no subscription has heard of: number, topic, reaction."""
    other = world.cluster.other
    if other is None:
        return
    wanted = {**reactions_by_topic(other), **reactions_by_topic(world.cluster.app)}
    for seq, topic in world.store.rows(UNHEARD):
        if topic in wanted:
            yield seq, topic, wanted[topic]


def verb_in(runtime: Runtime, verb: Any) -> Any:
    """The verb of that name in the version that a machine runs; the given one when that has none."""
    verbs = runtime.app.verbs()
    return verb if verb in verbs else next((each for each in verbs if each.name == verb.name), verb)


async def mixed(world: World) -> None:
    """Bring half of the machines to the other version. Raises VersionRefused."""
    for name in UPGRADED:
        if name in world.machines:
            world.upgraded.add(name)
            await world.terminate(world.machines[name])
    until = world.loop.now + STARTS_WITHIN_S
    while not all(machine.ready for machine in world.machines.values()):
        if world.loop.now >= until:
            name = next(name for name, machine in world.machines.items() if not machine.ready)
            error = world.refusals.get(name)
            version = "other" if name in world.upgraded else "first"
            why, hint = (error.detail, error.hint) if isinstance(error, DujiangError) else (repr(error), "look at why")
            raise VersionRefused(machine=name, version=version, why=why, instead=hint)
        await world.loop.pause(0.1)
