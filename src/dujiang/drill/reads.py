"""Reads: whether what caches gave is what the database holds, in a run and after it.

    read-your-writes   a client was told that its write is done, and the same machine then gives a cached answer that the
                       database does not have, although nobody else has changed anything
    stale-for-ever     everything has healed, and seconds later a machine still gives such an answer

A cached read is asked twice on one machine: as any client asks, and around the caches. The two may differ only if something
was committed between them, or if anything but the client's own write was since that machine last began to look at the log
(caching/guard.py): of that it need not have heard.

Judged are reads that have tags, or of which some transaction of the run forgot an answer. One that nobody ever forgets is
meant to be as old as its ttl; to judge it would be to find fault with what somebody has chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dujiang.backends.table import load
from dujiang.caching.caching import AROUND
from dujiang.drill.versions import verb_in
from dujiang.drill.violation import Violation
from dujiang.testing.harness import OPERATOR_TOKEN, exchanged

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from dujiang.drill.clients import Operation
    from dujiang.drill.machine import Machine
    from dujiang.drill.workload.contract import Flow
    from dujiang.drill.workload.request import Request
    from dujiang.drill.world import World
    from dujiang.testing.harness import Response

LOOKED_S = 5.0
ASKED_MAX = 12
SHOWN = 200


class Reads:
    """The cached reads of a run.

    Args:
        world: Where they are asked.

    Attributes:
        forgets: When something was forgotten, and on which machine.
        asked: What was asked, by method and path; the last to be asked comes last.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.forgets: list[tuple[float, str]] = []
        self.asked: dict[str, Request] = {}
        self._kept_up: set[Flow] = set()
        self._suspected: list[tuple[Flow, Violation]] = []
        self._changes_of = load("database", "simulated:").changes_of

    def __repr__(self) -> str:
        return f"<Reads: {len(self.asked)} asked, {len(self.forgets)} times something was forgotten>"

    def committed(self, machine: Machine | None, changeset: bytes) -> None:
        """A transaction was committed; note what it forgot."""
        for change in self._changes_of(changeset):
            if change.table == "dj_forgotten" and change.op == "INSERT":
                self.forgets.append((self._world.loop.now, "" if machine is None else machine.name))

    def note(self, request: Request) -> None:
        """A client asks this."""
        if request.flow.kept:
            self.asked.pop(request.path, None)
            self.asked[request.path] = request

    async def own_write(self, operation: Operation, request: Request) -> None:
        """A client has the answer of its write; ask on the machine that gave it, and compare."""
        machine, now_s = operation.answered_by, self._world.loop.now
        self._look_whose()
        if machine is None or machine.runtime is None or operation.tries != 1 or not machine.ready:
            return
        self.note(request)
        # More than one's own since the machine's last look, and a difference may be somebody else's, of whom it has not heard.
        since = self._since(machine, now_s)
        if len(since) > 1 or any(who != machine.name or at < operation.at_s for at, who in since):
            return
        said = await self._compared(machine, request)
        if said:
            told = f"{operation.says} was answered {0 if operation.final is None else operation.final.status}; {said}"
            self._suspected.append((request.flow, Violation("read-your-writes", told)))

    async def judged(self) -> AsyncIterator[Violation]:
        """What does not hold once everything has healed."""
        if not self.asked:
            return
        self._look_whose()
        flows = self._kept_up
        for flow, violation in self._suspected:
            if flow in flows:
                yield violation
        if not flows:
            return
        await self._world.loop.pause(LOOKED_S)
        wanted = [request for request in self.asked.values() if request.flow in flows][-ASKED_MAX:]
        for machine in self._world.network.gateways():
            for request in wanted:
                if said := await self._compared(machine, request):
                    yield Violation("stale-for-ever", f"{LOOKED_S:.0f} s after everything had healed {said}")

    def _since(self, machine: Machine, now_s: float) -> list[tuple[float, str]]:
        """What was forgotten since the last look of a machine at the log began."""
        assert machine.runtime is not None
        looked_s = now_s - (machine.node.clock.monotonic() - machine.runtime.caching.guard.looked_s)
        return [(at, who) for at, who in self.forgets if at >= looked_s]

    def _look_whose(self) -> None:
        """Note which reads somebody keeps up to date; a machine that dies takes its own knowledge along."""
        for flow in {request.flow for request in self.asked.values()} - self._kept_up:
            runtimes = [machine.runtime for machine in self._world.machines.values() if machine.runtime is not None]
            if flow.verb.tags or any(each.bound(verb_in(each, flow.verb)).forgotten for each in runtimes):
                self._kept_up.add(flow)

    async def _compared(self, machine: Machine, request: Request) -> str:
        """In which way an answer of caches differs from the database; empty = in none that is forbidden."""
        count = len(self.forgets)
        given = await self._answer(machine, request, around=False)
        truth = await self._answer(machine, request, around=True)
        if given is None or truth is None or len(self.forgets) != count or "x-dj-stale" in given.headers:
            return ""
        if {given.status, truth.status} - {200, 404} or (given.status, given.body) == (truth.status, truth.body):
            return ""
        return (
            f"{machine.name} gives {shown(given)} to {request.method} {request.path}; the database has {shown(truth)}"
        )

    async def _answer(self, machine: Machine, request: Request, *, around: bool) -> Response | None:
        """Ask on one machine, without a network; None when it dies meanwhile."""
        runtime = machine.runtime
        if runtime is None or not machine.ready:
            return None
        headers = {**request.headers}
        if request.flow.operator:
            headers["authorization"] = f"Bearer {OPERATOR_TOKEN}"
        answered: asyncio.Future[Any] = self._world.loop.create_future()
        machine.requests[answered] = None

        async def ask() -> None:
            AROUND.set(around)
            found = await exchanged(runtime.asgi, request.method, request.path, request.body or b"", headers)
            if not answered.done():
                answered.set_result(found)

        self._world.tasks.spawn(ask(), name="compare", context=machine.context.copy())
        try:
            found: Response = await answered
        except ConnectionResetError:
            return None
        finally:
            machine.requests.pop(answered, None)
        return found


def shown(answer: Response) -> str:
    """An answer, for people."""
    return f"{answer.status} {answer.body[:SHOWN].decode(errors='replace')}" if answer.status == 200 else "404"
