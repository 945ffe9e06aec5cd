"""Threads: calls that a framework or a handler puts into a thread run inline, at a drawn virtual time.

    loop.run_in_executor, asyncio.to_thread      loop.py
    anyio.to_thread.run_sync                     here: plain `def` routes and dependencies of FastAPI, files of Starlette
    time.sleep in such a call                    the call's answer comes that much later; nothing else waits
    anyio.from_thread                            refused: the call would wait for a loop that waits for the call

A call runs in one piece, so what two threads do to each other's memory between two lines is not seen: only the order of
whole calls is tried. A machine that dies takes its calls with it. Every machine has as many threads as anyio gives a
process, counted apart, because the dead give nothing back.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread

from dujiang.drill.loop import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.drill.machine import Machine

BACK = "return what the loop should do and await it after `to_thread`: the drill runs a thread's call in one piece"

run_in_thread = anyio.to_thread.run_sync


async def run_sync(
    function: Callable[..., Any],
    *args: Any,
    abandon_on_cancel: bool = False,
    cancellable: bool | None = None,
    limiter: anyio.CapacityLimiter | None = None,
) -> Any:
    """In the place of `anyio.to_thread.run_sync`."""
    machine = MACHINE.get()
    if machine is None:
        return await run_in_thread(function, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    abandoned = abandon_on_cancel if cancellable is None else cancellable
    async with limiter or threads_of(machine):
        with anyio.CancelScope(shield=not abandoned):
            run = contextvars.copy_context().run
            return await machine.world.loop.inline(run, function, *args)


def threads_of(machine: Machine) -> anyio.CapacityLimiter:
    """The threads of a machine."""
    if machine.threads is None:
        machine.threads = anyio.CapacityLimiter(anyio.to_thread.current_default_thread_limiter().total_tokens)
    return machine.threads


def swaps(refuse: Callable[[Machine, str, str], Any]) -> tuple[tuple[Any, str, Any], ...]:
    """What stands in the place of anyio's functions: where, which name, the function.

    Args:
        refuse: Ends the run of a machine, because of what, with the way out.
    """

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            machine = MACHINE.get()
            if machine is None:
                return real(*args, **options)
            return refuse(machine, "a call from a thread back into the loop", BACK)

        return call

    return (
        (anyio.to_thread, "run_sync", run_sync),
        (anyio.from_thread, "run", refused(anyio.from_thread.run)),
        (anyio.from_thread, "run_sync", refused(anyio.from_thread.run_sync)),
    )
