"""Solitary: the process in which one suspected message runs; quarantine.py starts it and waits for its words.

    python -m dujiang.app.solitary PIPE      the request on stdin, a line of JSON; words for the parent on PIPE

It has of a running copy only what a handler needs: the database, the store's clock, and a row in dj_process for its ids.
It claims nothing, relays nothing and cleans nothing. It handles one claim, which its parent holds, and ends.

It ends by itself when the parent is gone, and by the kernel when it has used more processor time than its limits allow.
Memory is bounded beyond what the loaded app has; a handler that meets the bound would have met the machine's elsewhere,
so its MemoryError counts as a death and not as a failed attempt.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import json
import logging
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dujiang.app.parts import Step
from dujiang.kernel.clock import SystemClock
from dujiang.kernel.node import Node
from dujiang.kernel.service import Services
from dujiang.kernel.tasks import Watcher
from dujiang.messaging.ending import Ending
from dujiang.messaging.gate import Gate
from dujiang.messaging.handling import Handling
from dujiang.messaging.marks import Marks
from dujiang.messaging.work import claims_of_lease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.app.runtime import Runtime
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.work import Claim, Worked

BEAT_S, LOOK_S = 0.5, 0.5
PROCESSOR_S = 30
PARENT_GONE, NO_MEMORY = 75, 71

logger = logging.getLogger("dujiang.quarantine")


def main() -> None:
    """Read the request, handle its claim, say what became of it."""
    faulthandler.enable()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watcher = Watcher(parent_lives(os.getppid()), name="dujiang-parent")
    request = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = request["path"]
    module, _, attribute = request["app"].partition(":")
    app = getattr(importlib.import_module(module), attribute)
    asyncio.run(Solitary(request, int(sys.argv[1])).run(app))
    watcher.close()


def parent_lives(parent: int) -> Any:
    """Ends this process when its parent is another one: the first has died."""

    def look() -> float:
        if os.getppid() != parent:
            os._exit(PARENT_GONE)
        return LOOK_S

    return look


class Solitary:
    """The life of this process.

    Args:
        request: From the parent.
        pipe: The file descriptor that takes our words.
    """

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self._request = request
        self._pipe = pipe
        self._outcome = "lost"

    async def run(self, app: Any) -> None:
        """Handle the claim."""
        from dujiang.app.runtime import Runtime  # noqa: PLC0415  (it imports quarantine.py, which names this module)

        settings = settings_from(self._request["settings"], one_writer=self._request["one_writer"])
        system = Node.system()
        # The embedded store takes every process of another mark for dead.
        node = Node(name=system.name, clock=SystemClock(), entropy=system.entropy, mark=self._request["mark"])
        runtime = Runtime(app, settings, node, roles=())

        async def follow() -> None:
            await runtime.clock.follow(runtime.database)

        services = Services([("database", runtime.database), ("clock", Step(follow)), ("process", runtime.process)])
        await services.start()
        try:
            claim = await self._claim(runtime)
            if claim is not None:
                bound_resources(settings.crash_memory_bytes, self._request["limit_s"])
                beat = node.tasks.spawn(self._beat(node), name="beat")
                self._say("begun")
                await self._handling(runtime).handle([claim])
                beat.cancel()
        finally:
            await services.stop()
            await node.tasks.close()
        self._say(f"ended {self._outcome}")

    async def _claim(self, runtime: Runtime) -> Claim | None:
        sub_id, seq, lease = self._request["claim"]
        found = await claims_of_lease(runtime.database, sub_id, lease)
        return next((claim for claim in found if claim.message.seq == seq), None)

    def _handling(self, runtime: Runtime) -> Handling:
        subscription = self._subscription(runtime)
        context = runtime.context()
        doubt, gate = _nothing, Gate(runtime.node, _nothing)
        ending = Ending(
            context, subscription, runtime.database, runtime.process, gate=gate, worked=self._worked, doubt=doubt
        )
        return Handling(
            context=context,
            subscription=subscription,
            database=runtime.database,
            make_tx=runtime.make_tx,
            ending=ending,
            marks=Marks(runtime.settings.data, "", kept=False),
            gate=gate,
            halted=self._halted,
            doubt=doubt,
        )

    def _subscription(self, runtime: Runtime) -> Subscription:
        name = self._request["subscription"]
        found = next(one for one in runtime.composition.subscriptions() if one.name == name)
        handle = found.handle

        async def bounded(world: Any, events: Sequence[Any]) -> Sequence[Any]:
            try:
                return await handle(world, events)
            except MemoryError:
                self._say("memory")
                os._exit(NO_MEMORY)

        return replace(found, handle=bounded)

    def _worked(self, worked: Worked) -> None:
        self._outcome = worked.outcome

    async def _halted(self, _: Sequence[Claim]) -> None:
        """There is nothing else here that could be given back."""

    async def _beat(self, node: Node) -> None:
        while True:
            await node.clock.sleep(BEAT_S)
            self._say("beat")

    def _say(self, word: str) -> None:
        os.write(self._pipe, word.encode() + b"\n")


def _nothing() -> None:
    """A claim that is in doubt stays with the parent's lease, and one failure closes no gate."""


def settings_from(values: dict[str, Any], *, one_writer: bool) -> Any:
    """The parent's settings; an embedded store is opened as a guest beside its owner."""
    from dujiang.settings import Settings  # noqa: PLC0415

    url = values["database"]
    if one_writer:
        url += ("&" if "?" in url else "?") + "guest=yes"
    hosts = tuple(values["allowed_hosts"])
    return Settings(**{**values, "data": Path(values["data"]), "allowed_hosts": hosts, "database": url})


def bound_resources(memory_bytes: int, limit_s: float) -> None:
    """Bound what the handler may take: memory beyond what is mapped now, and processor time."""
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        logger.warning("this system does not say how much memory is mapped; memory is not bounded")
    else:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, resource.RLIM_INFINITY))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + limit_s) + PROCESSOR_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    main()
