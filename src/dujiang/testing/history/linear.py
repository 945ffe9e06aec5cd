"""Linear: is there one order of the operations of a key that explains every answer and agrees with real time?

What is promised by a linearizable register or lock: each operation takes effect at one instant between its beginning
and its end. The question is NP-complete, so the search is bounded and says `undecided` instead of hanging.

    time ──►   w1 ├────────┤                     configurations after each end, as (value, taken early):
               r1      ├──────────┤ -> 1         w1 ends:  {(1, -), (1, r1)}
               w2         ├───────────── info    r1 ends:  {(1, -)}; w2 may come now, later, or never

Wing and Gong's search, just in time as Lowe has it: walk through the beginnings and ends in order of time; at the end of an
operation every surviving configuration must have taken it, and other open operations are taken only on the way to it. A
configuration is the state of the object and which open operations it has taken. Those already seen are not walked again
(memo). Long histories of few clients cost what a short one costs, again and again.

`info` operations never end: they stay open, may be taken at any later point, and need not be. They are what makes
histories hard: n of them give up to 2^n configurations. Two things keep that small. The model leaves out those that nobody
can have noticed (an unknown read; an unknown write of a value that no one saw). And of two configurations that differ only
in the `info`s that they used up, the one that used fewer can do all that the other can, so the other is not walked
(dominance; the fewest are walked first). A hundred unknown writes that are all seen later cost 10,000 steps an operation.

Limits: keys are judged apart from each other, which is exact for linearizability and would not be for serializability
(cycles.py). A failed operation is taken for one that did not happen; what a failed compare-and-set saw is not used.
A lock with a time limit is not linearizable by design: judge what was written under it, by its fencing numbers.

Proof: tests/unit/testing/history/test_linear.py compares with the trial of every order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, Protocol

from dujiang.testing.history.anomaly import UNDECIDED, Anomaly, by_key, named

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from dujiang.testing.history.record import Operation

IMPOSSIBLE: Final = object()


class Sequential(Protocol):
    """What an object does when operations come one at a time: the meaning that a history is judged by."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of operations that it knows."""
        ...

    @property
    def initial(self) -> Hashable:
        """Its state at the beginning."""
        ...

    def step(self, state: Any, operation: Operation) -> Any:
        """The state after the operation; IMPOSSIBLE if it could not have had this result in this state.

        An operation that is not `ok` has no result to compare.
        """
        ...

    def noticed(self, operations: list[Operation]) -> list[Operation]:
        """The operations without those of unknown end that cannot have changed any answer; all of them is never wrong."""
        ...


@dataclass(frozen=True)
class Register:
    """One value: `write` (value), `read` (result = the value), `cas` (value = [expected, new]).

    Attributes:
        initial: What it holds at the beginning.
    """

    initial: Any = None
    kinds: tuple[str, ...] = ("write", "read", "cas")

    def step(self, state: Any, operation: Operation) -> Any:
        """As Sequential."""
        if operation.kind == "write":
            return operation.value
        if operation.kind == "read":
            return state if not operation.certain or operation.result == state else IMPOSSIBLE
        expected, new = operation.value
        return new if state == expected else IMPOSSIBLE

    def noticed(self, operations: list[Operation]) -> list[Operation]:
        """As Sequential: a write or compare-and-set of unknown end matters if somebody may have met its value."""
        met = {o.result for o in operations if o.kind == "read" and o.certain}
        met |= {o.value[0] for o in operations if o.kind == "cas"}
        new = {o.op_id: o.value if o.kind == "write" else o.value[1] for o in operations if o.kind != "read"}
        return [o for o in operations if o.certain or (o.op_id in new and new[o.op_id] in met)]


@dataclass(frozen=True)
class Lock:
    """One holder: `acquire` (result = a fencing number that rises, or None), `release`; the process is the holder."""

    initial: tuple[Any, Any] = (None, None)
    kinds: tuple[str, ...] = ("acquire", "release")

    def step(self, state: Any, operation: Operation) -> Any:
        """As Sequential; the state is the holder and the last fencing number."""
        holder, number = state
        if operation.kind == "release":
            return (None, number) if holder == (operation.process,) else IMPOSSIBLE
        fence = operation.result if operation.certain else None
        if holder is not None or (fence is not None and number is not None and fence <= number):
            return IMPOSSIBLE
        return (operation.process,), number if fence is None else fence

    def noticed(self, operations: list[Operation]) -> list[Operation]:
        """As Sequential."""
        return operations


REGISTER: Final = Register()


def check_linearizable(
    history: Iterable[Operation], model: Sequential = REGISTER, *, states_most: int = 500_000
) -> list[Anomaly]:
    """Keys whose operations no order explains; one anomaly for each, at the first operation that no order explains.

    Args:
        history: The operations; others than the model's kinds are left out.
        model: What the object does: `Register()`, `Lock()`, or one of your own.
        states_most: How many steps may be tried for one key before the verdict is `undecided`; about 2 us each.
    """
    found: list[Anomaly] = []
    for key, operations in by_key(history, model.kinds):
        found += Search(key, operations, model, states_most).run()
    return found


# A configuration: the state, the open operations taken that will end, the `info`s used up.
Configuration = tuple[Any, frozenset[int], frozenset[int]]


class Search:
    """The search for an order of one key's operations.

    Args:
        key: The key, for the sentence.
        operations: Those that may have happened.
        model: What the object does.
        states_most: How many steps may be tried.
    """

    def __init__(self, key: Any, operations: list[Operation], model: Sequential, states_most: int) -> None:
        self.key = key
        self.model = model
        self.states_most = states_most
        self.states = 0
        self.operations = {operation.op_id: operation for operation in model.noticed(operations)}
        self.open: dict[int, Operation] = {}
        self.unsure: set[int] = set()

    def run(self) -> list[Anomaly]:
        """Walk through the beginnings and ends."""
        living: list[Configuration] = [(self.model.initial, frozenset(), frozenset())]
        for _, ends, op_id in self.moments():
            operation = self.operations[op_id]
            if not ends:
                self.open[op_id] = operation
                if not operation.certain:
                    self.unsure.add(op_id)
                continue
            before, living = living, self.taken(living, op_id)
            if self.states > self.states_most:
                says = f"after {self.states_most} steps no order{named(self.key)} is found, and none is ruled out"
                return [Anomaly(UNDECIDED, says, (operation,))]
            if not living:
                return [self.refuted(operation, before)]
            del self.open[op_id]
        return []

    def moments(self) -> list[tuple[float, bool, int]]:
        """Beginnings and ends in order of time; at one moment beginnings come first, because equal is concurrent."""
        begins = [(o.invoked_at, False, o.op_id) for o in self.operations.values()]
        return sorted([*begins, *((o.ended_at, True, o.op_id) for o in self.operations.values() if o.certain)])

    def taken(self, living: Iterable[Configuration], op_id: int) -> list[Configuration]:
        """Every configuration that has taken this operation, by way of others where needed; it is closed in them."""
        arrived = Fewest()
        passed = Fewest()
        waiting: list[tuple[int, int, Configuration]] = []
        for each in living:
            heappush(waiting, (len(each[2]), len(waiting), each))
        turn = len(waiting)
        while waiting and self.states <= self.states_most:
            _, _, (state, held, used) = heappop(waiting)
            if op_id in held:
                arrived.add((state, held - {op_id}, used))
                continue
            for number, operation in self.open.items():
                if number in held or number in used:
                    continue
                self.states += 1
                after = self.model.step(state, operation)
                if after is IMPOSSIBLE:
                    continue
                unsure = number in self.unsure
                following = (after, held if unsure else held | {number}, used | {number} if unsure else used)
                if passed.add(following):
                    turn += 1
                    heappush(waiting, (len(following[2]), turn, following))
        return arrived.kept()

    def refuted(self, operation: Operation, before: list[Configuration]) -> Anomaly:
        """The anomaly at an operation that no configuration can take."""
        states = sorted({repr(state) for state, _, _ in before})
        possible = ", ".join(states[:5]) + (", ..." if len(states) > 5 else "")
        says = f"no order{named(self.key)} explains {operation}; before it the state was {possible}"
        around = sorted(self.open.values(), key=lambda each: each.invoked_at)
        others = (each for each in around if each.op_id != operation.op_id)
        return Anomaly("not_linearizable", says, (operation, *others))


class Fewest:
    """Configurations, of which one that used up more `info`s than another one like it is not taken in."""

    def __init__(self) -> None:
        self.alike: defaultdict[tuple[Any, frozenset[int]], list[frozenset[int]]] = defaultdict(list)

    def add(self, configuration: Configuration) -> bool:
        """Take it in, unless one that is there makes it needless; whether it was taken in."""
        state, held, used = configuration
        there = self.alike[state, held]
        if any(fewer <= used for fewer in there):
            return False
        there.append(used)
        return True

    def kept(self) -> list[Configuration]:
        """Those that were taken in."""
        return [(state, held, used) for (state, held), each in self.alike.items() for used in each]
