"""Timeline: when the smallest failing run did what, by lane: clients above, then one lane for each machine.

    clients   ▬▬▬▬▬ POST /orders 201      a bar is a call of a client, or its handling on a machine
    api1        ▬✕                        ✕ = the machine died under it
    worker1        │  │                   a tick is a commit
    api1        ①                         a numbered point is a fault, in the order of the story

It ends where the checks begin: what they ask of the healed system would only hide what happened before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dujiang.drill.nemesis import OUTAGES_S, PAUSES_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dujiang.drill.world import Fault

CLIENTS, DATABASE = "clients", "database"
CLUES = ("stale read", "statement failed", "unordered rows", "external unkeyed")
BARS_MAX, TICKS_MAX = 120, 240
HEX = frozenset("0123456789abcdef")

Event = tuple[float, str, str]


@dataclass(frozen=True)
class Bar:
    """Something that took time.

    Attributes:
        lane: Where.
        kind: `call`: a client waits. `work`: a machine handles a request. `gone`: a machine is dead, or stands still.
        from_s: Virtual seconds.
        until_s: Virtual seconds.
        says: In a few words.
        cut: Whether its machine died under it, or no answer came.
    """

    lane: str
    kind: str
    from_s: float
    until_s: float
    says: str
    cut: bool = False


@dataclass(frozen=True)
class Point:
    """Something that happened at one moment.

    Attributes:
        lane: Where.
        kind: `commit`, `own` (a commit of the platform for itself), `fault` or `clue`.
        at_s: Virtual seconds.
        says: What happened.
        name: The same in one to three words, to stand beside the point.
    """

    lane: str
    kind: str
    at_s: float
    says: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a picture of a run shows.

    Attributes:
        lanes: From above.
        bars: In the order of their beginning.
        points: In the order of time; faults in the order of the story.
        left_out: Bars and ticks that were too many; the latest are kept.
    """

    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    points: tuple[Point, ...]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)


def timeline_of(trace: Sequence[Event], faults: Sequence[Fault], said: Sequence[str]) -> Timeline | None:
    """The timeline of a run; None when its events were not kept.

    Args:
        trace: Its events.
        faults: What was done to it.
        said: A sentence for each fault.
    """
    began = next((at for at, kind, _ in trace if kind == "begins"), None)
    if began is None:
        return None
    events = list(until_judged([event for event in trace if event[0] >= began]))
    machines = sorted({name for _, kind, said in trace if kind == "ready" for name in [said.partition(".")[0]]})
    bars, points = [*calls(events), *gaps(events, faults)], list(ticks(events, machines))
    left_out = max(0, len(bars) - BARS_MAX) + max(0, len(points) - TICKS_MAX)
    bars, points = sorted(bars, key=lambda bar: bar.from_s)[-BARS_MAX:], points[-TICKS_MAX:]
    points += [Point(lane_of(f, machines), "fault", f.at_s, s, named(f)) for f, s in zip(faults, said, strict=True)]
    used = {point.lane for point in points} | {bar.lane for bar in bars}
    lanes = (CLIENTS, *machines, *((DATABASE,) if DATABASE in used else ()))
    return Timeline(lanes=lanes, bars=tuple(bars), points=tuple(points), left_out=left_out)


def until_judged(events: Sequence[Event]) -> Iterator[Event]:
    """The events before the checks, without a rest in which only heartbeats were heard."""
    end = next((number for number, (_, kind, _) in enumerate(events) if kind == "judged"), len(events))
    while end and (events[end - 1][1] == "heal" or is_own(events[end - 1])):
        end -= 1
    yield from events[:end]


def is_own(event: Event) -> bool:
    """Whether an event is a commit of the platform for itself; a commit of a handler carries a key."""
    _, kind, said = event
    return kind.endswith(" commit") and not HEX.issuperset(said.partition(" ")[2] or "-")


def calls(events: Sequence[Event]) -> Iterator[Bar]:
    """What clients waited for and machines worked on."""
    open_calls: dict[str, tuple[float, str, str]] = {}
    last_s = events[-1][0] if events else 0.0
    for at_s, kind, said in events:
        number, _, what = said.partition(" ")
        if kind in {"asks", "takes"}:
            lane, _, what = what.partition(" ")
            open_calls[f"{kind} {number}"] = (at_s, lane, what)
        elif kind in {"told", "done"}:
            asked = open_calls.pop(f"{'asks' if kind == 'told' else 'takes'} {number}", None)
            if asked is not None:
                yield bar_of(asked, at_s, what, cut=what == "-")
        elif kind == "kill":
            machine = said.partition(".")[0]
            for name in [n for n, (_, lane, _) in open_calls.items() if n.startswith("takes") and lane == machine]:
                yield bar_of(open_calls.pop(name), at_s, "", cut=True)
    for asked in open_calls.values():
        yield bar_of(asked, last_s, "…", cut=False)


def bar_of(asked: tuple[float, str, str], until_s: float, answer: str, *, cut: bool) -> Bar:
    """The bar of a call that ended somehow."""
    from_s, lane, what = asked
    says = what if cut else f"{what} → {answer}"
    if lane.startswith(("api", "worker")):
        return Bar(lane, "work", from_s, until_s, says, cut)
    return Bar(CLIENTS, "call", from_s, until_s, f"{lane}: {says}", cut)


def gaps(events: Sequence[Event], faults: Sequence[Fault]) -> Iterator[Bar]:
    """When a machine was dead or stood still, and when the database was away."""
    down: dict[str, tuple[float, str]] = {}
    last_s = events[-1][0] if events else 0.0
    for at_s, kind, said in events:
        machine = said.partition(".")[0]
        if kind in {"kill", "term"}:
            down[machine] = (at_s, "dead" if kind == "kill" else "restarts")
        elif kind == "ready" and machine in down:
            since, why = down.pop(machine)
            yield Bar(machine, "gone", since, at_s, why)
    for machine, (since, why) in down.items():
        yield Bar(machine, "gone", since, last_s, why)
    for fault in faults:
        family = fault.label.partition(".")[0]
        if family == "pause":
            yield Bar(fault.machine, "gone", fault.at_s, fault.at_s + PAUSES_S[fault.value - 1], "stands still")
        elif family == "outage":
            yield Bar(DATABASE, "gone", fault.at_s, fault.at_s + OUTAGES_S[fault.value - 1], "away")


def ticks(events: Sequence[Event], machines: Sequence[str]) -> Iterator[Point]:
    """Commits, and what the history shows of the cause."""
    for event in events:
        at_s, kind, said = event
        machine, _, what = kind.partition(" ")
        if machine not in machines:
            continue
        if what == "commit":
            own = is_own(event)
            yield Point(machine, "own" if own else "commit", at_s, f"commit {said if own else said.partition(' ')[0]}")
        elif what in CLUES:
            yield Point(machine, "clue", at_s, f"{what}: {' · '.join(part for part in said.split('|') if part)}", what)


def named(fault: Fault) -> str:
    """A fault in a few words."""
    return " ".join(word for word in fault.label.split(".") if word != fault.machine)


def lane_of(fault: Fault, machines: Sequence[str]) -> str:
    """Where a fault is drawn: on its machine, else on the database or among the clients."""
    if fault.machine in machines:
        return fault.machine
    return DATABASE if fault.label.partition(".")[0] in {"outage", "unordered", "db"} else CLIENTS
