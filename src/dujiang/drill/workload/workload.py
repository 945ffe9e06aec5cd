"""Workload: which requests the clients of a drill send; the simulator's draws decide, and 0 is always the simplest."""

from __future__ import annotations

from copy import deepcopy
from hashlib import sha256
from json import dumps
from typing import TYPE_CHECKING, Any, TypeAlias

from dujiang.drill.workload.contract import RUN, contract_of
from dujiang.drill.workload.coverage import Coverage
from dujiang.drill.workload.pool import HIGH, Kept, Pool, kept_of
from dujiang.drill.workload.request import Request, request_of, unsendable
from dujiang.gateway.routes import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dujiang.app.declaration import App
    from dujiang.drill.workload.contract import Flow
    from dujiang.drill.workload.memory import Memory
    from dujiang.drill.workload.schema import Pointer, Slot
    from dujiang.gateway.client import DeclaredWorkload

    # draw(label, high) is an integer from 0 to high, both included; 0 is the simplest choice.
    Draw: TypeAlias = Callable[[str, int], int]

SLOT_HIGH = 15
# Of 16 draws so many take what an answer taught; the others keep what the pool holds.
LEARNED = 13
LEARNED_BESIDE_EXAMPLES = 8
LEARNED_TO_CREATE = 2
# How often a flow is picked: setting stock is an operator's, and rarer than ordering.
WEIGHT, OPERATOR_WEIGHT = 4, 1


class Workload:
    """The requests of a drill.

    Args:
        app: What is drilled.
        seed: Another seed gives other requests.
        pools: Those of an earlier drill, from its `pools`; then Hypothesis is not asked.

    Attributes:
        flows: What is called: the writes for which a request can be made, without those of modules whose own workload
            says `only=True`.
        readers: What looks at what was written.
        declared: The functions with `@module.workload`.
        coverage: Counts the answers.

    Raises:
        HypothesisMissing: With the command that installs it.
    """

    def __init__(self, app: App, seed: int = 0, *, pools: Mapping[str, Kept] | None = None) -> None:
        contract = contract_of(app)
        self.declared: Sequence[DeclaredWorkload] = app.workloads()
        theirs = {module.name for module in app.modules for each in module.workloads if each.only}
        wanted = [flow for flow in contract if not flow.writes or flow.name.split(".")[0] not in theirs]
        possible = [flow for flow in wanted if not flow.obstacle]
        made, obstacles = kept_of(possible, seed) if pools is None else (dict(pools), {})
        obstacles |= {flow.name: flow.obstacle for flow in wanted if flow.obstacle}
        self._pools = {flow.name: Pool(flow, made[flow.name]) for flow in possible if flow.name in made}
        self.flows = [flow for flow in possible if flow.writes and flow.name in self._pools]
        self.readers = [flow for flow in possible if not flow.writes and flow.name in self._pools]
        self.coverage = Coverage([flow for flow in wanted if flow.writes], obstacles)
        self._contract = contract
        self._turns = [flow for flow in self.flows for _ in range(OPERATOR_WEIGHT if flow.operator else WEIGHT)]

    def __repr__(self) -> str:
        return f"<Workload of {len(self.flows)} flows and {len(self.readers)} readers>"

    @property
    def pools(self) -> dict[str, Kept]:
        """The pools as a JSON value, by flow; `Workload(app, pools=...)` makes the same workload of them."""
        return {name: pool.kept for name, pool in self._pools.items()}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that differ when a draw may mean another request."""
        return sha256(dumps(self.pools, sort_keys=True).encode()).hexdigest()[:16]

    def pick(self, draw: Draw) -> Flow:
        """The flow that a client calls next. Raises LookupError when there is none."""
        if not self._turns:
            raise LookupError("the app has no flow for which a request can be made")
        return self._turns[draw("workload.flow", len(self._turns) - 1)]

    def request(self, flow: Flow, draw: Draw, memory: Memory) -> Request:
        """A request of a flow, with what earlier answers taught filled in; its form is valid."""
        parts, slots = self._pools[flow.name].at(draw(f"workload.request {flow.name}", HIGH))
        filled = {
            slot: value
            for slot in slots
            if (value := chosen(flow, slot, got(parts, slot.at), draw, memory)) is not None
        }
        whole = parts
        if filled:
            whole = deepcopy(parts)
            for slot, value in filled.items():
                put(whole, slot.at, value)
            # An id of one kind may fit another field by its name only, and validators may want two ids to differ.
            if unsendable(whole) or flow.why_not(whole):
                whole = parts
        named = tuple((slot.stem, got(whole, slot.at)) for slot in slots)
        return request_of(flow, whole, named, memory.next_number())

    def reads(self, draw: Draw, memory: Memory, *, kept: bool = False) -> Request | None:
        """A read of something that an answer taught, or of a whole list; None when nothing is known yet.

        Args:
            draw: Decides.
            memory: Of this run.
            kept: Only one whose answers are kept in caches.
        """
        possible = [flow for flow in self.readers if self._ready(flow, memory) and (not kept or flow.kept)]
        if not possible:
            return None
        # One `high` for every number of readers: a schedule keeps its meaning when another draw is lowered.
        place = draw("workload.read", HIGH) * len(possible) // (HIGH + 1)
        return self.request(possible[place], draw, memory)

    def openings(self) -> list[Request]:
        """Reads that need to know nothing: what they answer teaches the ids of the seed data."""
        return [
            request_of(flow, self._pools[flow.name].at(0)[0], (), 0)
            for flow in self.readers
            if "{" not in flow.path and not flow.key_required
        ]

    def answered(self, memory: Memory, request: Request, status: int, body: Any) -> None:
        """Count an answer and learn from it.

        Args:
            memory: Of this run.
            request: What was sent.
            status: Of the answer.
            body: Its JSON value, or what an operation returned.
        """
        self.coverage.note(request.flow, status, body)
        memory.learn(request.flow, status, body, request)

    def flow_at(self, method: str, path: str) -> Flow | None:
        """The flow that a request of a declared workload goes to, so that its answer counts; None for a foreign path."""
        asked = path.partition("?")[0].split("/")
        for flow in self._contract:
            segments = flow.path.split("/")
            if flow.method == method and len(segments) == len(asked):
                pairs = zip(segments, asked, strict=True)
                if all(TEMPLATE.search(said) or said == given for said, given in pairs):
                    return flow
        return None

    def flow_of(self, verb: Any) -> Flow | None:
        """The flow of a verb that a declared workload runs; None for a verb that has none."""
        return next((flow for flow in self._contract if flow.verb is verb), None)

    def _ready(self, flow: Flow, memory: Memory) -> bool:
        """Whether the path of a reader can be filled with something known."""
        if flow.method == RUN:
            return False
        slots = self._pools[flow.name].slots[0]
        return all(memory.known(slot.stem) or slot.exampled for slot in slots if slot.at[0] == "path")


def chosen(flow: Flow, slot: Slot, held: Any, draw: Draw, memory: Memory) -> Any:
    """What fills a slot that holds `held`; None keeps it."""
    known = memory.known(slot.stem)
    # Of one type with what the type allows, if there is such a value; an id may travel as a number and as text.
    known = [each for each in known if type(each) is type(held)] or known
    if not known:
        return None
    share = LEARNED
    if slot.exampled:
        share = LEARNED_BESIDE_EXAMPLES
    if slot.own:
        share = LEARNED_TO_CREATE
    drawn = draw(f"workload.slot {flow.name} {slot.label}", SLOT_HIGH)
    return known[drawn * len(known) // share] if drawn < share else None


def put(parts: Any, at: Pointer, value: Any) -> None:
    """Put a value into a place."""
    for step in at[:-1]:
        parts = parts[step]
    parts[at[-1]] = value


def got(parts: Any, at: Pointer) -> Any:
    """The value at a place."""
    for step in at:
        parts = parts[step]
    return parts
