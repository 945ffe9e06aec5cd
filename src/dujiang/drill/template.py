"""Template: the store from which every run begins: migrated, seeded, its subscriptions active; made once per drill.

It is made inside a quiet simulation, on the real embedded store, so that its times and ids are the same in every drill.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.app.runtime import Runtime
from dujiang.drill.machine import Machine
from dujiang.drill.outside import journals_of
from dujiang.drill.world import Cluster, World
from dujiang.settings import Settings
from dujiang.testing.harness import OPERATOR_TOKEN

if TYPE_CHECKING:
    from dujiang.app.declaration import App

# Workers answer too, when both gateways are down: a client that finds nobody for long would show nothing.
WORKER = ("gateway", "relay", "worker", "scheduler")
MACHINES = {"api1": ("gateway",), "api2": ("gateway",), "worker1": WORKER, "worker2": WORKER}
JOURNAL_BYTES = slice(18, 20)


def cluster_of(app: App, machines: dict[str, tuple[str, ...]] | None = None, *, other: App | None = None) -> Cluster:
    """A cluster of `app`, ready to be started any number of times.

    The folder of its machines is the caller's to remove.

    Args:
        app: What is drilled.
        machines: Roles by name; default: two that take requests, two that work.
        other: Another version of it, which half of the machines run.

    Raises:
        Whatever a start of the app raises: broken migrations, a seed that fails, declarations that cannot hold.
    """
    folder = Path(tempfile.mkdtemp(prefix="dujiang-drill-"))
    (folder / "operator.token").write_text(OPERATOR_TOKEN)
    try:
        image = image_of(app, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    journals = {**dict.fromkeys(journals_of(app)), **dict.fromkeys(() if other is None else journals_of(other))}
    return Cluster(
        app=app, image=image, folder=folder, machines=dict(machines or MACHINES), journals=tuple(journals), other=other
    )


def image_of(app: App, folder: Path) -> bytes:
    """The bytes of a database file on which the app has started once."""
    path = folder / "template.db"
    world = World(Cluster(app=app, image=b"", folder=folder, machines={}))
    machine = Machine(world, "template", 0)
    settings = Settings(database=f"sqlite:///{path}", data=folder, instance="template")

    async def live() -> None:
        async with Runtime(app, settings, machine.node):
            pass

    try:
        machine.context.run(world.loop.run_until_complete, live())
    except BaseException:
        world.loop.wind_up()
        raise
    world.loop.close()
    image = bytearray(path.read_bytes())
    # The file says "write-ahead log"; a database in memory has none.
    image[JOURNAL_BYTES] = b"\x01\x01"
    path.unlink()
    return bytes(image)
