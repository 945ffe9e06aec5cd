"""Quarantine: runs one message in a process of its own, so that whatever it does to that process ends there.

    parent                                     child (solitary.py)
      request: app, settings, claim ──stdin──► load the app, open the database, find the claim
      ◄──────────────── "begun" ──pipe──────── handle it: the same handler, the same transaction, committed there
      ◄──────────────── "beat", each 0.5 s ───
      ◄──────────────── "ended done" ─────────   or nothing, and an exit code or a signal

The child is started, not forked: a copy of this process would share locks, threads and the connections of the driver in
the state in which they happen to be. It works on the parent's claim, fenced by the parent's lease, so a parent that loses
its lease takes the child's right to commit with it.

Three bounds: START_S for loading, the subscription's own limit for the run, and a silence of the event loop. A handler
that blocks the loop cannot be cut off from inside its process; from here it can. The bound on silence is short where one
process owns the store, because the child may hold the store's write lock (docs/decisions/0019).

One child at a time in a process: a suspect is slow by nature, and the machine belongs to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from dujiang.messaging.suspects import Alone

if TYPE_CHECKING:
    from dujiang.app.declaration import App
    from dujiang.kernel.node import Node
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.work import Claim
    from dujiang.settings import Settings

START_S = 60.0
BEAT_S = 0.5
SILENCE_S, SILENCE_ONE_WRITER_S = 15.0, 4.0
REPORT_S = 5.0
LINES_BYTES = 4096


class Quarantine:
    """Starts and watches the child processes of one running copy.

    Args:
        app: What runs; it must be an attribute of a module.
        settings: Where and how.
        node: The running copy.
        one_writer: Whether one process owns the store.
    """

    def __init__(self, app: App, settings: Settings, node: Node, *, one_writer: bool) -> None:
        self.limit = settings.crash_limit
        self._app = app
        self._settings = settings
        self._node = node
        self._one_writer = one_writer
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Quarantine {'busy' if self._turn.locked() else 'free'}>"

    @property
    def simulated(self) -> bool:
        """Whether the machine is simulated."""
        return self._node.simulation is not None

    @property
    def possible(self) -> bool:
        """Whether a process can find the app: some module holds it."""
        return name_of(self._app) is not None

    async def run(self, subscription: Subscription, claim: Claim) -> Alone:
        """Run one claim in a process of its own; what became of it. A cancelled run ends its process."""
        async with self._turn:
            ours, theirs = os.pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "dujiang.app.solitary", str(theirs)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(theirs,),
                    start_new_session=True,  # A terminal's Ctrl-C reaches the parent, which ends the child.
                    env=environment(),
                )
            except BaseException:
                os.close(ours)
                raise
            finally:
                os.close(theirs)
            try:
                return await self._watched(process, ours, self._request(subscription, claim), subscription.timeout_s)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await asyncio.shield(process.wait())

    def _request(self, subscription: Subscription, claim: Claim) -> bytes:
        values = {field.name: getattr(self._settings, field.name) for field in dataclasses.fields(self._settings)}
        del values["sources"]
        request = {
            "app": name_of(self._app),
            "path": sys.path,
            "settings": {**values, "data": str(self._settings.data.absolute())},
            "one_writer": self._one_writer,
            "mark": self._node.mark,
            "subscription": subscription.name,
            "claim": [claim.sub_id, claim.message.seq, claim.lease],
            "limit_s": subscription.timeout_s,
        }
        return json.dumps(request).encode() + b"\n"

    async def _watched(self, process: asyncio.subprocess.Process, pipe: int, request: bytes, limit_s: float) -> Alone:
        tail = Tail()
        watching = self._node.tasks.spawn(tail.read(process), name="quarantine")
        words = await reader_of(pipe)
        begun, how, outcome = False, "", ""
        clock = self._node.clock
        give_up_at = clock.monotonic() + START_S
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(request)  # The pipe stays open: its end is how the child learns that we are gone.
            await process.stdin.drain()
        silence_s = SILENCE_ONE_WRITER_S if self._one_writer else SILENCE_S
        while True:
            left_s = give_up_at - clock.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(left_s, silence_s) if begun else left_s)):
                    word = (await words.readline()).decode().split()
            except TimeoutError:
                how = ended_by_us(
                    begun=begun, late=clock.monotonic() >= give_up_at, limit_s=limit_s, silence_s=silence_s
                )
                break
            if not word:
                break
            if word[0] == "begun":
                begun, give_up_at = True, clock.monotonic() + 2 * limit_s + REPORT_S
            elif word[0] == "memory":
                how = f"it took more memory than crash_memory allows ({self._settings.crash_memory_bytes >> 20} MiB)"
            elif word[0] == "ended":
                outcome = word[1]
                break
        if outcome or how:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        await watching
        return Alone(outcome=outcome, begun=begun, how=how or ending(code), lines=tail.text())


class Tail:
    """The last bytes that a child wrote; all of it goes on to our own stderr."""

    def __init__(self) -> None:
        self._kept = b""

    async def read(self, process: asyncio.subprocess.Process) -> None:
        """Read until the child is gone."""
        assert process.stdout is not None
        while chunk := await process.stdout.read(LINES_BYTES):
            self._kept = (self._kept + chunk)[-LINES_BYTES:]
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()

    def text(self) -> str:
        """As text; the first line may be cut."""
        return self._kept.decode("utf-8", "replace").strip()


async def reader_of(pipe: int) -> asyncio.StreamReader:
    """The reading end of a pipe; it is closed with the reader."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0))
    return reader


def environment() -> dict[str, str]:
    """Ours, with what makes the child's death tell more and its memory less."""
    crashes = {name: value for name, value in os.environ.items() if name != "DUJIANG_CRASH_AT"}
    return {**crashes, "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}


def ended_by_us(*, begun: bool, late: bool, limit_s: float, silence_s: float) -> str:
    """Why the child was ended, in words."""
    if not begun:
        return f"it was not ready after {START_S:g} s"
    return f"it ran longer than {limit_s:g} s" if late else f"it blocked its event loop for {silence_s:g} s"


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"the process in which it ran alone ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"the process in which it ran alone was ended by {signal.Signals(-code).name}"
    return f"the process in which it ran alone was ended by signal {-code}"


def name_of(app: Any) -> str | None:
    """`module:attribute` of an app; None when no module holds it."""
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is app:
                spec = getattr(module, "__spec__", None)
                found = spec.name if name == "__main__" and spec is not None else name
                return None if found == "__main__" else f"{found}:{attribute}"
    return None
