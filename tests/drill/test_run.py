"""A run follows from its seed, in this process and in any other; machines die, come back, and are missed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from dujiang.drill.clients import Operation
from dujiang.drill.memories import Place
from dujiang.drill.network import NoAnswer
from dujiang.drill.search import tried
from dujiang.drill.workload.contract import Flow
from dujiang.drill.workload.request import Request
from dujiang.drill.world import World
from tests.drill import apps
from tests.drill.drilled import STORM, living, standing, workload

SHOP = """
from dujiang.drill.drilling import quiet
from dujiang.drill.escape import sealed
from dujiang.drill.run import Scenario
from dujiang.drill.search import Search
from dujiang.drill.template import cluster_of
from dujiang.drill.workload import Workload
from dujiang.systems.shop import app
with quiet(), sealed():
    search = Search(cluster_of(app), Workload(app), width=1)
    search.random(Scenario(clients=2, operations=2, faults_s=2.0), budget_s=0.0, seeds=5)
print(sorted(search.found.digests.items()), search.found.failed)
"""


def adding(number: int = 1) -> tuple[Request, Operation]:
    """A request that adds to a pot."""
    flow = Flow(name="tally.make_entry", verb=None, method="POST", path="/entries", writes=True)
    body = f'{{"pot": "a", "amount": {number}}}'.encode()
    headers = {"content-type": "application/json", "idempotency-key": f"k{number}"}
    request = Request(method="POST", path="/entries", headers=headers, body=body, flow=flow)
    return request, Operation("client", request, f"k{number}", 0.0)


def asking(world: World, place: int = 0, number: int = 1) -> Any:
    """Send it to one of the machines."""
    request, operation = adding(number)
    return world.network.exchange(place, request, dict(request.headers), operation)


class TestDigests:
    def test_a_seed_does_the_same_twice(self) -> None:
        """The same history, to the last event; tracing changes nothing; another seed has another history."""
        with standing() as cluster:
            first = tried(cluster, workload(), STORM, "3")
            again = tried(cluster, workload(), STORM, "3", tracing=True)
            other = tried(cluster, workload(), STORM, "4")

        assert (first.digest, first.steps, first.faults and len(first.faults)) == (
            again.digest,
            again.steps,
            again.faults and len(again.faults),
        )
        assert first.digest != other.digest
        assert first.steps > 500

    def test_what_was_kept_is_replayed(self) -> None:
        """A replay of all deviations of a run is the run."""
        with standing() as cluster:
            first = tried(cluster, workload(), STORM, "5")
            again = tried(cluster, workload(), STORM, "5", keep=first.deviations)

        assert first.deviations
        assert again.deviations == first.deviations
        assert again.digest == first.digest

    def test_processes_with_other_hashes_do_the_same(self) -> None:
        """Five seeds of the shop have one history each, whatever the order of sets of texts is."""
        found = []
        for seed in ("1", "2"):
            command = [sys.executable, "-c", SHOP]
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            found.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        said = [process.communicate()[0] for process in found]

        assert said[0] == said[1]
        assert said[0].count("', '") == 5
        assert "Counter()" in said[0]


class TestMachines:
    def test_a_killed_machine_comes_back_as_another(self) -> None:
        """With the name and the data, and with nothing of its memory; calls that it served get no answer."""
        with standing() as cluster, living(cluster, tracing=True) as world:
            first = world.machines["api1"]

            async def kill_while_serving() -> None:
                task = world.tasks.spawn(asking(world), name="ask")
                while not first.requests:
                    await world.loop.pause(0.0001)
                world.kill(first, again_s=1.0)
                with pytest.raises(NoAnswer, match="reset"):
                    await task
                assert first not in world.network.gateways()
                await world.loop.pause(5.0)

            world.loop.run_until_complete(kill_while_serving())
            second = world.machines["api1"]

            assert (first.dead, second.dead, second.ready) == (True, False, True)
            assert (first.incarnation, second.incarnation) == (0, 1)
            assert second in world.network.gateways()
            assert (world.kills, world.kills_in_flight) == (1, 1)
            assert world.loop.run_until_complete(asking(world)).status == 201

    def test_nobody_is_there_to_answer(self) -> None:
        """With every machine dead a call finds nobody."""
        with standing() as cluster, living(cluster) as world:
            for machine in list(world.machines.values()):
                world.kill(machine, again_s=25.0)

            with pytest.raises(NoAnswer, match="no machine takes requests"):
                world.loop.run_until_complete(asking(world))
            world.loop.run_until_complete(world.loop.pause(40.0))
            assert world.loop.run_until_complete(asking(world)).status == 201

    def test_a_machine_that_stands_still_answers_late(self) -> None:
        """Its timers wait with it."""
        with standing() as cluster, living(cluster) as world:
            began = world.loop.now
            world.pause(world.network.gateways()[0], 3.0)

            assert world.loop.run_until_complete(asking(world)).status == 201
            assert 3.0 < world.loop.now - began < 4.0

    def test_a_transaction_on_a_machine_that_stands_still_holds_nothing_too_long(self) -> None:
        """The time in which a machine stands still is not the app's, whenever in its transaction that happens."""
        with standing(add=apps.nap_inside) as cluster, living(cluster) as world:
            machine = world.network.gateways()[0]

            async def pause_in_the_middle() -> None:
                task = world.tasks.spawn(asking(world), name="ask")
                await world.loop.pause(0.5)
                assert world.store.owned_by(machine)
                world.pause(machine, 3.0)
                assert (await task).status == 201

            world.loop.run_until_complete(pause_in_the_middle())
            assert world.loop.now > 3.0
            assert world.held == []

    def test_a_graceful_stop_answers_first(self) -> None:
        """A machine that is told to stop takes no new request, answers the one it has, and starts again."""
        with standing() as cluster, living(cluster) as world:
            machine = world.network.gateways()[0]

            async def stop_while_serving() -> Any:
                task = world.tasks.spawn(asking(world), name="ask")
                while not machine.requests:
                    await world.loop.pause(0.0001)
                await world.terminate(machine)
                assert machine.dead
                await world.loop.pause(5.0)
                return await task

            assert world.loop.run_until_complete(stop_while_serving()).status == 201
            assert world.machines[machine.name].incarnation == 1

    def test_a_lease_that_is_lost_while_a_machine_stops_surprises_nobody(self) -> None:
        """A drill found it (seed 36 of any app): the consumers were closed, and one more task was started in them."""
        with standing() as cluster, living(cluster) as world:
            runtime = world.machines["worker1"].runtime
            assert runtime is not None
            (consumer,) = runtime.consumers

            async def stop_and_lose() -> None:
                await consumer.stop()
                consumer.cancel_running()

            world.loop.run_until_complete(world.on_any(lambda _: stop_and_lose(), "stop"))
            assert world.crashes == []


class TestNetwork:
    def test_a_doubled_request_meets_two_machines_and_does_one_thing(self) -> None:
        """Both serve it, both give the same answer, and there is one entry."""
        with standing() as cluster, living(cluster, tracing=True) as world:
            world.network.twice = True
            request, operation = adding()
            answer = world.loop.run_until_complete(world.network.exchange(0, request, dict(request.headers), operation))
            world.loop.run_until_complete(world.settled(60.0))
            names = {kind.split()[0] for _, kind, _ in world.trace if kind.endswith(" answers")}
            rows = world.store.rows("SELECT held, events FROM tally_pot WHERE name = 'a'")

        assert len(names) == 2
        assert answer.status == 201
        assert len(operation.produced) == 2
        assert rows == [(1, 1)]

    def test_a_lost_reply_was_done(self) -> None:
        """The client hears nothing, the entry is there, and the next try with the key gets the stored answer."""
        with standing() as cluster, living(cluster) as world:
            world.tape.keep, world.tape.on = {("lost.reply", 0): 1}, True
            with pytest.raises(NoAnswer, match="the reply was lost"):
                world.loop.run_until_complete(asking(world))
            assert world.store.rows("SELECT count(*) FROM tally_entry") == [(1,)]
            again = world.loop.run_until_complete(asking(world))

            assert again.status == 201
            assert again.headers["idempotent-replayed"] == "true"
            assert world.store.rows("SELECT count(*) FROM tally_entry") == [(1,)]
            assert [fault.label for fault in world.faults] == ["lost.reply"]

    def test_a_lost_request_was_not_done(self) -> None:
        """Nothing happened, and nobody was reached."""
        with standing() as cluster, living(cluster) as world:
            world.tape.keep, world.tape.on = {("lost.request", 0): 1}, True
            with pytest.raises(NoAnswer, match="the request was lost"):
                world.loop.run_until_complete(asking(world))

            assert world.store.rows("SELECT count(*) FROM tally_entry") == [(0,)]


class TestMemories:
    def test_every_machine_has_its_own_globals_and_loses_them(self) -> None:
        """Two machines count apart; the one that died begins again from what was there at the start."""

        def place_of(world: World, name: str) -> int:
            gateways = world.network.gateways()
            return next(place for place, machine in enumerate(gateways) if machine.name == name)

        def held(world: World, name: str, number: int) -> int:
            world.loop.run_until_complete(asking(world, place_of(world, name), number))
            return int(world.store.rows("SELECT held FROM tally_pot WHERE name = 'a'")[0][0])

        places = (Place("tests.drill.apps", "KEPT"),)
        with standing(add=apps.count_in_memory) as cluster, living(replace(cluster, places=places)) as world:
            assert held(world, "api1", 2) == 2
            assert held(world, "api2", 1) == 1
            assert held(world, "api1", 3) == 5
            world.kill(world.machines["api1"], again_s=0.2)
            world.loop.run_until_complete(world.loop.pause(5.0))
            assert held(world, "api1", 4) == 4
            assert held(world, "api2", 5) == 6
        assert apps.KEPT.count == 0
