"""The simulated loop: what asyncio promises stays, and time, death and pauses are the simulation's."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dujiang.drill.loop import MACHINE, Runaway, SimulatedLoop, Stalled
from tests.drill.pins import PINS, holds

ORDER_OF_A_SET = """
import asyncio
from dujiang.drill.loop import SimulatedLoop

async def main():
    async def work(number): ...
    tasks = {asyncio.create_task(work(number), name=str(number)): number for number in range(60)}
    found = [tasks[task] for task in set(tasks)]
    done, _ = await asyncio.wait(tasks)
    futures = {loop.create_future(): number for number in range(60)}
    print(found, [tasks[task] for task in done], [futures[future] for future in set(futures)])

loop = SimulatedLoop(lambda _: 0.0)
loop.run_until_complete(main())
loop.close()
"""


class Computer(SimpleNamespace):
    """As much of a machine as the loop looks at."""

    def __init__(self) -> None:
        super().__init__(dead=False, mortal=True, paused_until=0.0, backlog=[])
        self.context = contextvars.copy_context()
        self.context.run(MACHINE.set, self)  # type: ignore[arg-type]

    def start(self, loop: SimulatedLoop, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine on this machine."""
        return loop.create_task(work, context=self.context.copy())


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    """A loop on which a call in a thread takes 3 s."""
    made = SimulatedLoop(lambda _: 3.0)
    yield made
    made.close()


class TestWhatItReliesOn:
    @pytest.mark.parametrize("pin", PINS, ids=[pin.__name__ for pin in PINS])
    def test_a_private_part_of_asyncio_is_as_it_was(self, pin: Callable[[Any], bool]) -> None:
        """This interpreter has what the head of drill/loop.py names; for another: `python3.x -m tests.drill.pins`."""
        assert holds(pin), pin.__doc__


class TestOrder:
    def test_ready_callbacks_run_first_in_first_out(self, loop: SimulatedLoop) -> None:
        """Also those that a callback adds while others wait."""
        seen: list[int] = []

        def first() -> None:
            seen.append(1)
            loop.call_soon(seen.append, 4)

        loop.call_soon(first)
        loop.call_soon(seen.append, 2)
        loop.call_soon(seen.append, 3)
        loop.call_later(0.0, seen.append, 0)

        loop.run_until_complete(loop.pause(1.0))

        assert [number for number in seen if number] == [1, 2, 3, 4]

    def test_sets_of_tasks_have_one_order_in_every_process(self) -> None:
        """`asyncio.wait` answers with sets; their order must not depend on addresses or on the seed of hashes."""
        found = set()
        for seed in ("1", "2"):
            environment = {
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONMALLOC": "malloc" if seed == "1" else "pymalloc",
            }
            command = [sys.executable, "-c", ORDER_OF_A_SET]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found.add(done.stdout)

        assert len(found) == 1
        assert len(found.pop()) > 600


class TestTime:
    def test_time_jumps_to_the_next_timer(self, loop: SimulatedLoop) -> None:
        """A day passes in no time, timers go off in their order, and each sees its own moment."""
        seen: list[tuple[str, float]] = []
        loop.call_later(86_400.0, lambda: seen.append(("late", loop.time())))
        loop.call_later(5.0, lambda: seen.append(("early", loop.time())))
        loop.call_later(4.0, lambda: seen.append(("never", loop.time()))).cancel()

        loop.run_until_complete(loop.pause(86_401.0))

        assert seen == [("early", 5.0), ("late", 86_400.0)]
        assert loop.time() == 86_401.0

    def test_time_stands_while_something_is_ready(self, loop: SimulatedLoop) -> None:
        """Work takes no time: a thousand turns of a task pass before a timer of a microsecond."""
        seen: list[str] = []
        loop.call_later(1e-6, seen.append, "timer")

        async def turn() -> None:
            for _ in range(1000):
                await asyncio.sleep(0)
            seen.append("turned")

        loop.run_until_complete(turn())

        assert seen == ["turned"]
        assert loop.time() == 0.0

    def test_nothing_that_could_ever_run_is_an_error(self, loop: SimulatedLoop) -> None:
        """Who waits for a future that nobody sets would hang a real loop; here it is said."""
        task = loop.create_task(waiting(loop.create_future()))

        with pytest.raises(Stalled):
            loop.run_until_complete(task)

        end(loop, task)

    def test_too_many_steps_are_an_error(self) -> None:
        """A task that turns without waiting ends the run instead of hanging it."""
        loop = SimulatedLoop(lambda _: 0.0, steps_max=500)

        async def turn() -> None:
            for _ in range(100_000):
                await asyncio.sleep(0)

        task = loop.create_task(turn())
        with pytest.raises(Runaway):
            loop.run_until_complete(task)

        assert loop.steps == 501
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
        loop.close()

    def test_a_call_in_a_thread_runs_inline_after_a_drawn_time(self, loop: SimulatedLoop) -> None:
        """Its value and its error reach whoever waits, and no thread is started."""

        def fail() -> None:
            raise KeyError("inside")

        async def main() -> tuple[float, float]:
            began = loop.time()
            same = await loop.run_in_executor(None, contextvars.copy_context().run, id, loop)
            assert same == id(loop)
            with pytest.raises(KeyError, match="inside"):
                await asyncio.to_thread(fail)
            return began, loop.time()

        assert loop.run_until_complete(main()) == (0.0, 6.0)
        assert getattr(loop, "_default_executor") is None  # noqa: B009  (private to asyncio)


class TestMachines:
    def test_a_dead_machine_runs_nothing_more(self, loop: SimulatedLoop) -> None:
        """No `finally`, no `except`: neither when its timer is due, nor when the future it waits for fails."""
        machine, seen = Computer(), list[str]()
        answer = loop.create_future()

        async def work(what: Any) -> None:
            try:
                await what
                seen.append("went on")
            except ConnectionError:
                seen.append("except")
            finally:
                seen.append("finally")

        tasks = [machine.start(loop, work(each)) for each in (loop.pause(5.0), waiting(answer))]
        loop.run_until_complete(loop.pause(1.0))
        machine.dead = True
        loop.bury(machine)  # type: ignore[arg-type]
        answer.set_exception(ConnectionError())
        loop.run_until_complete(loop.pause(10.0))

        assert seen == []
        assert not any(task.done() for task in tasks)
        assert len(loop.grave) >= 2
        machine.dead = False
        end(loop, *tasks)

    @pytest.mark.parametrize("way", ["given", "entered", "both"])
    def test_a_task_in_an_empty_context_dies_with_its_machine(self, loop: SimulatedLoop, way: str) -> None:
        """Whatever context a machine's code starts a task in, the task is the machine's; one of nobody's stays nobody's."""
        machine, seen, made = Computer(), list[Any](), list[asyncio.Task[Any]]()

        async def work() -> None:
            seen.append(MACHINE.get())
            await loop.pause(2.0)
            seen.append("went on")

        async def start() -> None:
            empty = contextvars.Context()
            if way == "given":
                made.append(loop.create_task(work(), context=empty))
            elif way == "entered":
                made.append(empty.run(loop.create_task, work()))
            else:
                made.append(empty.run(lambda: loop.create_task(work(), context=empty)))

        loop.run_until_complete(machine.start(loop, start()))
        loop.run_until_complete(loop.pause(1.0))
        machine.dead = True
        loop.bury(machine)  # type: ignore[arg-type]
        loop.run_until_complete(loop.pause(5.0))

        assert seen == [machine]
        assert made[0] in loop.grave
        machine.dead = False
        end(loop, *made)
        alone = loop.create_task(work(), context=contextvars.Context())
        loop.run_until_complete(alone)
        assert seen[-2:] == [None, "went on"]

    def test_others_go_on_beside_a_dead_machine(self, loop: SimulatedLoop) -> None:
        """Death is the machine's own."""
        dead, alive = Computer(), Computer()
        seen: list[str] = []

        async def work(name: str) -> None:
            await loop.pause(1.0)
            seen.append(name)

        tasks = [dead.start(loop, work("dead")), alive.start(loop, work("alive"))]
        dead.dead = True
        loop.run_until_complete(tasks[1])

        assert seen == ["alive"]
        dead.dead = False
        end(loop, tasks[0])

    def test_a_paused_machine_goes_on_later_in_order(self, loop: SimulatedLoop) -> None:
        """What became due meanwhile runs when it goes on, in the order in which it became due, and only once."""
        machine, seen = Computer(), list[tuple[str, float]]()
        for name, after_s in (("c", 4.0), ("a", 1.0), ("b", 2.0)):
            loop.call_later(after_s, lambda name=name: seen.append((name, loop.time())), context=machine.context)
        machine.paused_until = 3.0

        loop.run_until_complete(loop.pause(3.0))
        assert seen == []
        machine.paused_until, backlog, machine.backlog = 0.0, machine.backlog, []
        loop.resume(backlog)
        loop.run_until_complete(loop.pause(5.0))

        assert seen == [("a", 3.0), ("b", 3.0), ("c", 4.0)]

    def test_who_watches_is_asked_before_each_step_of_a_machines_task(self, loop: SimulatedLoop) -> None:
        """It may end the machine there: then the step does not happen."""
        machine, steps = Computer(), list[int]()

        async def work() -> None:
            for number in range(5):
                steps.append(number)
                await asyncio.sleep(0)

        asked: list[Any] = []
        task = machine.start(loop, work())

        def watch(where: Any, whose: asyncio.Task[Any]) -> bool:
            asked.append((where, whose))
            return len(asked) < 3

        loop.watch = watch
        loop.run_until_complete(loop.pause(1.0))

        assert steps == [0, 1]
        assert asked == [(machine, task)] * 3
        loop.watch = None
        task.cancel()
        loop.run_until_complete(loop.pause(0.0))


async def waiting(future: asyncio.Future[Any]) -> Any:
    """Wait for a future."""
    return await future


def end(loop: SimulatedLoop, *tasks: asyncio.Task[Any]) -> None:
    """Let tasks that a test left behind end, so that nothing warns; what was buried runs now."""
    handles, loop.grave = [each for each in loop.grave if isinstance(each, asyncio.Handle)], []
    loop.resume(handles)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
