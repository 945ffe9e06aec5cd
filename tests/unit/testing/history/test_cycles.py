"""List-append transactions: the named anomalies, and the trial of every serial order."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from random import Random
from typing import Any

import pytest

from dujiang.testing.history import HistoryRefused, Operation, check_list_append
from dujiang.testing.history.graph import components, shortest
from tests.unit.testing.history.invented import COUNTS, FAILS, names, written


def txn(process: str, *does: tuple[str, str, Any], outcome: Any = None) -> tuple[Any, ...]:
    """A transaction of a test: ("append", key, element) and ("r", key, what was read)."""
    value = [[what, key, None if what == "r" else element] for what, key, element in does]
    if outcome == "info":
        return (process, "txn", value, (0, None))
    return (process, "txn", value, (0, 1), FAILS if outcome is FAILS else [list(each) for each in does])


def a(key: str, element: int) -> tuple[str, str, Any]:
    """An append."""
    return "append", key, element


def r(key: str, *seen: int) -> tuple[str, str, Any]:
    """A read."""
    return "r", key, list(seen)


KNOWN = {
    "serial": ([txn("1", a("x", 1), r("y")), txn("2", r("x", 1), a("y", 1)), txn("3", r("y", 1), r("x", 1))], []),
    # Two transactions' appends to two lists stand in opposite orders.
    "dirty write": (
        [txn("1", a("x", 1), a("y", 1)), txn("2", a("x", 2), a("y", 2)), txn("3", r("x", 1, 2), r("y", 2, 1))],
        ["G0"],
    ),
    "aborted read": ([txn("1", a("x", 1), outcome=FAILS), txn("2", r("x", 1))], ["G1a"]),
    "intermediate read": (
        [txn("1", a("x", 1), a("x", 2)), txn("2", r("x", 1)), txn("3", r("x", 1, 2))],
        ["G-single", "G1b"],
    ),
    # Each read what the other appended.
    "circular information flow": ([txn("1", a("x", 1), r("y", 1)), txn("2", a("y", 1), r("x", 1))], ["G1c"]),
    # A read of one list before, of another after the same transaction.
    "read skew": ([txn("1", a("x", 1), a("y", 1)), txn("2", r("x"), r("y", 1)), txn("3", r("x", 1))], ["G-single"]),
    # Both read the same state and both append.
    "lost update": ([txn("1", r("x"), a("x", 1)), txn("2", r("x"), a("x", 2)), txn("3", r("x", 1, 2))], ["G-single"]),
    "write skew": (
        [txn("1", r("x"), a("y", 1)), txn("2", r("y"), a("x", 1)), txn("3", r("x", 1), r("y", 1))],
        ["G2"],
    ),
    # Without a final read: an element that nobody read comes after all that were.
    "write skew unseen": ([txn("1", r("x"), a("y", 1)), txn("2", r("y"), a("x", 1))], ["G2"]),
    "long fork": (
        [txn("1", a("x", 1)), txn("2", a("y", 1)), txn("3", r("x", 1), r("y")), txn("4", r("x"), r("y", 1))],
        ["G2"],
    ),
    "own append unseen": ([txn("1", a("x", 1), r("x"))], ["internal"]),
    "own append seen": ([txn("1", r("x"), a("x", 1), r("x", 1))], []),
    "unrepeatable": ([txn("1", a("x", 1)), txn("2", r("x"), r("x", 1))], ["G-single", "internal"]),
    "two orders": (
        [txn("1", a("x", 1)), txn("2", a("x", 2)), txn("3", r("x", 1, 2)), txn("4", r("x", 2))],
        ["incompatible_order"],
    ),
    "own order turned round": ([txn("1", a("x", 1), a("x", 2)), txn("2", r("x", 2, 1))], ["G1b", "incompatible_order"]),
    "one of two left out": ([txn("1", a("x", 1), a("x", 2)), txn("2", r("x", 2))], ["G-single", "incompatible_order"]),
    "twice": ([txn("1", a("x", 1)), txn("2", r("x", 1, 1))], ["duplicate_append"]),
    "from nowhere": ([txn("2", r("x", 1))], ["unexpected"]),
    "unknown and unseen": ([txn("1", a("x", 1), outcome="info"), txn("2", r("x"))], []),
    "unknown and seen": ([txn("1", a("x", 1), outcome="info"), txn("2", r("x", 1))], []),
    # Half of a transaction of unknown end was seen: all of it has happened.
    "unknown and half seen": (
        [txn("1", a("x", 1), a("y", 1), outcome="info"), txn("2", r("x", 1), r("y")), txn("3", r("y", 1))],
        ["G-single"],
    ),
}


class TestKnown:
    @pytest.mark.parametrize("name", KNOWN)
    def test_an_anomaly_has_its_name(self, name: str) -> None:
        """Each anomaly of the literature is found under its own name, and nothing else is."""
        lines, found = KNOWN[name]

        assert names(check_list_append(written(*lines))) == found

    @pytest.mark.parametrize(
        ("name", "read_committed", "snapshot"),
        [
            ("dirty write", ["G0"], ["G0"]),
            ("circular information flow", ["G1c"], ["G1c"]),
            ("read skew", [], ["G-single"]),
            ("lost update", [], ["G-single"]),
            ("write skew", [], []),
            ("unrepeatable", [], ["G-single", "internal"]),
        ],
    )
    def test_what_is_wrong_depends_on_what_was_promised(
        self, name: str, read_committed: list[str], snapshot: list[str]
    ) -> None:
        """READ COMMITTED allows skew, a snapshot allows write skew, neither allows dirty writes."""
        history = written(*KNOWN[name][0])

        assert names(check_list_append(history, isolation="read committed")) == read_committed
        assert names(check_list_append(history, isolation="snapshot")) == snapshot

    def test_the_circle_is_told_in_words(self) -> None:
        """The sentence names every dependency with its element and key, and shows the transactions."""
        (found,) = check_list_append(written(*KNOWN["write skew"][0]))

        assert "0 -> 1 (rw on 1 of 'x')" in found.says
        assert "1 -> 0 (rw on 1 of 'y')" in found.says
        assert sorted(each.op_id for each in found.operations) == [0, 1]

    def test_an_unknown_isolation_is_refused(self) -> None:
        """A word that is none of the three is told with those that are."""
        with pytest.raises(HistoryRefused, match="no isolation 'serialisable'"):
            check_list_append([], isolation="serialisable")  # type: ignore[arg-type]

    def test_a_long_serial_history_is_clean_and_one_late_read_is_found(self) -> None:
        """1,000 transactions on twenty lists in serial order have no cycle; one read of the distant past has."""
        chance, lists, lines = Random(1), {f"k{n}": list[int]() for n in range(20)}, []
        for number in range(1_000):
            first, second = chance.sample(sorted(lists), 2)
            lists[first].append(number)
            lines.append(txn("c", a(first, number), r(second, *lists[second])))
        lines.append(txn("c", *(r(key, *seen) for key, seen in lists.items())))
        assert check_list_append(written(*lines)) == []

        lines[800][4][1][2].clear()
        assert "G-single" in names(check_list_append(written(*lines)))


def invented(chance: Random) -> list[Operation]:
    """Two to five small transactions on two lists.

    They are run in some serial order, with reads that sometimes see what they should not, so that sound and broken
    histories are both frequent.
    """
    wrong = chance.choice((0.0, 0.1, 0.3))
    lists: dict[str, list[int]] = {"x": [], "y": []}
    made = []
    for number in range(chance.randrange(2, 6)):
        drawn = chance.random()
        outcome = "ok" if drawn < 0.8 else "info" if drawn < 0.92 else "fail"
        happens = outcome == "ok" or chance.random() < (0.5 if outcome == "info" else wrong)
        value: list[tuple[str, str, Any]] = []
        result: list[tuple[str, str, Any]] = []
        for place in range(chance.randrange(1, 4)):
            key = chance.choice("xy")
            if chance.random() < 0.45:
                element = number * 10 + place
                value.append(("append", key, element))
                result.append(("append", key, element))
                if happens:
                    lists[key].insert(len(lists[key]) - (chance.random() < wrong), element)
            else:
                seen = list(lists[key]) if happens else []
                if seen and chance.random() < wrong:
                    seen = seen[: chance.randrange(len(seen))]
                value.append(("r", key, None))
                result.append(("r", key, tuple(seen)))
        ok = outcome == "ok"
        made.append(
            Operation(number, "c", "txn", None, tuple(value), 0, outcome, 1, tuple(result) if ok else None)  # type: ignore[arg-type]
        )
    return made


def serial(history: list[Operation]) -> bool:
    """Whether some serial order of the certain transactions and some unknown ones gives every read: all are tried."""
    sure = [o for o in history if o.certain]
    unknown = [o for o in history if o.outcome == "info"]
    for size in range(len(unknown) + 1):
        for some in combinations(unknown, size):
            if any(replays(order) for order in permutations([*sure, *some])):
                return True
    return False


def replays(order: tuple[Operation, ...]) -> bool:
    """Whether the transactions, one after the other, read what they read."""
    lists: dict[str, tuple[int, ...]] = {"x": (), "y": ()}
    for operation in order:
        for does, key, what in operation.result or operation.value:
            if does == "append":
                lists[key] += (what,)
            elif operation.certain and lists[key] != what:
                return False
    return True


@pytest.mark.parametrize(("seed", "times"), COUNTS)
def test_it_agrees_with_the_trial_of_every_serial_order(seed: int, times: int) -> None:
    """An anomaly is found if and only if no serial order of any choice of unknown transactions explains the reads."""
    chance, seen = Random(seed), Counter[str]()
    for _ in range(12_000 * times):
        history = invented(chance)
        found = names(check_list_append(history))
        assert (found == []) == serial(history), history
        seen.update(found or ["none"])

    assert set(seen) >= {"none", "G0", "G1a", "G1b", "G1c", "G-single", "G2", "internal", "incompatible_order"}


@pytest.mark.parametrize(("seed", "times"), COUNTS)
def test_components_are_those_of_who_reaches_whom(seed: int, times: int) -> None:
    """Tarjan's components equal the classes of nodes that reach each other, and ways are as short as can be."""
    chance = Random(seed)
    for _ in range(4_000 * times):
        size = chance.randrange(1, 8)
        graph = {node: {chance.randrange(size) for _ in range(chance.randrange(3))} - {node} for node in range(size)}
        far = [[0 if one == other else 1 if other in graph[one] else 99 for other in graph] for one in graph]
        for middle in graph:
            for one in graph:
                for other in graph:
                    far[one][other] = min(far[one][other], far[one][middle] + far[middle][other])
        classes = {frozenset(o for o in graph if far[n][o] < 99 and far[o][n] < 99) for n in graph}

        assert {frozenset(each) for each in components(graph)} == {each for each in classes if len(each) > 1}
        one, other = chance.randrange(size), chance.randrange(size)
        assert len(shortest(graph, one, other, graph)) == (far[one][other] + 1 if far[one][other] < 99 else 0)


def test_a_chain_of_a_hundred_thousand_is_no_recursion() -> None:
    """A circle longer than Python's stack is one component."""
    size = 100_000
    assert [len(each) for each in components({n: {(n + 1) % size} for n in range(size)})] == [size]
