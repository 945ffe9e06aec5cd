"""Fork: copies of a running world, each of which lives on by itself and reports what came of it.

A world is memory and nothing else: no file, no socket, no thread. So a fork copies it whole, in milliseconds, in the middle
of a callback: the copy kills a machine there and goes on to the end, while the original goes on to the next point. What
came before a point is played once, not once for each point.

A copy that hangs is killed after a limit of real time; that is a finding too, because a sound run ends.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import select
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dujiang.drill.escape import REAL, EscapedSimulation
from dujiang.drill.loop import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 60.0
EXTENSIONS_MAX = 10
# Seconds of the real clock: a fork may happen in the middle of a simulated machine's callback.
REAL_TIME = REAL["monotonic"]
READ_BYTES = 1 << 16
ENDING = (signal.SIGINT, signal.SIGTERM)


def answer_of(work: Callable[[], Any]) -> Any:
    """What `work` returns, or what it raised as a JSON value."""
    try:
        return work()
    except EscapedSimulation as error:
        return {"escaped": {"what": error.what, "where": error.where, "way": error.way}}
    except BaseException:  # noqa: BLE001  (whatever it was, the original must hear of it)
        return {"error": traceback.format_exc()}


def report_of(data: bytearray) -> Any:
    """What a copy wrote before it ended; one that died while it wrote has said nothing."""
    try:
        return json.loads(data)
    except ValueError:
        return {"error": "it died"}


def forked() -> int:
    """`os.fork` as the drill's own act: what a library does after it, such as starting its thread anew, is no escape."""
    own = MACHINE.set(None)
    try:
        return os.fork()
    finally:
        MACHINE.reset(own)


@dataclass(eq=False)
class Child:
    """A copy that is alive.

    Attributes:
        pid: Its process.
        pipe: Where its report comes from.
        until: When it is taken for hung, real monotonic seconds.
        tag: What it was made for.
        read: What came so far.
        extended: How often it was given more time.
    """

    pid: int
    pipe: int
    until: float
    tag: Any
    read: bytearray
    extended: int = 0


class Forks:
    """Copies of this process, at most so many at once.

    Args:
        width: Copies at once; default: the cores of the machine.
        limit_s: Real seconds after which a copy is killed.
    """

    def __init__(self, width: int = 0, limit_s: float = LIMIT_S) -> None:
        self.width = width or os.cpu_count() or 1
        self.in_child = False
        self.done: list[tuple[Any, Any]] = []
        self._limit_s = limit_s
        self._children: list[Child] = []
        self._report = -1

    def __repr__(self) -> str:
        return f"<Forks: {len(self._children)} of {self.width}>"

    def fork(self, tag: Any) -> bool:
        """Copy this process when there is room; True in the copy, which must end with `report`."""
        while len(self._children) >= self.width:
            self.wait()
        loop = asyncio._get_running_loop()  # noqa: SLF001  (documented; a copy's first act is to take it over)
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the note of it would leave a copy that nobody ends.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid = forked()
            if pid == 0:
                asyncio._set_running_loop(loop)  # noqa: SLF001
                os.close(reading)
                for child in self._children:
                    os.close(child.pipe)
                self._children.clear()
                self.in_child, self._report = True, writing
                for number in ENDING:
                    signal.signal(number, signal.SIG_DFL)
                return True
            os.close(writing)
            self._children.append(Child(pid, reading, REAL_TIME() + self._limit_s, tag, bytearray()))
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def report(self, found: Any) -> NoReturn:
        """Hand a JSON value to the original and end this copy, without any clean-up."""
        data = json.dumps(found, default=str).encode()
        with os.fdopen(self._report, "wb", closefd=True) as pipe:
            pipe.write(data)
        os._exit(0)

    def run(self, tag: Any, work: Callable[[], Any]) -> None:
        """Do `work` in a copy; its answer will stand in `done`."""
        if self.fork(tag):
            self.report(answer_of(work))

    def wait(self) -> None:
        """Wait until at least one copy has ended."""
        ended = False
        while self._children and not ended:
            left_s = max(0.0, min(child.until for child in self._children) - REAL_TIME())
            ready, _, _ = select.select([child.pipe for child in self._children], [], [], left_s)
            for child in list(self._children):
                if child.pipe in ready:
                    data = os.read(child.pipe, READ_BYTES)
                    child.read += data
                    if not data:
                        self._end(child, report_of(child.read))
                        ended = True
                elif REAL_TIME() >= child.until and not self._still_entitled(child):
                    os.kill(child.pid, signal.SIGKILL)
                    self._end(child, {"hung": True})
                    ended = True

    def _still_entitled(self, child: Child) -> bool:
        """Whether a copy has had less of a processor than its limit; on a busy machine it then gets more time."""
        left_s = self._limit_s - cpu_s(child.pid)
        child.until = REAL_TIME() + max(1.0, left_s)
        return left_s > 0 and child.extended < EXTENSIONS_MAX and self._extended(child)

    @staticmethod
    def _extended(child: Child) -> bool:
        child.extended += 1
        return True

    def _end(self, child: Child, found: Any) -> None:
        os.close(child.pipe)
        os.waitpid(child.pid, 0)
        self._children.remove(child)
        self.done.append((child.tag, found))

    def results(self) -> Iterator[tuple[Any, Any]]:
        """What has been reported since the last call: (tag, answer)."""
        done, self.done = self.done, []
        yield from done

    def finish(self) -> Iterator[tuple[Any, Any]]:
        """Wait for every copy; what they reported."""
        while self._children:
            self.wait()
        yield from self.results()

    def kill(self) -> None:
        """End every copy at once."""
        while self._children:
            child = self._children.pop()
            os.kill(child.pid, signal.SIGKILL)
            os.close(child.pipe)
            os.waitpid(child.pid, 0)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used; infinite where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
