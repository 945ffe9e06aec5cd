"""Run: one life of a world: warm-up, faults and clients, healing, draining, judging.

warmed ─┬─ seed 1 ── faults, clients ── heal ── drain ── judged ── Outcome
        ├─ seed 2 ...                                        everything after "warmed" follows from (seed, scenario)
        └─ crash point 1 ...
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dujiang.drill.checks import judged, rehearse
from dujiang.drill.clients import Clients, DeclaredClient, body_of
from dujiang.drill.escape import CHANCE
from dujiang.drill.lull import lull
from dujiang.drill.nemesis import Nemesis, plan_of
from dujiang.drill.state import jsonable, tables_of
from dujiang.drill.tape import Tape
from dujiang.drill.timetable import begun, granted, silenced
from dujiang.drill.versions import mixed
from dujiang.drill.violation import Violation
from dujiang.drill.workload.memory import Memory
from dujiang.drill.world import RESTART_AFTER_S, Fault, World
from dujiang.telemetry.crash import count_sometimes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from dujiang.drill.machine import Machine
    from dujiang.drill.tape import Deviation
    from dujiang.drill.workload.workload import Workload
    from dujiang.drill.world import Cluster

WARM_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What happens in a run, but for chance.

    Attributes:
        kind: `sweep`: one calm client does every flow once. `lull`: it does so before and after a silence, without a fault.
            `random`: many clients at once, under faults.
        clients: How many generated clients.
        operations: Of each.
        faults_s: Virtual seconds at most until everything heals.
        only: Families of faults that may happen; empty = all.
        jitter: Whether delays vary.
        broker: Over which broker events go, see brokers.py; empty = as the cluster says.
        reverse: Whether SELECTs without ORDER BY answer the other way round; None = the seed decides.
    """

    kind: str = "random"
    clients: int = 8
    operations: int = 3
    faults_s: float = 20.0
    only: tuple[str, ...] = ()
    jitter: bool = True
    reverse: bool | None = None
    broker: str = ""


@dataclass(kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        seed: Its seed.
        violations: What did not hold.
        faults: What was done to it.
        kills: Machines killed, and how many of them had something in hand.
        virtual_s: Seconds that passed in the world, after the warm-up.
        steps: Callbacks that ran.
        digest: Of its history.
        operations: Calls by clients.
        coverage: Counts of answers by flow.
        trace: Events, when they were kept.
        tables: The user's rows at the end of a calm run.
        error: Why the run could not be judged, or empty.
    """

    seed: str
    violations: list[Violation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deviations: dict[Deviation, int] = field(default_factory=dict)
    kills: int = 0
    kills_in_flight: int = 0
    virtual_s: float = 0.0
    steps: int = 0
    digest: str = ""
    operations: int = 0
    coverage: dict[str, Any] = field(default_factory=dict)
    trace: list[tuple[float, str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        deviations = [[*key, value] for key, value in self.deviations.items()]
        return {**asdict(replace(self, tables={})), "tables": jsonable(self.tables), "deviations": deviations}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Outcome:
        """From `to_json`."""
        return cls(
            **{
                **found,
                "violations": [Violation(**each) for each in found["violations"]],
                "faults": [Fault(**each) for each in found["faults"]],
                "deviations": {(label, number): value for label, number, value in found["deviations"]},
                "trace": [tuple(each) for each in found["trace"]],
            }
        )


class Run:
    """One run in a world that has been warmed.

    Args:
        world: The world.
        workload: What clients call.
        scenario: What happens.
    """

    def __init__(self, world: World, workload: Workload, scenario: Scenario) -> None:
        self.world = world
        self.workload = workload
        self.scenario = scenario
        self.at_draw: Callable[[str, int], int] | None = None
        self.at_point: Callable[[Machine, asyncio.Task[Any]], bool] | None = None

    async def live(self, seed: str, keep: Mapping[Deviation, int] | None = None) -> Outcome:
        """Everything after the warm-up. The same arguments give the same outcome; with `keep` only those faults happen."""
        world, scenario = self.world, self.scenario
        await begun(world, going=scenario.kind != "sweep")
        began_s, began_steps = world.loop.now, world.loop.steps
        plan = plan_of(seed, scenario)
        world.tape = Tape(seed, replace(plan, jitter=scenario.jitter and plan.jitter), keep)
        world.tape.on, world.tape.at_draw = True, self.at_draw
        CHANCE.seed(seed)
        world.reaches = count_sometimes(on=True)
        world.loop.watch = self._watch
        reverse = scenario.reverse
        if reverse is None:
            reverse = bool(world.tape.draw("unordered"))
            if reverse:
                world.fault(None, "unordered", 1, "")
        world.store.reverse_unordered(reverse)
        clients = Clients(world, self.workload, Memory(1) if plan.crowd else Memory())
        world.mark("begins")
        for opening in self.workload.openings():
            await clients.call("opening", opening)
        late: list[Violation] = []
        if scenario.kind == "sweep":
            await clients.each_flow("client")
            await granted(world)
        elif scenario.kind == "lull":
            late = await lull(clients)
        else:
            await self._storm(clients)
        world.loop.watch = None
        world.heal()
        violations = [*late, *await judged(world, clients)]
        tables = tables_of(world)
        calm = world.cluster.calm
        if scenario.kind == "sweep" and calm is not None and not violations and (said := calm.differs(tables)):
            said = f"compared with a run without the fault: {said}"
            violations.append(Violation("as-if-nothing-happened", said))
        count_sometimes(on=False)
        return Outcome(
            seed=seed,
            violations=violations,
            faults=world.faults,
            deviations=world.tape.deviations,
            kills=world.kills,
            kills_in_flight=world.kills_in_flight,
            virtual_s=world.loop.now - began_s,
            steps=world.loop.steps - began_steps,
            digest=world.digest,
            operations=len(clients.operations),
            coverage=self._covered(clients),
            trace=world.trace,
            notes=world.reached(),
            tables=tables if scenario.kind == "sweep" else {},
        )

    async def _storm(self, clients: Clients) -> None:
        world, scenario = self.world, self.scenario
        works: list[Any] = [
            clients.client(f"client{number}", scenario.operations) for number in range(scenario.clients)
        ]
        for number, declared in enumerate(self.workload.declared):
            works.append(declared.function(DeclaredClient(clients, f"workload{number}")))
        running = [world.tasks.spawn(work, name=f"client{number}") for number, work in enumerate(works)]
        nemesis = world.tasks.spawn(Nemesis(world).rage(), name="nemesis")
        await world.loop.pause(scenario.faults_s)
        nemesis.cancel()
        world.loop.watch = None
        world.heal()
        while not all(task.done() for task in running):
            await world.loop.pause(0.1)

    def _watch(self, machine: Machine, task: asyncio.Task[Any]) -> bool:
        """Called before a task of a machine goes on; False when the machine died instead."""
        form = self.world.tape.draw(machine.kill_label, len(RESTART_AFTER_S))
        if not form and self.at_point is not None and self.at_point(machine, task):
            form = self.world.tape.insist(machine.kill_label)
        if not form:
            return True
        site = self.world.site(task)
        self.world.fault(machine, machine.kill_label, form, site)
        self.world.kill(machine, again_s=RESTART_AFTER_S[form - 1], site=site)
        return False

    def _covered(self, clients: Clients) -> dict[str, Any]:
        coverage = self.workload.coverage.blank()
        for operation in clients.operations:
            if operation.final is not None:
                coverage.note(operation.request.flow, operation.final.status, body_of(operation.final))
        return coverage.dump()


def warmed(cluster: Cluster, *, tracing: bool = False) -> World:
    """A world whose machines have started and come to rest."""
    world = World(cluster, tracing=tracing)

    async def warm() -> None:
        world.begin()
        until = world.loop.now + WARM_S
        while world.loop.now < until or not all(machine.ready for machine in world.machines.values()):
            await world.loop.pause(0.1)
        await silenced(world)
        await rehearse(world)
        if cluster.other is not None:
            await mixed(world)

    world.loop.run_until_complete(warm())
    return world
