"""AP and CP, verb by verb: what a write says while the broker is there, away, silent, or stopped by an alarm.

On a quiet model of RabbitMQ, and, as proof, on a real one behind a proxy that cuts and swallows.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dujiang import App, Event, Model, Module, Runtime, Tx, key
from dujiang.backends.rabbitmq.simulated.broker import NAME
from dujiang.backends.rabbitmq.simulated.model import RabbitModel
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.entropy import SystemEntropy
from dujiang.kernel.errors import Declared
from dujiang.kernel.node import Node
from dujiang.kernel.tasks import Threads
from dujiang.messaging import standing as subject
from dujiang.settings import Settings
from dujiang.testing.harness import World
from dujiang.testing.proxy import Proxy
from dujiang.testing.rabbit import RabbitServer
from tests.conformance.test_broker_model import Quiet

SILENT_S = 3.0


class Note(Model):
    """A note."""

    text: str


class Noted(Event):
    """A note was taken."""

    text: str = key()


def app_of(heard: list[str]) -> App:
    """Two writes, one AP and one CP, and a reaction that remembers what it heard."""
    desk = Module("desk")

    @desk.write("POST /notes")
    async def take(tx: Tx, body: Note) -> Note:
        tx.publish(Noted(text=body.text))
        return body

    @desk.write("POST /sealed", requires=("broker",))
    async def seal(tx: Tx, body: Note) -> Note:
        tx.publish(Noted(text=body.text))
        return body

    @desk.react(Noted, ordered=True)
    async def hear(tx: Tx, event: Noted) -> None:
        heard.append(event.text)

    return App(modules=[desk])


@asynccontextmanager
async def playing(folder: Path, broker: str, app: App, simulation: Any = None, **options: Any) -> AsyncIterator[World]:
    """A running copy on the embedded store."""
    node = Node(name="required", clock=SystemClock(), entropy=SystemEntropy(), simulation=simulation)
    settings = Settings(database=f"sqlite:///{folder}/app.db", data=folder, broker=broker)
    async with Runtime(app, settings, node, **options) as runtime:
        yield World(runtime)


async def until(holds: Any) -> None:
    """Return once something holds, asked for at most 15 s."""
    clock = SystemClock()
    limit = clock.monotonic() + 15.0
    while not await holds():
        assert clock.monotonic() < limit, "it did not come to hold"
        await clock.sleep(0.01)


async def standing(world: World) -> tuple[int, dict[str, Any], dict[str, float]]:
    """The status of /health/ready, its line on the broker, and the broker's metrics without their prefix."""
    ready = await world.get("/health/ready")
    lines = (await world.get("/metrics")).body.decode().splitlines()
    metrics = dict(line.removeprefix("dujiang_broker_").split() for line in lines if line.startswith("dujiang_broker_"))
    return ready.status, ready.json["checks"].get("broker", {}), {name: float(value) for name, value in metrics.items()}


async def sealed(world: World, text: str) -> Any:
    """One CP write."""
    return await world.post("/sealed", {"text": text})


async def accepts(world: World, text: str) -> bool:
    """Whether a CP write is accepted."""
    return bool((await sealed(world, text)).status == 201)


async def degraded(world: World, code: str = "broker_unreachable") -> tuple[int, dict[str, Any], dict[str, float]]:
    """How the broker stands, once health has noticed; it keeps what it found for half a second."""
    found: list[tuple[int, dict[str, Any], dict[str, float]]] = []

    async def noticed() -> bool:
        found.append(await standing(world))
        return found[-1][1].get("code") == code

    await until(noticed)
    return found[-1]


class TestOnTheModel:
    async def test_away_a_cp_write_is_refused_and_an_ap_write_accepted(self, tmp_path: Path) -> None:
        """While the broker is away: AP 201, CP 503 with Retry-After, ready with the broker degraded, since = 0.

        Back again, both are accepted and every accepted event is handled once, in order.
        """
        quiet, heard = Quiet(), list[str]()
        model = quiet.shared(NAME, RabbitModel)
        async with playing(tmp_path, "simulated:", app_of(heard), quiet) as world:
            there = (await sealed(world, "a")).status
            up = await standing(world)
            model.away = True
            model.restart()
            refused, accepted = await sealed(world, "lost"), await world.post("/notes", {"text": "b"})
            down = await degraded(world)
            model.away = False
            await until(lambda: accepts(world, "c"))
            await world.settle()

        assert (there, accepted.status, refused.status) == (201, 201, 503)
        assert (refused.headers["retry-after"], refused.json["code"]) == ("1", "broker_unreachable")
        assert (up[0], up[1]) == (200, {"status": "ok"})
        assert up[2]["connected_since_seconds"] > 1e9
        assert (down[0], down[1]) == (200, {"status": "degraded", "code": "broker_unreachable"})
        assert down[2] == {**down[2], "connected_since_seconds": 0.0, "blocked": 0.0, "unconfirmed": 0.0}
        assert heard == ["a", "b", "c"]

    async def test_a_lost_confirm_is_counted(self, tmp_path: Path) -> None:
        """A publish without a confirm is one failure; its messages are not unconfirmed for ever."""
        quiet, heard = Quiet(), list[str]()
        quiet.faults["rabbit.confirm_lost"] = [1]
        async with playing(tmp_path, "simulated:", app_of(heard), quiet) as world:
            await world.post("/notes", {"text": "a"})
            await world.settle()
            _, _, metrics = await standing(world)

        assert metrics["publish_failures_total"] >= 1
        assert metrics["unconfirmed"] == 0
        assert heard == ["a"]

    async def test_a_gateway_connects_only_for_a_write_that_asks(self, tmp_path: Path) -> None:
        """A process that only answers speaks to the broker if one of its writes requires it, and otherwise not at all."""
        quiet, plain = Quiet(), Module("plain")

        @plain.write("POST /notes")
        async def take(tx: Tx, body: Note) -> Note:
            return body

        connected: list[tuple[int, dict[str, Any]]] = []
        for app in (app_of([]), App(modules=[plain])):
            folder = tmp_path / str(len(connected))
            folder.mkdir()
            async with playing(folder, "simulated:", app, quiet, roles=("gateway",)) as world:
                connected.append((len(quiet.shared(NAME, RabbitModel).links), (await standing(world))[1]))

        assert connected == [(1, {"status": "ok"}), (0, {})]

    async def test_a_broker_in_the_database_is_there_when_that_is(self, tmp_path: Path) -> None:
        """On `database:` a CP write needs nothing more, and health has no second line for the same thing."""
        async with playing(tmp_path, "database:", app_of([])) as world:
            assert (await sealed(world, "a")).status == 201
            assert (await standing(world))[1:] == ({}, {})

    async def test_it_is_documented_and_checked(self, tmp_path: Path) -> None:
        """OpenAPI lists the 503 of a CP write alone; requiring what does not exist is refused where it is declared."""
        async with playing(tmp_path, "database:", app_of([])) as world:
            paths = (await world.get("/openapi.json")).json["paths"]

        found = {path: json.dumps(paths[path]["post"]["responses"]["503"]) for path in ("/notes", "/sealed")}
        assert ["broker_unreachable" in found[path] for path in ("/notes", "/sealed")] == [False, True]
        assert "Retry-After" in found["/sealed"]

        async def take(tx: Tx, body: Note) -> Note:
            return body

        for wrong in (("brokr",), "broker"):
            with pytest.raises(Declared, match="requires="):
                Module("wrong").write("POST /x", requires=wrong)(take)


@pytest.mark.proof
class TestOnRabbit:
    async def test_silent_and_alarmed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A network that swallows and a memory alarm refuse a CP write within seconds, by their codes; AP goes on.

        Method: a proxy that holds what the server says; then the server is started again with no memory to spare.
        """
        monkeypatch.setattr(subject, "FRESH_S", 0.0)
        heard: list[str] = []
        threads = Threads(1, name="server")
        with RabbitServer() as server:
            async with (
                Proxy("127.0.0.1", server.port) as proxy,
                playing(tmp_path, server.url("required", port=proxy.port), app_of(heard)) as world,
            ):
                clock = SystemClock()
                assert (await sealed(world, "a")).status == 201
                await proxy.become("hang")
                began = clock.monotonic()
                silent, accepted = await sealed(world, "lost"), await world.post("/notes", {"text": "b"})
                took_s = clock.monotonic() - began
                health = await degraded(world)
                await proxy.become("ok")

                await until(lambda: accepts(world, "c"))
                await world.settle()
                assert server.folder is not None
                with (server.folder / "rabbit.conf").open("a") as conf:
                    conf.write("vm_memory_high_watermark.absolute = 1MB\n")
                await threads.run(server.stop)  # A node that is killed when it is seconds old may lose its queues.
                await threads.run(server.start)
                blocked = await degraded(world, "broker_blocked")
                alarmed = await sealed(world, "lost too")
                beside = await world.post("/notes", {"text": "d"})
        threads.close()

        assert (silent.status, silent.json["code"], accepted.status) == (503, "broker_unreachable", 201)
        assert took_s < SILENT_S
        assert health[:2] == (200, {"status": "degraded", "code": "broker_unreachable"})
        assert (alarmed.status, alarmed.json["code"]) == (503, "broker_blocked")
        assert blocked[:2] == (200, {"status": "degraded", "code": "broker_blocked"})
        assert blocked[2]["blocked"] == 1.0
        assert beside.status == 201
        assert heard == ["a", "b", "c"]
