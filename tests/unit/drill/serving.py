"""A simulated database server with machines that have nothing but a connection, for tests of transactions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from dujiang import App
from dujiang.backends.sqlite.simulated.database import SimulatedDatabase
from dujiang.data.sql import Sql
from dujiang.drill.loop import SimulatedTask
from dujiang.drill.machine import Machine
from dujiang.drill.world import Cluster, World
from dujiang.kernel.context import CURRENT

ROWS = 3
SCHEMA = """
CREATE TABLE pot (name TEXT PRIMARY KEY, held INTEGER NOT NULL);
CREATE TABLE taken (word TEXT PRIMARY KEY);
"""
CLAIM = Sql(
    "claim",
    "INSERT INTO taken (word) VALUES ($1) ON CONFLICT DO NOTHING RETURNING word",
    "Claims a word.",
    claims="SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM taken WHERE word = $1)",
)
NEVER_S = 1e9


def image_in(folder: Path) -> bytes:
    """A database file with three pots of ten."""
    path = folder / "image.db"
    driver = sqlite3.connect(path)
    driver.executescript(SCHEMA)
    driver.executemany("INSERT INTO pot VALUES (?, 10)", [(f"p{number}",) for number in range(ROWS)])
    driver.commit()
    driver.close()
    return path.read_bytes()


class Server:
    """A world of machines without an app.

    Args:
        image: The store's bytes.
        folder: Of the cluster.
        tracing: Whether to keep the history.
    """

    def __init__(self, image: bytes, folder: Path, *, tracing: bool = False) -> None:
        self.world = World(Cluster(app=App(modules=[]), image=image, folder=folder, machines={}), tracing=tracing)
        self.loop = self.world.loop
        self.world.begin()
        self.store = self.world.store
        self.machines: dict[str, Machine] = {}
        self.databases: dict[str, SimulatedDatabase] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    def machine(self, name: str) -> Machine:
        """A machine; made when it is first asked for."""
        if name not in self.machines:
            self.machines[name] = Machine(self.world, name, 0)
            self.databases[name] = SimulatedDatabase("simulated:", self.machines[name].node)
        return self.machines[name]

    def at(self, name: str, work: Callable[[SimulatedDatabase], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Start work on a machine, inside what the platform takes for a handler."""
        machine = self.machine(name)
        context = machine.context.copy()
        context.run(lambda: CURRENT.set(CURRENT.get().but(transaction=object())))
        task = self.loop.create_task(work(self.databases[name]), context=context)
        self.tasks.append(task)
        return task

    def writing(self, name: str, body: Callable[[Any], Coroutine[Any, Any, Any]], **options: Any) -> asyncio.Task[Any]:
        """Start a transaction on a machine."""
        return self.at(name, lambda database: database.write(body, **options))

    def passing(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.loop.run_until_complete(self.loop.pause(seconds))

    def outcome(self, *tasks: asyncio.Task[Any]) -> list[Any]:
        """What tasks came to; an error as itself."""
        done = asyncio.gather(*tasks, return_exceptions=True)
        return list(self.loop.run_until_complete(done))

    def kill(self, name: str) -> None:
        """End a machine where it stands."""
        self.world.kill(self.machine(name), again_s=NEVER_S)

    def held(self, name: str = "p0") -> int:
        """What a pot holds, as committed."""
        return int(self.store.rows("SELECT held FROM pot WHERE name = ?", (name,))[0][0])

    def close(self) -> None:
        """Let what is left end, and close the loop."""
        for machine in self.machines.values():
            machine.dead = False
        handles, self.loop.grave = [each for each in self.loop.grave if isinstance(each, asyncio.Handle)], []
        self.loop.resume(handles)
        left = [task for task in asyncio.all_tasks(self.loop) if isinstance(task, SimulatedTask)]
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self.loop.close()
