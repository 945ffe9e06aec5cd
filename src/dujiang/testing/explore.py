"""Explore: every short schedule of faults of one saga, with its own functions and the real runs.

    report = await explore(Checkout, app=app, event=OrderPlaced(order_id=1, pieces=2), hears=[PaymentConfirmed(order_id=1)])
    assert report.violation is None, report.text()

A schedule is a list of choices: at each function of a step (it goes well, fails once, refuses, loses its answer, ...), at each
wait (the event comes early, in time, twice, too late, never), and at each crash point of a transition (the process dies).
All schedules with at most `faults` choices that are not the first are taken, each on a copy of one store, the shortest first.

Every saga must end done, or compensated. And what a user of the app cannot see must not matter: two schedules of which the
same steps were done and undone leave the same rows, and the same journals of the stand-ins outside, whatever died, was lost
or came twice in between. So an undo that happens twice in effect shows, without anybody having written a law for it.

What runs is the real thing (saga/running.py on the embedded store); only the loop that claims is played here, one step of it
after another, so that a schedule can be repeated. Refused: a model of the runs, which would have to be right itself.
tests/unit/testing/test_explore.py plants mistakes.
"""

from __future__ import annotations

import shutil
import tempfile
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sqlalchemy import select

from dujiang.app.runtime import Runtime
from dujiang.data.transaction import transact
from dujiang.kernel.context import entered
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.errors import DujiangError, Refusal
from dujiang.kernel.ids import uuid7
from dujiang.kernel.node import Node
from dujiang.messaging.message import Message
from dujiang.messaging.work import claim_free, give_back, still_running
from dujiang.saga import store
from dujiang.saga.definition import Step
from dujiang.saga.kind import SagaStuck
from dujiang.saga.outcome import Failed
from dujiang.saga.progress import DONE, HEARD, SKIPPED, UNDONE, WORDS
from dujiang.saga.running import Run
from dujiang.saga.view import OF_KEY, view_of
from dujiang.settings import Settings
from dujiang.testing.clocks import JumpClock
from dujiang.testing.tape import Killed, Probe, Tape, armed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.app import App
    from dujiang.messaging.message import Event
    from dujiang.messaging.tx import Tx
    from dujiang.messaging.work import Claim
    from dujiang.saga.definition import Flow, Part, Saga
    from dujiang.saga.kind import Kind
    from dujiang.saga.signature import Signature
    from dujiang.saga.view import SagaView

RUNS_MAX = 200
ID_MIN = 1 << 40
LOCAL = ("goes well", "fails once", "refuses")
OUTSIDE = ("goes well", "is refused", "is lost once", "loses its answer once", "loses every answer")
UNDO = ("goes well", "fails once", "loses its answer once")
WAIT = ("comes in time", "comes early", "comes twice", "comes too late", "never comes")


@dataclass(frozen=True)
class Explored:
    """What an exploration has found.

    Attributes:
        schedules: How many were taken.
        violation: What did not hold under the first that broke something; None = everything held.
        schedule: That schedule, in words.
        ends: How often each end came.
    """

    schedules: int
    violation: str | None = None
    schedule: tuple[str, ...] = ()
    ends: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """For people."""
        if self.violation is None:
            return f"{self.schedules} schedules, nothing found: {self.ends}"
        steps = "; ".join(self.schedule) or "no fault at all"
        return f"after {self.schedules} schedules: {self.violation}\nschedule: {steps}"


async def explore(
    saga: type[Saga[Any]],
    *,
    app: App,
    event: Event,
    hears: Sequence[Event] = (),
    before: Callable[[Tx], Awaitable[Any]] | None = None,
    faults: int = 1,
    journal: Callable[[], Any] = lambda: None,
    fresh: Callable[[], None] = lambda: None,
) -> Explored:
    """Take every schedule with at most so many faults; the first that breaks something ends it.

    Args:
        saga: Its class, declared by a module of the app.
        app: The app.
        event: Begins it.
        hears: The events that it waits for, by the order of its waits.
        before: Writes the rows that the saga finds, as whoever publishes the event does.
        faults: Faults at most in one schedule; with two there are some hundreds, at 0.1 s each.
        journal: What the stand-ins outside have done, as JSON values.
        fresh: Makes them forget it, before each schedule.
    """
    with tempfile.TemporaryDirectory(prefix="dujiang-explore-") as name:
        template = Path(name) / "template"
        async with Runtime(app, settings_in(template), Node.system()) as runtime:
            if before is not None:
                await runtime.transact(before)
        waiting: list[tuple[int, ...]] = [()]
        seen: dict[bytes, tuple[bytes, tuple[str, ...]]] = {}
        ends: dict[str, int] = {}
        count = 0
        while waiting:
            tape = Tape(waiting.pop(0))
            folder = Path(name) / "run"
            shutil.copytree(template, folder)
            fresh()
            try:
                said, end = await Schedule(saga, app, folder, tape, journal, seen).play(event, list(hears))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            count += 1
            ends[end] = ends.get(end, 0) + 1
            if said:
                return Explored(count, said, tuple(tape.told), ends)
            waiting.extend(tape.children(faults))
        return Explored(count, ends=ends)


def settings_in(folder: Path) -> Settings:
    """Of a store in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Settings(database=f"sqlite:///{folder}/app.db", data=folder, grace_s=0.1)


class Schedule:
    """One schedule on one copy of the store.

    Args:
        saga: The class.
        app: The app.
        folder: Where the copy lies.
        tape: The choices.
        journal: See `explore`.
        seen: What was left by the first schedule of each story, and that schedule.
    """

    def __init__(
        self,
        saga: type[Saga[Any]],
        app: App,
        folder: Path,
        tape: Tape,
        journal: Callable[[], Any],
        seen: dict[bytes, tuple[bytes, tuple[str, ...]]],
    ) -> None:
        self._saga = saga
        self._app = app
        self._tape = tape
        self._journal = journal
        self._seen = seen
        self._clock = JumpClock()
        node = Node(name="explore", clock=self._clock, entropy=SystemEntropy())
        self._runtime = Runtime(app, settings_in(folder), node, roles=("gateway",))
        self._runtime.clock.look = self._clock.carry(self._runtime.clock.look)
        self._always: dict[str, str] = {}
        self._seq = 0

    async def play(self, event: Event, hears: list[Event]) -> tuple[str, str]:
        """Take the saga to its end; what does not hold, and how it ended."""
        async with self._runtime as runtime:
            verb = self._saga.declared
            made = verb.kind_of(runtime.composition.provided(verb))
            kind = replace(made, flow=self._acted(made.flow))
            arrivals = {wait.name: one for wait, one in zip(made.flow.waits, hears, strict=True)}
            words = {name: self._tape.choose(f"the event of {name}", WAIT) for name in arrivals}
            for name, word in words.items():
                if word == "comes early":
                    await self._react(f"{verb.name}.{name}", arrivals.pop(name))
            for _ in range(2):
                await self._react(f"{verb.name}.begin", event)
            try:
                view = await self._taken_on(kind, verb, event, words, arrivals)
            except SagaStuck as error:
                return str(error), "stuck"
            if view.state not in ("done", "compensated"):
                return f"it is {view.state} after {RUNS_MAX} runs", view.state
            return await self._judged(view), view.state

    async def _taken_on(
        self, kind: Kind, verb: Any, event: Event, words: dict[str, str], arrivals: dict[str, Event]
    ) -> SagaView:
        """Claim and run until it has ended, as the consumer would."""
        runtime, node = self._runtime, self._runtime.node
        view = await self._view(verb, event)
        sub_id = runtime.jobs.numbers[verb.name]
        for _ in range(RUNS_MAX):
            if view.finished_at is not None:
                break
            if (
                view.state == "waiting"
                and words.get(view.step) in ("comes in time", "comes twice")
                and view.step in arrivals
            ):
                heard = arrivals.pop(view.step)
                for _ in range(2 if words[view.step] == "comes twice" else 1):
                    await self._react(f"{verb.name}.{view.step}", heard)
            elif view.next_at is not None:
                self._clock.jump_to(int(view.next_at.timestamp() * 1e6) + 1)
            now_us = node.clock.now_us()
            for claim in await claim_free(runtime.database, sub_id, runtime.process.lease, now_us, 1):
                await self._run(kind, verb.name, claim)
            view = await self._view(verb, event)
        for name, late in arrivals.items():
            if words[name] == "comes too late":
                await self._react(f"{verb.name}.{name}", late)
        return await self._view(verb, event)

    async def _run(self, kind: Kind, name: str, claim: Claim) -> None:
        """One run; what is left of it goes back, as after a failure or a death."""
        context = self._runtime.context()
        try:
            with entered(context), armed(Probe(self._tape)):
                closing = await Run(kind, self._runtime.database, claim).go()
            if closing.ended:
                return
        except Killed:
            pass
        except SagaStuck:
            raise
        except DujiangError as error:
            if error.move in ("fix", "choose"):
                raise
        except Exception:  # noqa: BLE001, S110  (the consumer would try it again)
            pass
        lost = await self._lies_running(claim)
        if lost:
            await give_back(self._runtime.database, name, claim, 0)

    async def _lies_running(self, claim: Claim) -> bool:
        return await self._runtime.database.read(lambda connection: still_running(connection, claim))

    async def _react(self, name: str, event: Event) -> None:
        """Let a reaction of the saga handle an event."""
        runtime = self._runtime
        subscription = next(each for each in runtime.composition.subscriptions() if each.name == name)
        self._seq += 1
        now_us, entropy = runtime.node.clock.now_us(), runtime.node.entropy
        message = Message(
            self._seq, uuid7(now_us, entropy.bits(62)), event.event_name, None, now_us, {}, event.to_bytes()
        )
        with entered(runtime.context()):
            await transact(
                runtime.database,
                lambda connection, at_us: runtime.make_tx(connection, at_us, message),
                lambda tx: subscription.handle(tx, [event]),
                what=name,
            )

    async def _view(self, verb: Any, event: Event) -> SagaView:
        async def look(db: Any) -> SagaView:
            (row,) = await db.fetch(OF_KEY, verb.name, "", str(verb.key(event)))
            return view_of(row, await db.fetch(store.RECORDS, row[0]))

        found: SagaView = await self._runtime.read(look)
        return found

    # Functions that do what the tape says -----------------------------------------------------------------------------

    def _acted(self, flow: Flow) -> Flow:
        parts: list[Part] = []
        for place, part in enumerate(flow.parts):
            if isinstance(part, Step):
                acted = copy(part)
                acted.forward = self._acting(part.name, part.forward, place < flow.pivot)
                if part.back is not None:
                    acted.back = self._undoing(part.name, part.back)
                parts.append(acted)
            else:
                parts.append(part)
        return replace(flow, parts=tuple(parts))

    def _acting(self, name: str, signature: Signature, may_refuse: bool) -> Signature:  # noqa: FBT001
        words: tuple[str, ...] = LOCAL if signature.local else OUTSIDE
        if not may_refuse:
            words = tuple(word for word in words if "refuse" not in word and "every" not in word)

        async def act(world: Any, state: Any, **given: Any) -> Any:
            word = self._always.get(name) or self._tape.choose(name, words)
            if word in ("refuses", "loses every answer"):
                self._always[name] = word
            if word == "is refused":
                return Failed("the schedule says so")
            if word == "is lost once":
                raise TimeoutError(f"{name} {word}")
            answer = await signature.function(world, state, **given)
            if word == "refuses":
                raise Refusal(f"{name} {word}")
            if word != "goes well":
                raise TimeoutError(f"{name} {word}")
            return answer

        return replace(signature, function=act)

    def _undoing(self, name: str, signature: Signature) -> Signature:
        words = UNDO[:2] if signature.local else (UNDO[0], UNDO[2])

        async def undo(world: Any, state: Any, done: Any, **given: Any) -> Any:
            word = self._tape.choose(f"the undo of {name}", words)
            answer = await signature.function(world, state, done, **given)
            if word != "goes well":
                raise TimeoutError(f"the undo of {name} {word}")
            return answer

        return replace(signature, function=undo)

    # Judging ----------------------------------------------------------------------------------------------------------

    async def _judged(self, view: SagaView) -> str:
        """What differs from the first schedule of the same story; empty when nothing does."""
        told = {WORDS[kind] for kind in (DONE, HEARD, UNDONE, SKIPPED)}
        story = to_json([view.state, [(one.step, one.what) for one in view.timeline if one.what in told]])
        left = to_json([await self._rows(), self._journal()], fallback=str)
        before = self._seen.setdefault(story, (left, tuple(self._tape.told)))
        if before[0] == left:
            return ""
        first = "; ".join(before[1]) or "no fault at all"
        said = f"the same steps were done and undone as with {first!r}, and something else is left:"
        return f"{said}\n  {before[0].decode()}\n  {left.decode()}"

    async def _rows(self) -> dict[str, list[str]]:
        """The rows of the user's tables, masked."""
        found: dict[str, list[str]] = {}
        for module in self._app.modules:
            for table in getattr(module.tables, "sorted_tables", ()):

                async def look(db: Any, table: Any = table) -> list[Any]:
                    return list((await db.execute(select(table))).all())

                rows = await self._runtime.read(look)
                found[table.name] = sorted(repr([masked(value) for value in row]) for row in rows)
        return found


def masked(value: Any) -> Any:
    """A value without what differs between any two schedules: ids and times."""
    return "#" if isinstance(value, int) and value >= ID_MIN else value
