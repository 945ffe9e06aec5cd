"""Life: one running copy on one disk, from its start to its stop, with clients that remember what they were told.

    start ─► clients work ─► the sky clears ─► what was refused is asked again
          ─► all work ends ─► is everything whole, and as the clients were told? ─► stop

A life without work only starts, is asked, before and after it has ended what was open, and stops: that is how a cut is
judged. Bad weather may refuse a start; that
must be said clearly, and the start after it must succeed.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.app.runtime import Runtime
from dujiang.backends.table import load_layer
from dujiang.drill.storage.disk import TwinDisk, Weather
from dujiang.drill.storage.loop import LoopClock
from dujiang.drill.storage.witness import Problem, Told, broken_laws, damages, disagreements, unclear
from dujiang.kernel.entropy import SeededEntropy
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import all_of
from dujiang.settings import Settings
from dujiang.testing.harness import NotSettled, World

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dujiang.app import App
    from dujiang.drill.storage.loop import VirtualLoop
    from dujiang.drill.storage.report import StorageReport
    from dujiang.drill.storage.witness import Ledger, Request, Workload
    from dujiang.kernel.entropy import Entropy
    from dujiang.testing.harness import Response

CLIENTS = 24
# Longer than a process lease: whoever had one is dead for all to see.
OFF_S = 60.0
# Small, so that a life of a second copies its log several times; in production it is 16 MiB.
LOG_BYTES = (24_000, 80_000, 400_000)
TRIES = 10
# Of virtual time; a life whose work takes longer is stuck.
LIFE_S = 300.0
REPLAYED = 2


@dataclass(eq=False, kw_only=True)
class WorkloadRefused(DujiangError):
    """The app refuses a request of the drill's workload."""

    code = "workload_refused"
    move = "fix"
    says = "{request} was answered {answer}"
    cure = "a workload makes requests that the app takes: 2xx, or 409 for a refusal"

    request: str
    answer: str


@dataclass
class Stage:
    """What all lives of a drill share.

    Attributes:
        app: The app, with the drill's own module beside its modules.
        folder: Where disks are put; memory, if possible.
        loop: The loop of the drill.
        workloads: What clients ask for.
        report: Counts.
        crashes: Errors of tasks that nobody handled, as they are logged.
        lie: Share of syncs that do nothing.
        numbers: Lives so far.
        history: The digest of what all disks did.
    """

    app: App
    folder: Path
    loop: VirtualLoop
    workloads: Sequence[Workload]
    report: StorageReport
    crashes: list[str]
    lie: float = 0.0
    numbers: int = 0
    history: Any = field(default_factory=hashlib.sha256)


@dataclass
class Life:
    """One life, and what became of it."""

    stage: Stage
    name: str
    ledger: Ledger
    chance: Entropy
    disk: TwinDisk
    url: str
    sends: list[tuple[int, str, Request]] = field(default_factory=list)
    tolds: list[tuple[int, str, Told]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    refused: WorkloadRefused | None = None

    def known(self, at: int) -> Ledger:
        """What clients know when the power goes at a place of the disk's log."""
        return self.ledger.but(self.sends, self.tolds, at)

    async def live(self, requests: int) -> None:
        """Live it."""
        world = await self._started()
        if world is None:
            return
        try:
            async with asyncio.timeout(LIFE_S):
                if requests:
                    await self._work(world, requests)
                else:
                    self._found(await disagreements(world, self.ledger))
                await self._judge(world)
        except WorkloadRefused:
            raise
        except TimeoutError:
            self._found([Problem("stuck", f"a life took more than {LIFE_S:.0f} s of its own time")])
        except DujiangError as error:
            self._found([Problem("corrupt" if "damaged" in error.detail else "stuck", f"{error}")])
        finally:
            try:
                counts = world.runtime.database.stats()  # type: ignore[attr-defined]
                self.stage.report.commits_synced += counts["commits_synced"]
                self.stage.report.transactions += counts["bodies"]
                await world.runtime.stop()
            except DujiangError as error:
                self._found([Problem("stuck", f"the stop failed: {error}")])
        self._found([Problem("crashed", text) for text in self.stage.crashes])
        self.stage.crashes.clear()

    def _found(self, problems: Sequence[Problem]) -> None:
        self.problems.extend(problems)

    def _runtime(self) -> Runtime:
        node = Node(name=self.name, clock=LoopClock(self.stage.loop), entropy=SeededEntropy(f"{self.chance.bits(64)}"))
        return Runtime(self.stage.app, Settings(database=self.url, data=self.disk.folder, instance="drill"), node)

    async def _started(self) -> World | None:
        """A running copy; one whose start the weather refused is tried again under a clear sky."""
        while True:
            runtime, bad = self._runtime(), self.disk.weather.bad
            self.stage.report.lives += 1
            try:
                await runtime.start()
            except DujiangError as error:
                await runtime.stop()
                if not bad:
                    self._found([Problem("corrupt", f"the store cannot be opened: {error}")])
                    return None
                if error.move != "wait":
                    self._found([Problem("refusal", f"the start failed with {error}")])
                self.disk.weather.clear()
                self.stage.loop.pass_time(OFF_S)
            else:
                return World(runtime)

    async def _work(self, world: World, requests: int) -> None:
        """Let clients work at once; then ask again for whatever was refused, under a clear sky."""
        todo = list(range(requests))
        await all_of(*(self._client(world, todo) for _ in range(min(CLIENTS, requests))))
        if self.refused is not None:
            raise self.refused
        self.disk.weather.clear()
        for key in self.unsettled:
            for _ in range(TRIES):
                if self._told(key, await self._send(world, key)):
                    break
                await world.runtime.node.clock.sleep(0.5)
            else:
                self._found([Problem("stuck", f"{key} is still refused {TRIES} tries after the disk works again")])
                return

    async def _client(self, world: World, todo: list[int]) -> None:
        while todo:
            number = todo.pop()
            key = f"{self.name}-{number}"
            make = self.stage.workloads[self.chance.below(len(self.stage.workloads))]
            self.sends.append((self.disk.now, key, make(self.chance, key)))
            answer = await self._send(world, key)
            if not self._told(key, answer):
                self.unsettled.append(key)
                self.stage.report.refused += 1
                why = unclear(answer) or ("" if self.disk.weather.bad or self.stage.lie else f"no cause: {answer.json}")
                if why:
                    self._found([Problem("refusal", f"{key} got {why}")])
            await world.runtime.node.clock.sleep(self.chance.uniform(0.0, 0.004))

    def _request(self, key: str) -> Request:
        return next(request for _, sent, request in reversed(self.sends) if sent == key)

    async def _send(self, world: World, key: str) -> Response:
        request = self._request(key)
        return await world.request(request.method, request.path, request.body, key=key)

    def _told(self, key: str, answer: Response) -> bool:
        """Whether an answer promises something; then it is remembered with the place of the disk's log."""
        if answer.status >= 500:
            return False
        if answer.status >= 300 and answer.status != 409:
            told = f"{answer.status} {answer.body[:300]!r}"
            self.refused = self.refused or WorkloadRefused(request=f"{self._request(key)}", answer=told)
            return True
        self.tolds.append((self.disk.now, key, Told(answer.status, answer.body)))
        self.stage.report.acknowledged += 1
        return True

    async def _judge(self, world: World) -> None:
        """Everything that was begun ends, everything is whole, and a retry gets the bytes of the first answer."""
        try:
            await world.settle()
        except NotSettled as error:
            self._found([Problem("stuck", str(error))])
        self._found(await damages(world))
        self._found(await broken_laws(world))
        ledger = self.known(self.disk.now)
        self._found(await disagreements(world, ledger))
        for key, told in list(ledger.told.items())[-REPLAYED:]:
            request = ledger.sent[key]
            answer = await world.request(request.method, request.path, request.body, key=key)
            if answer.body != told.body:
                self._found([Problem("lost", f"a retry of {key} was answered {answer.body[:200]!r}")])


async def live(
    stage: Stage, image: Mapping[str, bytes], ledger: Ledger, chance: Entropy, weather: Weather, requests: int
) -> Life:
    """Live one life on a disk that holds `image`; `requests` = 0 only looks."""
    stage.numbers += 1
    stage.loop.pass_time(OFF_S)
    folder = stage.folder / str(stage.numbers)
    folder.mkdir()
    disk = TwinDisk(folder, image, weather, SeededEntropy(f"{chance.bits(64)}"), stage.report.disk)
    url = f"sqlite:///{folder}/app.db"
    log_bytes = LOG_BYTES[chance.below(len(LOG_BYTES))]
    try:
        with load_layer(url)(f"drill-{folder.name}", disk) as options:
            life = Life(stage, f"drill-{folder.name}", ledger, chance, disk, f"{url}?{options}&log_bytes={log_bytes}")
            await life.live(requests)
            for entry in disk.log:
                stage.history.update(f"{entry.kind} {entry.name} {entry.at} {len(entry.data)}\n".encode())
            return life
    finally:
        shutil.rmtree(folder, ignore_errors=True)
