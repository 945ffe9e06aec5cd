"""Rounds: the drill itself, from a seed to a report."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dujiang.app import App
from dujiang.drill.storage.cut import Surviving
from dujiang.drill.storage.disk import Image, Weather
from dujiang.drill.storage.life import Stage, live
from dujiang.drill.storage.loop import VirtualLoop
from dujiang.drill.storage.probe import probe
from dujiang.drill.storage.report import StorageReport, Violation
from dujiang.drill.storage.witness import Ledger, Request
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.entropy import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dujiang.drill.storage.life import Life
    from dujiang.drill.storage.witness import Problem, Workload
    from dujiang.kernel.entropy import Entropy

ROUND = 25
# A round has hours of virtual time to itself, and numbers for its lives, whatever came before it.
ROUND_S = 20_000.0
LIVES_MAX = 1000
EMPTY_EVERY = 4
REQUESTS = (20, 60)
CUTS_OF_A_LIFE = (3, 8)
REPAIRS_CUT = 0.2
MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)


def made_entry(chance: Entropy, key: str) -> Request:
    """A request of the drill's own workload."""
    length = (0, 40, 900, 6000)[chance.below(4)]
    return Request("POST", "/drill/entries", {"entry": key, "parts": 1 + chance.below(6), "length": length})


def placed_order(chance: Entropy, key: str) -> Request:
    """An order in the shop."""
    skus = ("itemA", "itemB", "laptop", "mouse")
    items = [{"sku": skus[chance.below(4)], "quantity": 1 + chance.below(3)} for _ in range(1 + chance.below(3))]
    return Request("POST", "/api/v1/orders", {"user_id": key, "items": items})


# What the drill can ask of verbs that it knows, by their stored names.
KNOWN: dict[str, Workload] = {"shop.place_order": placed_order}


class Rounds:
    """One drill.

    Args:
        stage: What lives share.
        seed: Everything follows from it.
        full_disk: Share of working lives in which the disk becomes full.
        errors: Share of working lives in which operations fail.
        progress: Called after each cut.
    """

    def __init__(
        self, stage: Stage, seed: int, full_disk: float, errors: float, progress: Callable[[StorageReport], None]
    ) -> None:
        self._stage = stage
        self._report = stage.report
        self._seed = seed
        self._full_disk = full_disk
        self._errors = errors
        self._progress = progress
        self._template: Image = {}

    async def run(self, cuts: int, only: int | None) -> None:
        """All rounds, or the one of a single cut."""
        self._template = await self._made()
        first = 0 if only is None else (only - 1) // ROUND
        until = cuts if only is None else only
        for number in range(first, -(-until // ROUND)):
            await self._round(number, until)

    async def _made(self) -> Image:
        """The disk of a store that was made, filled, and closed."""
        life = await live(self._stage, {}, Ledger(), SeededEntropy(f"{self._seed}/made"), Weather(), 0)
        for problem in life.problems:
            self._violation(problem, 0, "running")
        return after(life, len(life.disk.log), SeededEntropy("everything"))

    async def _round(self, number: int, until: int) -> None:
        chance = SeededEntropy(f"{self._seed}/{number}")
        self._stage.loop.begin((number + 1) * ROUND_S, SeededEntropy(f"{self._seed}/{number}/calls"))
        self._stage.numbers = (number + 1) * LIVES_MAX
        image, ledger = ({} if number % EMPTY_EVERY == 0 else self._template), Ledger()
        cut = number * ROUND
        last = min(cut + ROUND, until)
        while cut < last:
            life = await self._worked(image, ledger, chance, cut)
            clean: list[tuple[Image, Ledger]] = []
            surviving = Surviving(life.disk.image, life.disk.numbered, life.disk.log)
            for at in places(life, chance, CUTS_OF_A_LIFE):
                surviving.advance(at)
                cut += 1
                image, ledger = surviving.image(chance), life.known(at)
                judged = await self._judged(image, ledger, chance, cut, where(life, at))
                if not judged.problems:
                    clean.append((image, ledger))
                    if cut < last and chance.random() < REPAIRS_CUT:
                        cut += 1
                        await self._cut_again(judged, ledger, chance, cut)
                if cut >= last:
                    break
            image, ledger = clean[chance.below(len(clean))] if clean else (self._template, Ledger())

    async def _worked(self, image: Image, ledger: Ledger, chance: Entropy, cut: int) -> Life:
        """A life with clients."""
        requests = REQUESTS[0] + chance.below(REQUESTS[1] - REQUESTS[0])
        life = await live(self._stage, image, ledger, chance, self._weather(chance), requests)
        for problem in life.problems:
            self._violation(problem, cut, "running")
        return life

    async def _judged(self, image: Image, ledger: Ledger, chance: Entropy, cut: int, place: str) -> Life:
        """A life that opens what a cut left."""
        life = await live(self._stage, image, ledger, chance, Weather(lie=self._stage.lie), 0)
        self._report.cuts += 1
        self._report.places[place] = self._report.places.get(place, 0) + 1
        for problem in life.problems:
            self._violation(problem, cut, place)
        self._progress(self._report)
        return life

    async def _cut_again(self, life: Life, ledger: Ledger, chance: Entropy, cut: int) -> None:
        """Cut a life that repairs."""
        for at in places(life, chance, (1, 1)):
            await self._judged(after(life, at, chance), ledger, chance, cut, f"repair, {where(life, at)}")

    def _weather(self, chance: Entropy) -> Weather:
        weather = Weather(lie=self._stage.lie)
        if chance.random() < self._full_disk:
            weather.full_at, weather.full_for = 1 + chance.below(600), spell(chance)
        elif chance.random() < self._errors:
            weather.error_in = ("read", "write", "sync")[chance.below(3)]
            weather.error_at = 1 + chance.below(200 if weather.error_in == "write" else 30)
            weather.error_for = spell(chance)
        return weather

    def _violation(self, problem: Problem, cut: int, place: str) -> None:
        self._report.add(Violation(problem.kind, problem.what, self._seed, cut, place))


def spell(chance: Entropy) -> int:
    """How many operations bad weather refuses: a few, or so many that it lasts until somebody ends it."""
    return 1 + chance.below(12) if chance.random() < 0.5 else 1_000_000


def after(life: Life, at: int, chance: Entropy) -> Image:
    """What a life's disk may hold if the power goes at a place of its log."""
    surviving = Surviving(life.disk.image, life.disk.numbered, life.disk.log)
    surviving.advance(at)
    return surviving.image(chance)


def where(life: Life, at: int) -> str:
    """What the disk was about to do at a place of its log."""
    if at >= len(life.disk.log):
        return "off"
    entry = life.disk.log[at]
    return f"{entry.kind} {entry.name.partition('-')[2] or 'data'}" if entry.file else "sync folder"


def places(life: Life, chance: Entropy, count: tuple[int, int]) -> list[int]:
    """Places to cut at, in order; half of them anywhere, half at a kind of operation that is drawn first.

    Nearly everything that a store does is writing its log; drawn by place alone, the seldom moments (a checkpoint, a new
    log, the first sync of all) would hardly ever be cut.
    """
    kinds: dict[str, list[int]] = {}
    for at in range(len(life.disk.log) + 1):
        kinds.setdefault(where(life, at), []).append(at)
    names = sorted(kinds)
    drawn = []
    for _ in range(count[0] + chance.below(count[1] - count[0] + 1)):
        among = kinds[names[chance.below(len(names))]]
        anywhere = chance.random() < 0.5
        drawn.append(chance.below(len(life.disk.log) + 1) if anywhere else among[chance.below(len(among))])
    return sorted(drawn)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Keep the platform's log lines from the terminal, and collect the errors that nobody handled."""
    crashes: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "dujiang.tasks" and record.levelno >= logging.ERROR:
                crashes.append(f"{record.getMessage()}: {record.exc_info[1]!r}" if record.exc_info else record.msg)

    logger, handler = logging.getLogger("dujiang"), Collect()
    propagated, logger.propagate = logger.propagate, False
    handlers, logger.handlers = logger.handlers, [handler]
    try:
        yield crashes
    finally:
        logger.propagate, logger.handlers = propagated, handlers


def storage(
    app: App | None = None,
    *,
    seed: int = 1,
    cuts: int = 500,
    fsync_lie: float = 0.0,
    full_disk: float = 0.1,
    errors: float = 0.1,
    workload: Sequence[Workload] = (),
    only: int | None = None,
    progress: Callable[[StorageReport], None] = lambda _: None,
) -> StorageReport:
    """Cut the power under an app on the embedded store, many times, and see whether what it promised is there.

    Runs in virtual time, in memory, without a server; about ten cuts a second. Must not be called from a running loop.

    Args:
        app: What runs, besides the drill's own workload; None = that alone.
        seed: The same seed does the same again.
        cuts: How many cuts.
        fsync_lie: Share of syncs, 0 to 1, that the disk ignores; then losses are the disk's, and are reported.
        full_disk: Share of working lives in which the disk becomes full and has room again later.
        errors: Share of working lives in which reads, writes or syncs fail for a while.
        workload: Functions that make a request of a random source and a fresh key; beside those that the drill knows.
        only: Only the round of this cut, up to it: to see a violation again.
        progress: Called after each cut with the report so far.
    """
    clock = SystemClock()
    begun_at = clock.monotonic()
    modules = app.modules if app is not None else ()
    own = App(
        modules=[*modules, probe],
        provide=app.provide if app is not None else None,
        renamed=app.renamed if app is not None else None,
    )
    asked = [made_entry, *workload, *(make for name, make in KNOWN.items() if name in own.names())]
    report = StorageReport(seed=seed, fsync_lie=fsync_lie, full_disk=full_disk, failing=errors)
    folder = Path(tempfile.mkdtemp(prefix="dujiang-drill-", dir=MEMORY if MEMORY.is_dir() else None))
    loop = VirtualLoop(SeededEntropy(f"{seed}/calls"))
    try:
        with listening() as crashes, asyncio.Runner(loop_factory=lambda: loop) as runner:
            stage = Stage(own, folder, loop, asked, report, crashes, lie=fsync_lie)
            runner.run(Rounds(stage, seed, full_disk, errors, progress).run(cuts, only))
            report.digest = stage.history.hexdigest()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.seconds = clock.monotonic() - begun_at
    return report
