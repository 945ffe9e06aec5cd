"""Network: how clients reach the machines: requests and replies travel, get lost, come twice, or find nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from dujiang.drill.versions import verb_in
from dujiang.drill.workload.contract import RUN
from dujiang.gateway.problems import problem
from dujiang.kernel.errors import DujiangError
from dujiang.testing.harness import OPERATOR_TOKEN, Response, exchanged

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from dujiang.app.runtime import Runtime
    from dujiang.drill.clients import Operation
    from dujiang.drill.machine import Machine
    from dujiang.drill.workload.request import Request
    from dujiang.drill.world import World

# How long a client waits for an answer before it asks elsewhere: a patient one, and one of a crowd.
ANSWER_WITHIN_S, CROWD_WITHIN_S = 35.0, 2.0


class NoAnswer(ConnectionError):
    """The client got no answer: the request or the reply was lost, or the machine died."""


class Network:
    """The way of clients to the machines of a world.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.twice = False  # Every request comes twice, for the twin run.
        self._served = 0

    @property
    def expected_deaths(self) -> Collection[str]:
        """The codes of refusals that the application declares."""
        return self._world.expected_deaths

    async def pause(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self._world.loop.pause(seconds)

    def gateways(self) -> list[Machine]:
        """The machines that take requests now."""
        found = [m for name, m in self._world.machines.items() if name.startswith("api") and m.ready]
        return found or [m for m in self._world.machines.values() if m.ready]

    async def exchange(self, place: int, request: Request, headers: dict[str, str], operation: Operation) -> Response:
        """One request of a client over the network. Raises NoAnswer."""
        await self._world.loop.pause(self._world.tape.delay("net.request"))
        if self._drawn("lost.request"):
            raise NoAnswer("the request was lost")
        ready = self.gateways()
        if not ready:
            raise NoAnswer("no machine takes requests")
        machine = ready[place % len(ready)]
        if request.flow.operator:
            headers = {**headers, "authorization": f"Bearer {OPERATOR_TOKEN}"}
        answered: asyncio.Future[Response] = self._world.loop.create_future()
        machine.requests[answered] = None
        copies = 2 if self.twice or self._drawn("twice.request") else 1
        for copy in range(copies):
            # A doubled request meets another machine, if there is one: in one process the second simply waits.
            at = ready[(place + copy) % len(ready)]
            serve = self._serve(at, answered, request, headers, operation)
            self._world.tasks.spawn(serve, name="request", context=at.context.copy())
        patience_s = CROWD_WITHIN_S if self._world.tape.plan.crowd else ANSWER_WITHIN_S
        timer = self._world.loop.call_later(patience_s, give_up, answered, patience_s)
        try:
            answer = await answered
        except ConnectionResetError as error:
            raise NoAnswer(str(error)) from None
        finally:
            timer.cancel()
            machine.requests.pop(answered, None)
        await self._world.loop.pause(self._world.tape.delay("net.reply"))
        if self._drawn("lost.reply"):
            raise NoAnswer("the reply was lost")
        return answer

    def _drawn(self, label: str) -> int:
        value = self._world.tape.draw(label)
        if value:
            self._world.fault(None, label, value)
        return value

    async def _serve(
        self,
        machine: Machine,
        answered: asyncio.Future[Response],
        request: Request,
        headers: dict[str, str],
        operation: Operation,
    ) -> None:
        assert machine.runtime is not None
        number = self._served = self._served + 1
        self._world.mark("takes", f"{number} {machine.name} {operation.says}")
        try:
            if request.method == RUN:
                answer = await ran(machine.runtime, request, operation.key)
            else:
                answer = await exchanged(
                    machine.runtime.asgi, request.method, request.path, request.body or b"", headers
                )
        except Exception as error:  # noqa: BLE001  (a real server would answer 500 and log it)
            self._world.crashes.append(f"{machine.name}: {operation.says}: {error!r}")
            answer = Response(500, {}, b"")
        operation.produced.append(answer)
        operation.answered_by = machine
        self._world.note(f"{machine.name} answers", f"{operation.says} {answer.status}")
        self._world.mark("done", f"{number} {answer.status}")
        if not answered.done():
            answered.set_result(answer)

    async def run_on_any(self, verb: Any, args: Any, values: Any, key: str | None) -> Any:
        """Run an operation on one of the machines, as `App.run`."""
        ready = self.gateways()
        if not ready or ready[0].runtime is None:
            raise NoAnswer("no machine takes requests")
        machine = ready[0]
        assert machine.runtime is not None
        answered: asyncio.Future[Any] = self._world.loop.create_future()
        machine.requests[answered] = None

        async def run(runtime: Runtime) -> None:
            try:
                value = await runtime.run(verb_in(runtime, verb), args, values, key)
            except Exception as error:  # noqa: BLE001  (the workload's to see)
                if not answered.done():
                    answered.set_exception(error)
            else:
                if not answered.done():
                    answered.set_result(value)

        self._world.tasks.spawn(run(machine.runtime), name="operation", context=machine.context.copy())
        try:
            return await answered
        finally:
            machine.requests.pop(answered, None)


async def ran(runtime: Runtime, request: Request, key: str) -> Response:
    """Run an operation that has no path, and make an answer of what came of it."""
    verb = verb_in(runtime, request.flow.verb)
    try:
        value = await runtime.run(verb, (), request.arguments(), key if request.flow.writes else None)
    except DujiangError as error:
        made = problem(error)
        return Response(made.status, {name.decode(): text.decode() for name, text in made.headers}, made.body)
    return Response(200, {}, to_json(value, fallback=str))


def give_up(answered: asyncio.Future[Response], waited_s: float) -> None:
    """The client waits no longer."""
    if not answered.done():
        answered.set_exception(NoAnswer(f"no answer within {waited_s:.0f} s"))
