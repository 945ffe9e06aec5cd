"""Load: clients that come at a fixed mean rate, whether or not the application keeps up, each call with a key.

An open loop: a client that waited for its answer before the next call would send nothing while the application stands,
and the figures would not show what people saw. Each call is retried with its key, at another process, until its answer is
final; what every try was answered is kept, for the judge.

Of a hundred calls about 65 are new requests that the types of the handlers allow, 20 read what earlier ones made, 10 are
sent twice with one key, half of these at the same moment to two processes, and 5 use the key of another request.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

from dujiang.drill.clients import LATER, Operation, body_of, in_flight
from dujiang.drill.network import NoAnswer
from dujiang.drill.real.http import Http
from dujiang.drill.workload.contract import RUN
from dujiang.drill.workload.memory import Memory
from dujiang.kernel.tasks import Tasks, all_of

if TYPE_CHECKING:
    import asyncio

    from dujiang.drill.real.stage import Stage
    from dujiang.drill.workload.request import Request
    from dujiang.drill.workload.workload import Workload
    from dujiang.kernel.entropy import Entropy
    from dujiang.testing.harness import Response

# Longer than a request may take: who leaves before would load the application with work that nobody waits for.
ANSWER_S = 35.0
WAIT_FIRST_S, WAIT_S_MAX = 0.05, 1.0
PATIENCE_S = 300.0
READS, TWICE, FOREIGN_KEY = 0.20, 0.30, 0.35
# Answers after which the same call is sent again: later, an inner error, and a request that a frozen process read too late.
AGAIN = (*LATER, 408, 500, 502, 504)
OPEN_MAX = 400
USED_KEYS = 200


@dataclass(eq=False)
class Call(Operation):
    """An operation against real processes; its times are seconds of the monotonic clock.

    Attributes:
        by: The process that gave the final answer.
        form: `new`, `read`, `twice`, `foreign key`.
        failed_tries: Tries that got no answer, or one that says "later".
    """

    by: str = ""
    form: str = "new"
    failed_tries: int = 0


class Load:
    """The clients.

    Args:
        stage: Where they call.
        workload: What they call.
        entropy: Their choices.
        rate: Calls a second, on the average.

    Attributes:
        calls: All of them, in the order in which they began.
        open: Requests that a process has not answered yet, by its name.
        turned_away: Calls that were not begun, for too many were open.
    """

    def __init__(self, stage: Stage, workload: Workload, entropy: Entropy, *, rate: float) -> None:
        self.stage = stage
        self.workload = workload
        self.calls: list[Call] = []
        self.open: Counter[str] = Counter()
        self.turned_away = 0
        self._entropy = entropy
        self._rate = rate
        self._memory = Memory()
        self._clock = stage.clock
        self._tasks = Tasks("load")
        self._running: asyncio.Task[None] | None = None
        self._https = {
            name: Http(process.port, within_s=ANSWER_S) for name, process in stage.processes.items() if process.answers
        }
        self._used: list[Call] = []

    # Running ----------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Learn what there is, then let the clients come."""
        for request in self.workload.openings():
            await self.call(request, form="read")
        self._running = self._tasks.spawn(self._arrive(), name="arrivals")

    async def end(self) -> None:
        """Let no more clients come; return when all have their answers, or have lost patience."""
        if self._running is not None:
            self._running.cancel()
        await self._tasks.wait_idle()

    async def close(self) -> None:
        """End at once."""
        await self._tasks.close()
        for http in self._https.values():
            await http.__aexit__(None, None, None)

    async def _arrive(self) -> None:
        due_s = self._clock.monotonic()
        while True:
            # Exponential gaps: the clients know nothing of each other.
            due_s += min(-log(1.0 - self._entropy.random()) / self._rate, 1.0)
            await self._clock.sleep(max(0.0, due_s - self._clock.monotonic()))
            if len(self._tasks) > OPEN_MAX:
                self.turned_away += 1
                continue
            self._tasks.spawn(self._one(), name="client")

    async def _one(self) -> None:
        kind = self._entropy.random()
        if kind < READS and (look := self.workload.reads(self._draw, self._memory)) is not None:
            await self.call(look, form="read")
            return
        flow = self.workload.pick(self._draw)
        while flow.method == RUN:  # `drills` says that there is another.
            flow = self.workload.pick(self._draw)
        request = self.workload.request(flow, self._draw, self._memory)
        if READS <= kind < TWICE:
            await self._twice(request)
        elif TWICE <= kind < FOREIGN_KEY and (used := self._same_flow(request)) is not None:
            await self.call(request, key=used.key, form="foreign key")
        else:
            await self.call(request)

    def _draw(self, _label: str, high: int) -> int:
        return self._entropy.below(high + 1)

    def _same_flow(self, request: Request) -> Call | None:
        """An answered call of the same flow, whose key this request will use though it asks for something else."""
        fit = [
            call
            for call in self._used
            if call.request.flow is request.flow
            and (call.request.path, call.request.body) != (request.path, request.body)
        ]
        return fit[self._entropy.below(len(fit))] if fit else None

    async def _twice(self, request: Request) -> None:
        """One request that arrives twice, at once or one after the other; the two are one operation."""
        call = self._new(request, "", "twice")
        if self._entropy.random() < 0.5:
            await all_of(self._pursue(call), self._pursue(call))
        else:
            await self._pursue(call)
            await self._pursue(call)

    # One call ---------------------------------------------------------------------------------------------------------

    async def call(self, request: Request, *, key: str = "", form: str = "new") -> Call:
        """One operation, until its answer is final or patience ends."""
        call = self._new(request, key, form)
        await self._pursue(call)
        return call

    def _new(self, request: Request, key: str, form: str) -> Call:
        number = len(self.calls)
        call = Call(f"client{number}", request, key or f"real-{number}", self._clock.monotonic(), form=form)
        self.calls.append(call)
        return call

    async def _pursue(self, call: Call) -> None:
        until_s, wait_s = self._clock.monotonic() + PATIENCE_S, WAIT_FIRST_S
        while self._clock.monotonic() < until_s:
            call.tries += 1
            name = self._place()
            try:
                answer = await self.send(name, call.request, call.key)
            except NoAnswer:
                call.failed_tries += 1
            else:
                call.produced.append(answer)
                if answer.status not in AGAIN and not in_flight(answer):
                    self._settle(call, answer, name)
                    return
                call.failed_tries += 1
            await self._clock.sleep(wait_s * self._entropy.uniform(0.5, 1.0))
            wait_s = min(WAIT_S_MAX, wait_s * 2)

    def _settle(self, call: Call, answer: Response, name: str) -> None:
        call.final, call.final_at_s, call.by = answer, self._clock.monotonic(), name
        if call.form == "foreign key":
            return
        self.workload.answered(self._memory, call.request, answer.status, body_of(answer))
        if call.request.flow.writes and call.request.flow.takes_key and 200 <= answer.status < 300:
            self._used = [*self._used[-USED_KEYS:], call]

    def _place(self) -> str:
        """The process that a client meets: any that answered its health check, as behind a balancer."""
        names = [name for name in self._https if self.stage.processes[name].ready] or list(self._https)
        return names[self._entropy.below(len(names))]

    @property
    def doors(self) -> list[str]:
        """The processes that can be called."""
        return list(self._https)

    async def send(self, name: str, request: Request, key: str) -> Response:
        """One try at one process. Raises NoAnswer."""
        headers = dict(request.headers)
        if request.flow.writes:
            headers["idempotency-key"] = key
        if request.flow.operator:
            headers["authorization"] = f"Bearer {self.stage.processes[name].token}"
        self.open[name] += 1
        try:
            return await self._https[name].send(request.method, request.path, request.body, headers)
        finally:
            self.open[name] -= 1

    @property
    def drills(self) -> bool:
        """Whether there is anything to call; operations without a path are not reached over HTTP."""
        return any(flow.method != RUN for flow in self.workload.flows)
