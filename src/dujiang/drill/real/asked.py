"""Asked: what people say to a real drill, read and refused with the cure."""

from __future__ import annotations

from pathlib import Path

from dujiang.drill.options import DrillOptionRefused
from dujiang.drill.real.faults import KINDS
from dujiang.drill.real.playing import Plan
from dujiang.kernel.units import duration_s

SHORTEST_S = 10.0
# One run has one broker; `both` is what the simulation does by default, and here the more of servers.
BROKERS = {"rabbitmq": True, "both": True, "sql": False}


def plan_of(
    app: str, *, duration: str, rate: float, seed: int, only: str, pace: float, broker: str, logs: Path
) -> Plan:
    """The plan. Raises DrillOptionRefused."""
    try:
        lasts_s = duration_s(duration)
    except ValueError as error:
        raise DrillOptionRefused(
            option="--duration", given=duration, why=str(error), instead="write 90s, 10m or 1h"
        ) from error
    if lasts_s < SHORTEST_S:
        why = f"is shorter than {SHORTEST_S:.0f} s: a killed server needs most of that to come back"
        raise DrillOptionRefused(option="--duration", given=duration, why=why, instead="write 90s, 10m or 1h")
    if broker not in BROKERS:
        why = "is no broker that the drill can start"
        raise DrillOptionRefused(option="--broker", given=broker, why=why, instead=f"known are: {', '.join(BROKERS)}")
    kinds = tuple(word.strip() for word in only.split(",") if word.strip())
    for word in kinds:
        if word not in KINDS:
            why = "is no fault of a real drill"
            raise DrillOptionRefused(option="--only", given=word, why=why, instead=f"known are: {', '.join(KINDS)}")
    return Plan(
        app=app,
        seed=seed,
        duration_s=lasts_s,
        rate=rate,
        broker=BROKERS[broker],
        only=kinds,
        pace=pace,
        here=Path.cwd(),
        logs=logs,
    )
