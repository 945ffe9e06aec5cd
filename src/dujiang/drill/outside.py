"""Outside: what stands beyond the cluster: the other side of every `@app.external`, and the way to it.

    machine ──request──► stand-in: the user's own function, in a world that no kill reaches
            ◄──answer───

    1 lost      the request never arrives          the caller hears nothing, and gives up
    2 answer    the effect is there                the caller hears nothing, and gives up
    3 twice     the effect happens twice           the caller hears of the first
    4 turned    nothing happened, come again       the caller is told so

The first two are the same to the caller, as in life. The other side outlives every machine, so what its function keeps in
globals (the journal of a bank) is one for all machines and survives kills, unlike what handlers keep.

Every call is written down with its cause: the message that the caller's reaction handles. A second run for the same message
must carry the keys of the first, or the other side cannot tell the repeat: check `external-keyed`. Keys of two runs fit
when some run has those of both, because a run may end early. What has no key must not happen in two runs, nor twice.
"""

from __future__ import annotations

import dis
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dujiang.drill.escape import users_modules
from dujiang.drill.machine import Machine
from dujiang.drill.memories import Place, keeps
from dujiang.drill.workload.driven import codes
from dujiang.kernel.context import current

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from dujiang.app.declaration import App
    from dujiang.drill.world import World

T = TypeVar("T")

LOST, ANSWER_LOST, TWICE, TURNED_AWAY = 1, 2, 3, 4
GIVES_UP_S = 5.0


class NoReply(ConnectionError, TimeoutError):
    """Nothing was heard of the other side: it may have done it, or not. It is both, as clients raise either."""


class TurnedAway(ConnectionRefusedError):
    """The other side did nothing and says so; later it may."""


@dataclass(kw_only=True)
class Called:
    """One call of an external.

    Attributes:
        external: Its name.
        key: What tells a repeat, or None.
        arguments: A digest of them.
        cause: Reaction and message that it was made for.
        run: Which run of that reaction: the machine, and when the run began.
        place: Where it was made, `folder/file.py:57 function`.
        effects: How often it was done.
    """

    external: str
    key: str | None
    arguments: str
    cause: tuple[str, str]
    run: tuple[str, int]
    place: str
    effects: int = 0


class Outside:
    """The other side of every external of one world.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._machine: Machine | None = None
        self.calls: list[Called] = []

    def __repr__(self) -> str:
        return f"<Outside: {len(self.calls)} calls>"

    @property
    def machine(self) -> Machine:
        """Where stand-ins run: it has a clock and chance, and nothing kills it."""
        if self._machine is None:
            self._machine = Machine(self._world, "outside", 0)
            self._machine.mortal = False
        return self._machine

    async def call(
        self, machine: Machine, name: str, key: str | None, arguments: str, effect: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """One call over the network. Raises what the stand-in raises, NoReply or TurnedAway."""
        label = f"external.{name}"
        form, called = machine.draw(label, 4), self._written_down(machine, name, key, arguments)
        await machine.hop(f"{label}.request")
        if form == TURNED_AWAY:
            await machine.hop(f"{label}.reply")
            raise TurnedAway(f"{name} is busy")
        if form == LOST:
            await self._world.loop.pause(GIVES_UP_S)
            raise NoReply(f"{name} does not answer")
        answered = self._do(called, effect)
        if form == TWICE:
            self._do(called, effect, after_s=self._world.tape.delay(f"{label}.again"))
        answer, error = await answered
        if form == ANSWER_LOST:
            await self._world.loop.pause(GIVES_UP_S)
            raise NoReply(f"{name} does not answer")
        await machine.hop(f"{label}.reply")
        if error is not None:
            raise error
        return cast("T", answer)

    def _written_down(self, machine: Machine, name: str, key: str | None, arguments: str) -> Called:
        call = current().call
        cause = ("", "") if call is None else (call.subscription, call.message.message_id.hex())
        run = (machine.node.name, 0 if call is None else call.now_us)
        called = Called(external=name, key=key, arguments=arguments, cause=cause, run=run, place=machine.here())
        machine.note(f"calls {name}", f"{key} {arguments}")
        self.calls.append(called)
        return called

    def _do(
        self, called: Called, effect: Callable[[], Coroutine[Any, Any, Any]], *, after_s: float = 0.0
    ) -> asyncio.Future[tuple[Any, Exception | None]]:
        done: asyncio.Future[tuple[Any, Exception | None]] = self._world.loop.create_future()

        async def run() -> None:
            if after_s:
                await self._world.loop.pause(after_s)
            answer, error = None, None
            try:
                answer = await effect()
            except Exception as raised:  # noqa: BLE001  (it is the answer)
                error = raised
            else:
                called.effects += 1
            if not done.done():
                done.set_result((answer, error))

        self._world.tasks.spawn(run(), name=f"external {called.external}", context=self.machine.context.copy())
        return done

    def unkeyed(self) -> Iterator[tuple[str, str]]:
        """Externals whose repeats cannot be told, one for each reaction: a sentence, and the place of the repeat."""
        groups: defaultdict[tuple[str, tuple[str, str]], list[Called]] = defaultdict(list)
        for called in self.calls:
            groups[called.external, called.cause].append(called)
        told: set[tuple[str, str]] = set()
        for (name, (reaction, message)), calls in groups.items():
            found = clash(calls)
            if found is not None and (name, reaction) not in told:
                told.add((name, reaction))
                first, later = found
                kind = "keyless" if later.key is None else "unkeyed"
                self._world.note(f"outside external {kind}", f"{later.place}|{first.place}|{name}")
                yield told_of(name, reaction, message, first, later), later.place


def clash(calls: list[Called]) -> tuple[Called, Called] | None:
    """Two calls for one cause that the other side cannot tell for a repeat, the later last; None when there are none."""
    if not calls or not calls[0].cause[0]:
        return None
    keyless = [each for each in calls if each.key is None and each.effects]
    for each in keyless:
        if each.run != keyless[0].run or each.effects > 1:
            return keyless[0], each
    runs: dict[tuple[str, int], dict[str, Called]] = {}
    for each in calls:
        if each.key is not None:
            runs.setdefault(each.run, {}).setdefault(each.key, each)
    for first, later in combinations(runs.values(), 2):
        both = first.keys() | later.keys()
        if not any(both <= run.keys() for run in runs.values()):
            key = next(key for key in first if key not in later)
            return first[key], next(later[key] for key in later if key not in first)
    return None


def told_of(name: str, reaction: str, message: str, first: Called, later: Called) -> str:
    """A clash in one sentence."""
    if later.key is None:
        said = f"{name} was done twice for one message of {reaction} and has no key: at {first.place}, and again at {later.place}"
    else:
        said = (
            f"{name} was called for one message of {reaction} with different keys: {first.key!r} at {first.place}, "
            f"then {later.key!r} at {later.place}"
        )
    return f"{said} (message {message})"


def journals_of(app: App) -> tuple[Place, ...]:
    """The globals that the functions of an app's externals use: they belong to the other side, not to a machine."""
    found: dict[Place, None] = {}
    own = {module.__name__ for module in users_modules()}
    for external in app.externals():
        waiting: list[Any] = [getattr(external.function, "__func__", external.function)]
        package = str(waiting[0].__module__).partition(".")[0]
        seen: set[Any] = set()
        while waiting:
            function = waiting.pop()
            if not isinstance(function, FunctionType) or function in seen:
                continue
            seen.add(function)
            for name in globals_of(function):
                value = function.__globals__[name]
                if isinstance(value, FunctionType) and str(value.__module__).partition(".")[0] == package:
                    waiting.append(value)
                elif keeps(value, own):
                    found[Place(function.__module__, name)] = None
    return tuple(found)


def globals_of(function: FunctionType) -> list[str]:
    """The globals of its module that a function reads or writes."""
    names = {
        str(each.argval)
        for code in codes(function.__code__)
        for each in dis.get_instructions(code)
        if each.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")
    }
    return sorted(names & function.__globals__.keys())
