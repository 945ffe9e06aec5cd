"""Clients: who calls the app in a drill, each call with a key and retried until it is answered, and what they were told.

A client does what a careful one does: the same key with every retry, a wait that grows, patience while the system is
being healed. What it was told is the history that the checks judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dujiang.drill.network import NoAnswer
from dujiang.drill.workload.contract import RUN, Flow
from dujiang.drill.workload.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dujiang.drill.machine import Machine
    from dujiang.drill.workload.memory import Memory
    from dujiang.drill.workload.workload import Workload
    from dujiang.drill.world import World
    from dujiang.testing.harness import Response

T = TypeVar("T")

TRIES_MAX = 60
WAIT_S_MAX = 2.0
CALM_S = 60.0
# Clients of a crowd begin their calls together, at whole multiples of this.
WAVE_S = 2.5
FOLLOWS = 3  # Of so many and one calls in a wave, all but one ask for the same.
# Answers that say "later": the client asks again with the same key.
LATER = (429, 503)


@dataclass(eq=False)
class Operation:
    """One call of one client, with all its retries.

    Attributes:
        client: Whose.
        request: What was asked.
        key: Its Idempotency-Key.
        at_s: When it was first sent, virtual seconds.
        produced: Every answer that a machine gave to any try, whether or not it arrived.
        final: The answer that the client took for final, or None when it never got one.
        final_at_s: When it arrived.
        answered_by: The machine that answered last.
        tries: How often it was sent.
    """

    client: str
    request: Request
    key: str
    at_s: float
    produced: list[Response] = field(default_factory=list)
    final: Response | None = None
    final_at_s: float = 0.0
    answered_by: Machine | None = None
    tries: int = 0

    @property
    def says(self) -> str:
        """Named in stories."""
        return f"{self.request.method} {self.request.path}"


class Clients:
    """All clients of a run.

    Args:
        world: Where they call.
        workload: What they call.
        memory: What they know; they share it.
    """

    def __init__(self, world: World, workload: Workload, memory: Memory) -> None:
        self.world = world
        self.workload = workload
        self.memory = memory
        self.operations: list[Operation] = []
        self._places = 0

    def __repr__(self) -> str:
        return f"<Clients: {len(self.operations)} operations>"

    async def call(self, client: str, request: Request, key: str = "") -> Operation:
        """Do one operation: send it until an answer is final, or until patience ends."""
        loop = self.world.loop
        operation = Operation(client, request, key or f"{client}-{len(self.operations)}", loop.now)
        self.operations.append(operation)
        number = len(self.operations)
        self.world.mark("asks", f"{number} {client} {operation.says}")
        headers = {**request.headers}
        if request.flow.writes and request.method != RUN:
            headers["idempotency-key"] = operation.key
        place, wait_s = self._place(), 0.05
        for _ in range(TRIES_MAX):
            operation.tries += 1
            try:
                answer = await self.world.network.exchange(place, request, headers, operation)
            except NoAnswer as why:
                self.world.note(f"{client} no answer", str(why))
                place = self._place()  # Another machine may do better.
            else:
                if answer.status not in LATER and not in_flight(answer):
                    operation.final, operation.final_at_s = answer, loop.now
                    self.world.note(f"{client} got", f"{operation.says} {answer.status}")
                    self._learn(operation)
                    self.world.reads.note(request)
                    break
            await loop.pause(wait_s)
            wait_s = min(WAIT_S_MAX, wait_s * 2)
        self.world.mark("told", f"{number} {'-' if operation.final is None else operation.final.status}")
        return operation

    def _place(self) -> int:
        self._places += 1
        return self._places

    def _learn(self, operation: Operation) -> None:
        answer = operation.final
        assert answer is not None
        self.memory.learn(operation.request.flow, answer.status, body_of(answer), operation.request)

    async def client(self, name: str, operations: int) -> None:
        """One generated client: so many operations, with reads between them."""
        pick, crowd = self.world.tape.pick, self.world.tape.plan.crowd
        for number in range(operations if self.workload.flows else 0):  # An app may live by the clock alone.
            if crowd:
                await self.world.loop.pause(WAVE_S - self.world.loop.now % WAVE_S)
            choose, whose = pick, name
            if crowd and pick(f"{name}.follows", FOLLOWS):
                choose, whose = self.world.tape.same, f"wave{number}"
            flow = self.workload.pick(lambda label, high: choose(f"{whose}.{label}", high))  # noqa: B023  (called here)
            request = self.workload.request(flow, lambda label, high: choose(f"{whose}.{label}", high), self.memory)  # noqa: B023
            written = await self.call(name, request)
            await self._reread(written, lambda label, high: pick(f"{name}.{label}", high))
            if pick(f"{name}.looks", 2) == 0:
                look = self.workload.reads(lambda label, high: pick(f"{name}.{label}", high), self.memory)
                if look is not None:
                    await self.call(name, look)
            await self.world.loop.pause(self.world.tape.delay(f"think.{name}") * 40)

    async def _reread(self, operation: Operation, draw: Callable[[str, int], int]) -> None:
        """Who has the answer of a write asks for what is kept; see reads.py."""
        if operation.final is not None and operation.final.status < 300 and not self.world.network.twice:
            look = self.workload.reads(draw, self.memory, kept=True)
            if look is not None:
                await self.world.reads.own_write(operation, look)

    async def each_flow(self, name: str) -> None:
        """The calm script: every flow alone, then twice at the same moment, then as one request that arrives twice."""
        world = self.world

        def request(flow: Flow) -> Request:
            return self.workload.request(flow, lambda _label, _high: 0, self.memory)

        for flow in self.workload.flows:
            await self._reread(await self.call(name, request(flow)), lambda _label, _high: 0)
            await world.settled(CALM_S)
        for flow in self.workload.flows:
            pair = [world.tasks.spawn(self.call(f"{name}{n}", request(flow)), name=f"{name}{n}") for n in (1, 2)]
            while not all(task.done() for task in pair):
                await world.loop.pause(0.01)
            await world.settled(CALM_S)
        for flow in self.workload.flows:
            world.network.twice = True
            await self.call(name, request(flow))
            world.network.twice = False
            await world.settled(CALM_S)
        look = self.workload.reads(lambda _label, _high: 0, self.memory)
        if look is not None:
            await self.call(name, look)


class DeclaredClient:
    """What a function with `@module.workload` gets; see gateway/client.py.

    Args:
        clients: The clients of the run.
        name: Its own.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self._name = name

    async def _send(
        self, method: str, path: str, body: Any, key: str | None, headers: Mapping[str, str] | None
    ) -> DeclaredReply:
        raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {**({"content-type": "application/json"} if raw is not None else {}), **(headers or {})}
        flow = self._clients.workload.flow_at(method, path) or Flow(
            name=f"{self._name} {method} {path}", verb=None, method=method, path=path, writes=method != "GET"
        )
        request = Request(method=method, path=path, headers=given, body=raw, flow=flow)
        operation = await self._clients.call(self._name, request, key or "")
        return DeclaredReply(operation.final)

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> DeclaredReply:
        """GET."""
        return await self._send("GET", path, None, None, headers)

    async def post(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> DeclaredReply:
        """POST a JSON value, or bytes as they are."""
        return await self._send("POST", path, body, key, headers)

    async def put(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> DeclaredReply:
        """PUT a JSON value."""
        return await self._send("PUT", path, body, key, headers)

    async def patch(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> DeclaredReply:
        """PATCH with a JSON value."""
        return await self._send("PATCH", path, body, key, headers)

    async def delete(
        self, path: str, body: Any = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> DeclaredReply:
        """DELETE."""
        return await self._send("DELETE", path, body, key, headers)

    async def run(self, verb: Any, *args: Any, key: str | None = None, **values: Any) -> Any:
        """Run a write or read on one of the machines."""
        return await self._clients.world.network.run_on_any(verb, args, values, key)

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._clients.world.tape.pick(f"{self._name}.random", (1 << 30) - 1) / (1 << 30)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self._clients.world.tape.pick(f"{self._name}.choice", len(options) - 1)]

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self._clients.world.loop.pause(seconds)


class DeclaredReply:
    """An answer; a lost one has the status 504."""

    def __init__(self, answer: Response | None) -> None:
        self.status = 504 if answer is None else answer.status
        self.headers = {} if answer is None else dict(answer.headers)
        self._answer = answer

    @property
    def json(self) -> Any:
        """The body as a JSON value; None when there is none."""
        return None if self._answer is None else body_of(self._answer)


def body_of(answer: Response) -> Any:
    """The JSON value of an answer's body; None when it is none."""
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def in_flight(answer: Response) -> bool:
    """Whether an answer says that another try with this key is still being worked on."""
    return answer.status == 409 and b'"in_flight"' in answer.body
