"""Playing: the phases of a real drill, in order: calm, faults, healed, judged."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql
from dujiang.drill.real.flight import Flight
from dujiang.drill.real.judging import Judge
from dujiang.drill.real.load import Load
from dujiang.drill.real.nemesis import Nemesis
from dujiang.drill.real.report import Phase, RealReport, Recovery, availability, latencies
from dujiang.drill.real.stage import Stage
from dujiang.drill.workload import Workload
from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.app.declaration import App
    from dujiang.drill.violation import Violation

CALM_SHARE, CALM_S_MAX = 0.12, 25.0
HEALED_SHARE, HEALED_S_MAX = 0.1, 20.0
TICK_S = 0.25
BACK = "relay,worker,scheduler"
ROLES = {"gateway1": "gateway", "gateway2": "gateway", "back1": BACK, "back2": BACK}

EVENTS = Sql(
    "real_drill_events",
    """SELECT o.created_us, min(c.finished_us) FROM dj_outbox o JOIN dj_outcome c ON c.seq = o.seq AND c.state = 1
       GROUP BY o.seq, o.created_us ORDER BY o.created_us""",
    "When each event was committed, and when it was done first.",
)
COMMITTED = Sql("real_drill_committed", "SELECT count(*) FROM dj_outbox", "Counts events.")
DURABILITY = Sql(
    "real_drill_durability",
    """SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
              current_setting('full_page_writes')""",
    "What the server says of its durability.",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be played.

    Attributes:
        app: The application, as module:attribute.
        seed: Of faults and calls.
        duration_s: Seconds under load, from the first call to the last.
        rate: Calls a second.
        broker: Whether events travel through RabbitMQ.
        only: Kinds of faults; empty = all.
        pace: How much denser than usual the faults come.
        here: The folder from which the application is loaded.
        logs: Where the processes' logs are left.
    """

    app: str
    seed: int = 1
    duration_s: float = 90.0
    rate: float = 60.0
    broker: bool = True
    only: tuple[str, ...] = ()
    pace: float = 1.0
    here: Path = Path()
    logs: Path = Path(".drill/logs")


@dataclass(frozen=True)
class Cast:
    """Who plays."""

    stage: Stage
    load: Load
    flight: Flight
    nemesis: Nemesis


class Play:
    """One drill.

    Args:
        app: The declaration, loaded.
        plan: What is to be played.
        said: Told what is being done.
        progress: Called with the phase, how far it is, of how much.
        ended: Whether it is to end early.
    """

    def __init__(
        self,
        app: App,
        plan: Plan,
        *,
        said: Callable[[str], None] = lambda _: None,
        progress: Callable[[str, float, float], None] = lambda *_: None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app = app
        self.plan = plan
        self._said = said
        self._progress = progress
        self._ended = ended
        self._phases: list[Phase] = []

    async def run(self) -> RealReport:
        """Play it. Raises BinaryMissing, ServerFailed."""
        plan = self.plan
        workload = Workload(self.app)
        async with AsyncExitStack() as stack:
            where: dict[str, Path] = {"here": plan.here.absolute(), "logs": plan.logs.absolute()}
            stage = Stage(plan.app, ROLES, broker=plan.broker, said=self._said, **where)
            await stack.enter_async_context(stage)
            load = Load(stage, workload, SeededEntropy(f"{plan.seed}/load"), rate=plan.rate)
            stack.push_async_callback(load.close)
            flight = Flight(self.app, stage, load)
            stack.push_async_callback(flight.close)
            nemesis = Nemesis(stage, flight, seed=plan.seed, only=plan.only, pace=plan.pace, said=self._said)
            stack.push_async_callback(nemesis.close)
            return await self._played(Cast(stage, load, flight, nemesis))

    async def _played(self, cast: Cast) -> RealReport:
        stage, load, nemesis = cast.stage, cast.load, cast.nemesis
        began_s = stage.clock.monotonic()
        duration_s = self.plan.duration_s
        calm_s, healed_s = min(CALM_S_MAX, CALM_SHARE * duration_s), min(HEALED_S_MAX, HEALED_SHARE * duration_s)
        await load.begin()
        await self._phase("calm", stage, calm_s, began_s, nemesis)
        nemesis.begin()
        await self._phase("faults", stage, duration_s - calm_s - healed_s, began_s, nemesis)
        self._said("healing")
        await nemesis.end()
        for process in stage.processes.values():
            await stage.wait_ready(process)
        await self._phase("healed", stage, healed_s, began_s, nemesis)
        await load.end()
        self._said(f"judging {len(load.calls):,} calls")
        judge = Judge(stage, load, cast.flight)
        violations = await judge.judged()
        return await self._report(cast, judge, violations, began_s)

    async def _phase(self, name: str, stage: Stage, lasts_s: float, began_s: float, nemesis: Nemesis) -> None:
        """Let a phase last; ends early when the drill is told to end, or when something could not be healed."""
        from_s = stage.clock.monotonic()
        while (passed_s := stage.clock.monotonic() - from_s) < lasts_s and not self._ended():
            if nemesis.broken:
                raise nemesis.broken[0]
            self._progress(name, passed_s, lasts_s)
            await stage.clock.sleep(TICK_S)
        until_s = stage.clock.monotonic()
        self._phases.append(Phase(name=name, from_s=from_s - began_s, until_s=until_s - began_s))

    async def _report(self, cast: Cast, judge: Judge, violations: list[Violation], began_s: float) -> RealReport:
        stage, load, flight, nemesis = cast.stage, cast.load, cast.flight, cast.nemesis
        clock = stage.clock
        offset_s = clock.now_us() / 1e6 - clock.monotonic()
        events = [(made / 1e6 - offset_s, done / 1e6 - offset_s) for made, done in await flight.rows(EVENTS)]
        recovery = Recovery(load.calls, events, nemesis.faults)
        version, *durable = (await flight.rows(DURABILITY))[0]
        names = ("fsync", "synchronous_commit", "full_page_writes")
        servers = {"PostgreSQL": f"{version} ({', '.join(f'{n}={v}' for n, v in zip(names, durable, strict=True))})"}
        if stage.rabbit is not None:
            servers["RabbitMQ"] = "quorum queues, confirms"
        if stage.failovers:
            servers["failovers"] = str(stage.failovers)
        return RealReport(
            app=self.plan.app,
            seed=self.plan.seed,
            servers=servers,
            processes={name: process.starts for name, process in stage.processes.items()},
            phases=tuple(self._phases),
            calls=dict(Counter(call.form for call in load.calls)),
            answers=dict(Counter(call.final.status for call in load.calls if call.final is not None).most_common()),
            tries_failed=sum(call.failed_tries for call in load.calls),
            turned_away=load.turned_away,
            latency_ms=latencies(load.calls, self._phases, began_s),
            availability=availability(load.calls, began_s, began_s + self._phases[-1].until_s),
            faults=[
                {
                    "kind": fault.kind,
                    "target": fault.target,
                    "at_s": fault.at_s - began_s,
                    "held": fault.held,
                    "healed_s": fault.healed_at_s - fault.at_s,
                    "recovered_s": recovery.of(fault),
                }
                for fault in nemesis.faults
            ],
            events=int((await flight.rows(COMMITTED))[0][0]),
            asked_again=judge.asked,
            drained_s=judge.drained_s,
            violations=tuple(violations),
            interrupted=self._ended(),
            took_s=clock.monotonic() - began_s,
        )


async def play(app: App, plan: Plan, **told: Callable[..., object]) -> RealReport:
    """Play a plan on an application; see Play for what it can be told. Raises BinaryMissing, ServerFailed."""
    return await Play(app, plan, **told).run()  # type: ignore[arg-type]
