"""The shop under its generated workload, through the whole gateway: no test code names a route or a body."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dujiang import App, Module, Refusal, Tx
from dujiang.drill.workload import Memory, Request, Workload
from dujiang.systems.shop import app as shop
from dujiang.testing.harness import OPERATOR_TOKEN, Response, World, running
from tests.unit.drill.workload.apps import chance, zero


async def send(world: World, request: Request) -> Response:
    """Send a request as it stands, with the operator's token where it is needed."""
    headers = dict(request.headers)
    if request.flow.operator:
        headers["authorization"] = f"Bearer {OPERATOR_TOKEN}"
    return await world.request(request.method, request.path, request.body, headers=headers)


async def told(world: World, made: Workload, memory: Memory, request: Request) -> int:
    """Send a request, learn from its answer, and say its status."""
    answer = await send(world, request)
    body: Any = answer.json if answer.body else None
    made.answered(memory, request, answer.status, body)
    return answer.status


class TestShop:
    async def test_two_hundred_requests_exercise_every_flow(self) -> None:
        """At least 60 % succeed, none fails with a 5xx, orders are read back, and every law holds."""
        made, memory, draw = Workload(shop), Memory(), chance(11)
        statuses: Counter[int] = Counter()
        read: Counter[tuple[str, int]] = Counter()
        async with running(shop) as world:
            for number in range(200):
                request = made.reads(draw, memory) if number % 3 == 2 else None
                request = request or made.request(made.pick(draw), draw, memory)
                status = await told(world, made, memory, request)
                statuses[status] += 1
                if not request.flow.writes:
                    read[request.flow.name, status] += 1
            await world.settle()
            violations = await world.violations()

        assert made.coverage.not_exercised() == []
        assert sum(count for status, count in statuses.items() if 200 <= status < 300) >= 120, statuses
        assert not [status for status in statuses if status >= 500]
        assert read["shop.read_order", 200] > 10
        assert violations == []

    async def test_the_simplest_draws_place_an_order_and_read_it(self, workload_of_shop: Workload) -> None:
        """With nothing but zeros the first write succeeds, and the first read finds what it wrote."""
        memory = Memory()
        async with running(shop) as world:
            placed = workload_of_shop.request(workload_of_shop.pick(zero), zero, memory)
            answer = await send(world, placed)
            memory.learn(placed.flow, answer.status, answer.json, placed)
            look = workload_of_shop.reads(zero, memory)
            assert look is not None
            seen = await send(world, look)

        assert answer.status == 201
        assert look.path == f"/api/v1/orders/{answer.json['order_id']}"
        assert seen.status == 200


class TestOperations:
    async def test_an_operation_runs_with_generated_arguments(self) -> None:
        """A flow without a path is run by the runtime; a refusal counts by its code."""
        module = Module("m")
        seen: list[int] = []

        @module.write()
        async def count(tx: Tx, quarter: int) -> int:
            seen.append(quarter)
            if quarter < 0:
                raise Refusal("it lies in the past")
            return quarter

        app = App(modules=[module])
        made, memory, draw = Workload(app), Memory(), chance(3)
        async with running(app) as world:
            for _ in range(40):
                request = made.request(made.pick(draw), draw, memory)
                try:
                    value = await world.run(request.flow.verb, **request.arguments())
                except Refusal as refusal:
                    body = {"code": refusal.code, "detail": refusal.detail}
                    made.answered(memory, request, refusal.http_status(), body)
                else:
                    made.answered(memory, request, 200, value)

        statuses = made.coverage.statuses["m.count"]
        assert len(seen) == 40
        assert statuses[409] == sum(quarter < 0 for quarter in seen)
        assert statuses[200] > statuses[409] > 0
