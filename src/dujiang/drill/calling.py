"""Calling: the drill as a function, for scripts and tests.

from dujiang.drill import drill

report = drill(app, seeds=200)
assert report.passed, report.text()
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.drill.brokers import BOTH
from dujiang.drill.drilling import FOLDER, Drill, Report
from dujiang.drill.options import broker_named, budget_s, kinds, writable
from dujiang.drill.run import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dujiang.app.declaration import App


def drill(
    app: App,
    *,
    seeds: int = 0,
    budget: str = "60s",
    first: int = 0,
    only: str | Sequence[str] = (),
    sweep: bool = True,
    clients: int = 8,
    operations: int = 3,
    broker: str = BOTH,
    with_version: App | None = None,
    fail_fast: bool = False,
    workers: int = 0,
    folder: str | Path = FOLDER,
    name: str = "",
    said: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, float, float], None] = lambda *_: None,
) -> Report:
    """Drill an app: every crash point and every other fault once, then random schedules; the report.

    It forks this process and takes over its clock for the simulated machines, so no loop may run and no thread should.

    Args:
        app: What is drilled; as the value of a module's name, so that `dujiang replay` finds it.
        seeds: So many random schedules instead of a budget.
        budget: Real time of the random schedules, such as "60s".
        first: The first seed.
        only: Only these kinds of faults, such as "kill,reply" or ["kill", "reply"].
        sweep: Whether to kill at every crash point first.
        clients: Generated clients of a random run.
        operations: Calls of each.
        broker: Over which broker events go: "sql", "rabbitmq" or "both"; the sweep is always on the first.
        with_version: Another version of the app, which half of the machines run.
        fail_fast: Whether to stop at the first violation.
        workers: Runs at once; 0 = the cores.
        folder: Where replay files go.
        name: How `dujiang replay` loads the app; default: where it is found.
        said: Called with lines for people as things are found.
        progress: Called with phase, done, total.

    Raises:
        DrillOptionRefused: An option means nothing.
        DrillFolderRefused: The folder cannot be written to.
        EscapedSimulation: A handler reached for a thread, a socket, another program or the real clock.
        DujiangError: Whatever a start of the app raises.
    """
    kinds_only = kinds(only if isinstance(only, str) else ",".join(only))
    scenario = Scenario(clients=clients, operations=operations, only=kinds_only, broker=broker_named(broker))
    limit_s = 0.0 if seeds else budget_s(budget)
    found = Drill(
        app,
        name or name_of(app),
        said=said,
        progress=progress,
        folder=writable(Path(folder)),
        width=workers,
        first_only=fail_fast,
        other=None if with_version is None else (name_of(with_version), with_version),
    )
    return found.run(seeds=seeds, budget_s=limit_s, first=first, sweep=sweep, scenario=scenario)


def name_of(app: App) -> str:
    """Under which `module:attribute` an app can be loaded again; "app" when under none."""
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "__main__")
        for attribute, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is app and name != "__main__" and not name.startswith("test"):
                return f"{name}:{attribute}"
    return "app"
