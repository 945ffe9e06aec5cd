"""The private parts of asyncio that the simulated loop relies on, each tried on the interpreter that runs this.

PYTHONPATH=src:. python3.12 -m tests.drill.pins      names what is not as it must be, and exits with 1
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import sys
from collections.abc import Callable
from typing import Any

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")


class Bare(asyncio.BaseEventLoop):
    """A loop that only counts how it is used; what it relies on must be called by asyncio itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0
        self.woken = 0

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("nobody selects")

    def _write_to_self(self) -> None:
        self.woken += 1

    def _run_once(self) -> None:
        self.rounds += 1
        ready: Any = self.__dict__["_ready"]
        for _ in range(len(ready)):
            ready.popleft()._run()


def ready_is_a_queue(loop: Any) -> bool:
    """`_ready` is a deque to which `call_soon` appends the handle that it returns."""
    first, second = loop.call_soon(print), loop.call_soon(print)
    return isinstance(loop._ready, collections.deque) and list(loop._ready) == [first, second]


def stopping_is_a_flag(loop: Any) -> bool:
    """`_stopping` is false until `stop` sets it, and false again after the run."""
    seen = [loop._stopping]

    def stop() -> None:
        loop.stop()
        seen.append(loop._stopping)

    loop.call_soon(stop)
    loop.run_forever()
    return [*seen, loop._stopping] == [False, True, False]


def closing_is_a_flag(loop: Any) -> bool:
    """`_closed` is false until `close` sets it."""
    other: Any = Bare()
    seen = [other._closed]
    other.close()
    return loop._closed is False and [*seen, other._closed] == [False, True]


def cancelled_timers_say_so(loop: Any) -> bool:
    """A TimerHandle that no loop keeps can be cancelled, and then says so in `_cancelled`."""
    timer = asyncio.TimerHandle(loop.time() + 10, print, (), loop, None)
    before = timer._cancelled
    timer.cancel()
    return before is False and timer._cancelled is True


def handles_carry_their_context(loop: Any) -> bool:
    """`_context` is the context that was given, `_callback` the callable, and `_run` runs it in that context."""
    seen: list[str] = []
    context = contextvars.copy_context()
    context.run(MARK.set, "mine")

    def look() -> None:
        seen.append(MARK.get())

    handle = loop.call_soon(look, context=context)
    right = handle._context is context and handle._callback is look and handle._cancelled is False
    handle._run()
    return bool(right) and seen == ["mine"] and MARK.get() == ""


def a_cancelled_handle_says_so(loop: Any) -> bool:
    """`_cancelled` is true from `cancel` on."""
    handle = loop.call_soon(print)
    handle.cancel()
    return handle._cancelled is True


def a_run_is_rounds(loop: Any) -> bool:
    """`run_until_complete` is calls of `_run_once`, and needs nothing else of a loop."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    return bool(loop.run_until_complete(work()) == "done" and loop.rounds > 1)


def steps_belong_to_tasks(loop: Any) -> bool:
    """The callback of a handle that starts, continues or wakes a task has the task as its `__self__`."""
    waited = loop.create_future()

    async def work() -> None:
        await asyncio.sleep(0)
        await waited

    task = loop.create_task(work())
    found = []
    for wake in (False, False, True):
        if wake:
            waited.set_result(None)
        (handle,) = loop._ready
        found.append(getattr(handle._callback, "__self__", None) is task)
        loop._run_once()
    return all(found) and task.done()


def waking_writes(loop: Any) -> bool:
    """`call_soon_threadsafe` calls `_write_to_self`."""
    loop.call_soon_threadsafe(print)
    return bool(loop.woken == 1)


def the_base_does_nothing(loop: Any) -> bool:
    """`_process_events` and `_write_to_self` are left to each loop, so that a simulation may leave them empty."""
    base: Any = asyncio.BaseEventLoop
    for call, given in ((base._process_events, ([],)), (base._write_to_self, ())):
        try:
            call(loop, *given)
        except NotImplementedError:
            continue
        return False
    return True


def pending_tasks_can_be_silenced(loop: Any) -> bool:
    """`_log_destroy_pending` of a task can be set."""

    async def work() -> None: ...

    task = loop.create_task(work())
    task._log_destroy_pending = False
    loop.run_until_complete(task)
    return True


PINS: tuple[Callable[[Any], bool], ...] = (
    ready_is_a_queue,
    stopping_is_a_flag,
    closing_is_a_flag,
    cancelled_timers_say_so,
    handles_carry_their_context,
    a_cancelled_handle_says_so,
    a_run_is_rounds,
    steps_belong_to_tasks,
    waking_writes,
    the_base_does_nothing,
    pending_tasks_can_be_silenced,
)


def holds(pin: Callable[[Any], bool]) -> bool:
    """Whether a pin holds on this interpreter."""
    loop = Bare()
    try:
        return pin(loop)
    except Exception:  # noqa: BLE001  (a part that is gone raises whatever it likes)
        return False
    finally:
        loop.close()


def main() -> int:
    """Try all of them; the number of those that do not hold is said, and 1 returned if there are any."""
    broken = [pin for pin in PINS if not holds(pin)]
    for pin in broken:
        sys.stdout.write(f"{pin.__name__}: {pin.__doc__}\n")
    sys.stdout.write(f"Python {sys.version.split()[0]}: {len(PINS) - len(broken)} of {len(PINS)} hold\n")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
