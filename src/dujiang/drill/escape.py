"""Escape: what leaves the simulation is either turned back into it, or refused with the line and the way out.

    time.time(), datetime.now() ...    the machine's virtual clock
    random, os.urandom, uuid4 ...      the run's chance
    loop.run_in_executor, anyio's      run inline, at a drawn time; time.sleep in them takes virtual time (threads.py)
    time.sleep, threads, sockets,      EscapedSimulation: the drill could not repeat what they do, so it says so at once
    subprocesses                       and ends, instead of reporting failures that nobody could replay

It holds only for code that runs on a simulated machine; the drill around it lives in real time. Sockets and processes are
noticed by the interpreter's audit events, whoever opens them; what a C extension opens past them shows as an open socket
after the step that opened it, which the calm run looks for. Threads have such an event in new versions of Python only, so
their start is taken over; one that a C extension starts is not seen.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from datetime import timezone as zone
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dujiang.drill.loop import MACHINE
from dujiang.drill.sites import kind_of_file, running_site
from dujiang.drill.threads import swaps as swapped_threads
from dujiang.kernel.entropy import SeededEntropy
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.tasks import asked_before_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS = "run it with `loop.run_in_executor` or `anyio.to_thread`: the drill runs those inline"
OUTSIDE = (
    "give the client in by `App(provide={...})` and name the call with `@app.external`, so that the drill can lose, double "
    "and delay it; or provide a stand-in in a small app for the drill"
)
AUDITED = {
    "socket.connect": ("a network connection", OUTSIDE),
    "socket.bind": ("a listening socket", OUTSIDE),
    "socket.getaddrinfo": ("a look-up of a host name", OUTSIDE),
    "socket.gethostbyname": ("a look-up of a host name", OUTSIDE),
    "socket.sendto": ("a datagram", OUTSIDE),
    "subprocess.Popen": ("another program", OUTSIDE),
    "os.system": ("another program", OUTSIDE),
    "os.posix_spawn": ("another program", OUTSIDE),
}


@dataclass(eq=False, kw_only=True)
class EscapedSimulation(DujiangError):
    """Code on a simulated machine reached for the real one."""

    code = "escaped_simulation"
    move = "fix"
    says = "{what} at {where} leaves the simulation, so the drill could not repeat it"
    cure = "{way}"

    what: str
    where: str
    way: str


class Guard:
    """The audit hook; there is no way to take one out, so there is one, which is on or off."""

    def __init__(self) -> None:
        self.on = False
        self.installed = False

    def install(self) -> None:
        """Begin to listen."""
        if not self.installed:
            self.installed = True
            sys.addaudithook(self._hear)
        self.on = True

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        if self.on and event in AUDITED:
            machine = MACHINE.get()
            if machine is not None:
                what, way = AUDITED[event]
                escape(machine, what, way)


GUARD = Guard()


def escape(machine: Any, what: str, way: str) -> None:
    """Refuse, and end the run."""
    error = EscapedSimulation(what=what, where=running_site(), way=way)
    machine.world.loop.escaped = machine.world.loop.escaped or error
    raise error


def blocked(seconds: float, /) -> None:
    """In the place of `time.sleep`."""
    machine = MACHINE.get()
    if machine is None:
        REAL["sleep"](seconds)
    elif machine.world.loop.slept_s is not None:
        machine.world.loop.slept_s += seconds
    else:
        escape(
            machine, "time.sleep()", "await dujiang.sleep(): it waits without holding the loop, in virtual time here"
        )


def refuse_thread() -> None:
    """Called before a thread starts: Python 3.11 does not audit it."""
    machine = MACHINE.get()
    if machine is not None:
        escape(machine, "a thread", THREADS)


REAL: dict[str, Callable[..., Any]] = {
    name: getattr(time, name)
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")
}
REAL_URANDOM = os.urandom


def virtual(name: str, of: Callable[[Any], Any]) -> Callable[[], Any]:
    """A function of the module `time`, by the clock of the machine that asks."""
    real = REAL[name]

    def read() -> Any:
        machine = MACHINE.get()
        return real() if machine is None else of(machine.node.clock)

    return read


VIRTUAL: dict[str, Callable[..., Any]] = {
    "time": virtual("time", lambda clock: clock.now_us() / 1e6),
    "time_ns": virtual("time_ns", lambda clock: clock.now_us() * 1000),
    "monotonic": virtual("monotonic", lambda clock: clock.monotonic()),
    "monotonic_ns": virtual("monotonic_ns", lambda clock: int(clock.monotonic() * 1e9)),
    "perf_counter": virtual("perf_counter", lambda clock: clock.monotonic()),
    "perf_counter_ns": virtual("perf_counter_ns", lambda clock: int(clock.monotonic() * 1e9)),
    "sleep": blocked,
}


class Same(type):
    """Makes every real date and datetime an instance of its stand-in."""

    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, cls.__mro__[1])

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.__mro__[1])


class VirtualDatetime(datetime, metaclass=Same):
    """`datetime` in the user's modules; its members make real datetimes."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """A real datetime."""
        return datetime(*args, **options)  # noqa: DTZ001  (whatever the user wants)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """The machine's time."""
        machine = MACHINE.get()
        if machine is None:
            return datetime.now(tz)
        seen = datetime.fromtimestamp(machine.node.clock.now_us() / 1e6, zone.utc)  # noqa: UP017
        return seen.astimezone(tz) if tz is not None else seen.replace(tzinfo=None)

    @classmethod
    def utcnow(cls) -> Any:
        """The machine's time in UTC, naive."""
        return cls.now(zone.utc).replace(tzinfo=None)  # noqa: UP017

    @classmethod
    def today(cls) -> Any:
        """The machine's time, naive."""
        return cls.now()


class VirtualDate(date, metaclass=Same):
    """`date` in the user's modules."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """A real date."""
        return date(*args, **options)

    @classmethod
    def today(cls) -> Any:
        """The machine's date."""
        return VirtualDatetime.now().date()


class VirtualDatetimeModule(ModuleType):
    """`import datetime` in the user's modules."""

    def __init__(self) -> None:
        super().__init__("datetime")
        self.__dict__.update(vars(sys.modules["datetime"]))
        self.datetime = VirtualDatetime
        self.date = VirtualDate


def users_modules() -> list[ModuleType]:
    """The modules of the user's own code, in the order of their names."""
    found = []
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is not None and name != "__main__" and kind_of_file(path) == 0:
            found.append(module)
    return found


class Chance:
    """Where the user's own calls for chance end."""

    def __init__(self) -> None:
        self.entropy = SeededEntropy("")

    def seed(self, seed: str) -> None:
        """Begin a run."""
        self.entropy = SeededEntropy(f"{seed}/random")
        random.seed(f"{seed}/random")


CHANCE = Chance()


@contextmanager
def sealed() -> Iterator[None]:
    """Keep the code of simulated machines inside the simulation for the block."""
    swaps: dict[int, Any] = {id(REAL[name]): VIRTUAL[name] for name in REAL}
    swaps |= {
        id(datetime): VirtualDatetime,
        id(date): VirtualDate,
        id(sys.modules["datetime"]): VirtualDatetimeModule(),
    }
    undo: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, value: Any) -> None:
        undo.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    def drawn(size: int) -> bytes:
        return REAL_URANDOM(size) if MACHINE.get() is None else CHANCE.entropy.secret(size)

    inline = swapped_threads(escape)
    swaps |= {id(getattr(place, name)): value for place, name, value in inline}
    state = random.getstate()
    for name, function in VIRTUAL.items():
        put(time, name, function)
    for place, name, value in inline:
        put(place, name, value)
    put(os, "urandom", drawn)
    put(random, "_urandom", drawn)
    for module in users_modules():
        for name, value in list(vars(module).items()):
            if id(value) in swaps and not name.startswith("__"):
                put(module, name, swaps[id(value)])
    GUARD.install()
    try:
        with asked_before_threads(refuse_thread):
            yield
    finally:
        GUARD.on = False
        random.setstate(state)
        for place, name, value in reversed(undo):
            setattr(place, name, value)


def open_sockets() -> int:
    """How many sockets this process has open; 0 where the system does not say."""
    try:
        names = os.listdir("/proc/self/fd")  # noqa: PTH208  (names alone)
    except OSError:
        return 0
    count = 0
    for name in names:
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")  # noqa: PTH115
        except OSError:
            continue
    return count
