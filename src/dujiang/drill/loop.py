"""Loop: asyncio without a machine: time is a number, and waiting costs nothing.

    ready queue      first in, first out, exactly as asyncio promises
    timers           when nothing is ready, time jumps to the next one
    a machine        a simulated computer; each callback belongs to the one whose context it carries
      dead           its callbacks are put aside and never run, nor closed: no `finally`, no `except`, as after kill -9
      paused         they wait until it goes on

The order of ready callbacks is never shuffled: libraries rely on it, and a schedule that no real loop can produce would be
a false alarm. All variety comes from how long messages travel. Threads run inline, at a drawn time.

Most of a run is waiting, so waiting is made cheap: `pause` puts a bare future among the timers, which is settled when its
time comes, without a callback of its own; timers of one moment go off in the order in which they were set.

Private parts of asyncio that this relies on: `BaseEventLoop._ready`, `_closed`, `_stopping`, `_run_once`, `_process_events`,
`_write_to_self`; `Handle._context`, `_cancelled`, `_callback`, `_run`.
tests/drill/pins.py pins each of them; `python -m tests.drill.pins` tries another interpreter.
"""

from __future__ import annotations

import asyncio
import heapq
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    from dujiang.drill.machine import Machine
    from dujiang.drill.memories import Memories

WIND_UP_S, WIND_UPS = 60.0, 4

MACHINE: ContextVar[Machine | None] = ContextVar("dujiang_machine", default=None)


class Stalled(Exception):
    """Nothing can ever run again: no callback is ready and no timer is set."""


class Runaway(Exception):
    """The run took more steps than any sound run takes: something turns without making progress."""


class Numbered:
    """Gives every object a hash of its own that does not depend on where it lies in memory."""

    serial = 0

    @classmethod
    def next(cls) -> int:
        """The next number."""
        Numbered.serial += 1
        return Numbered.serial


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose place in a set is the same in every run; it is numbered when somebody asks, which is rare."""

    serial = 0

    def __hash__(self) -> int:
        if not self.serial:
            self.serial = Numbered.next()
        return self.serial


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set is the same in every run."""

    def __init__(self, work: Any, *, machine: Machine | None, **options: Any) -> None:
        self.serial = Numbered.next()
        self.machine = machine
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self.serial


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of one simulated world.

    Args:
        delay: Seconds that a call in a thread takes.
        steps_max: Runaway is raised after so many steps.
    """

    def __init__(self, delay: Callable[[str], float], *, steps_max: int = 5_000_000) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._timers_set = 0
        self.steps_max = steps_max
        self.grave: list[Any] = []
        self.slept_s: float | None = None  # Seconds that the call in a thread has slept; None = none runs now.
        self.current: Machine | None = None  # Whose step runs now.
        self.watch: Callable[[Machine, asyncio.Task[Any]], bool] | None = None
        self.escaped: Exception | None = None
        self.memories: Memories | None = None
        self.after_step: Callable[[Machine, Any], None] | None = None
        self.failed: Callable[[dict[str, Any]], None] | None = None
        self._delay = delay
        self.set_task_factory(self._made)
        self.set_exception_handler(lambda _, context: self.failed(context) if self.failed is not None else None)

    @staticmethod
    def _made(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, Any, Any], **options: Any
    ) -> SimulatedTask:
        context = options.get("context")
        machine = MACHINE.get() if context is None else context.get(MACHINE)
        if machine is None and isinstance(loop, SimulatedLoop) and loop.current is not None:
            machine = loop.current
            options["context"] = belonging(context, machine)
        return SimulatedTask(work, loop=loop, machine=machine, **options)

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self.now

    def create_future(self) -> SimulatedFuture:
        """A future."""
        return SimulatedFuture(loop=self)

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """Let virtual time pass, from this call on: await what it returns."""
        done: asyncio.Future[None] = SimulatedFuture(loop=self)
        self._timers_set += 1
        heapq.heappush(self._timers, (self.now + seconds, self._timers_set, done))
        return done

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """Call this when everything that is ready has run."""
        if self._closed:  # type: ignore[attr-defined]
            raise RuntimeError("the loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call this at a virtual time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call this after so many virtual seconds."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a blocking call inline, at a drawn time."""
        return self.inline(call, *args)

    def inline(self, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """What a thread would do: this call, in one piece, at a drawn time; what it sleeps delays its answer alone."""
        done = self.create_future()

        def run() -> None:
            if done.cancelled():
                return
            self.slept_s, settled = 0.0, done.set_result
            found: Any
            try:
                found = call(*args)
            except Exception as error:  # noqa: BLE001  (it belongs to whoever waits)
                settled, found = done.set_exception, error
            slept_s, self.slept_s = self.slept_s, None
            if slept_s:
                self.call_later(slept_s, lambda: done.done() or settled(found))
            else:
                settled(found)

        self.call_later(self._delay("thread"), run)
        return done

    def _process_events(self, event_list: Any) -> None:
        """No machine, no events."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who could be woken."""

    def _run_once(self) -> None:
        """Run callbacks until the loop is stopped; time jumps when none is ready."""
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        while not self._stopping:  # type: ignore[attr-defined]
            if not ready:
                self._jump()
            while timers and timers[0][0] <= self.now:
                due = heapq.heappop(timers)[2]
                if isinstance(due, asyncio.TimerHandle):
                    if not due._cancelled:  # noqa: SLF001
                        ready.append(due)
                elif not due.done():
                    due.set_result(None)
            if ready:
                handle = ready.popleft()
                if not handle._cancelled:  # noqa: SLF001
                    self.steps += 1
                    machine = handle._context.get(MACHINE)  # noqa: SLF001
                    if machine is not None:
                        self._step(machine, handle)
                    else:
                        handle._run()  # noqa: SLF001
                    if self.steps > self.steps_max:
                        raise Runaway

    def _jump(self) -> None:
        """Go to the time of the first timer that somebody still waits for."""
        timers = self._timers
        while timers:
            when, _, due = timers[0]
            over = due._cancelled if isinstance(due, asyncio.TimerHandle) else due.done()  # noqa: SLF001
            if not over:
                self.now = max(self.now, when)
                return
            heapq.heappop(timers)
        raise Stalled

    def _step(self, machine: Machine, handle: Any) -> None:
        if machine.dead:
            self.grave.append(handle)
            return
        if machine.paused_until > self.now:
            machine.backlog.append(handle)
            return
        if self.watch is not None and machine.mortal:
            task = getattr(handle._callback, "__self__", None)  # noqa: SLF001
            if isinstance(task, asyncio.Task) and not self.watch(machine, task):
                self.grave.append(handle)
                return
        if self.memories is not None and self.memories.places:
            self.memories.enter(machine)
        self.current = machine
        handle._run()  # noqa: SLF001
        self.current = None
        if self.after_step is not None:
            self.after_step(machine, handle)
        if self.escaped is not None:
            raise self.escaped

    def wind_up(self) -> None:
        """End what a failure left running: coroutines that the collector closes later would end in a foreign context."""
        left = asyncio.all_tasks(self)

        async def end() -> None:
            for task in left:
                task.cancel()
            until = self.now + WIND_UP_S
            while self.now < until and not all(task.done() for task in left):
                await self.pause(0.1)

        for _ in range(WIND_UPS):
            self.escaped = None
            with suppress(Exception):  # Why it ends is known already; this is what it leaves behind.
                self.run_until_complete(end())
                break

    def close(self) -> None:
        """Close, and forget the timers."""
        self._timers.clear()
        super().close()

    def resume(self, handles: list[Any]) -> None:
        """Put what a paused machine missed into the queue."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def bury(self, machine: Machine) -> None:
        """Keep the tasks of a dead machine from being collected: a closed coroutine would run its `finally`."""
        for task in asyncio.all_tasks(self):
            if isinstance(task, SimulatedTask) and task.machine is machine:
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
                self.grave.append(task)


def belonging(context: Context | None, machine: Machine) -> Context:
    """A context without a machine, given the one whose step made it: what it starts must die with that machine."""
    found = copy_context() if context is None else context
    try:
        found.run(MACHINE.set, machine)
    except RuntimeError:  # It is entered at this moment, so only a copy of it can be given more.
        found = found.copy()
        found.run(MACHINE.set, machine)
    return found
