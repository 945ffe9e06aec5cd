"""Linearizability: known histories, the trial of every order, and searches that must end."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from random import Random
from typing import Any

import pytest

from dujiang.testing.history import IMPOSSIBLE, Lock, Operation, Register, Sequential, check_linearizable
from tests.unit.testing.history.invented import COUNTS, FAILS, names, operation, written


class TestRegister:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("a", "write", 1, (0, 1)), ("b", "read", None, (2, 3), 1)], []),
            ([("a", "write", 1, (0, 1)), ("b", "read", None, (2, 3), None)], ["not_linearizable"]),
            # A read that overlaps the write may see either value, but not the new and then the old one.
            ([("a", "write", 1, (0, 9)), ("b", "read", None, (1, 2), 1), ("b", "read", None, (3, 4), 1)], []),
            (
                [("a", "write", 1, (0, 9)), ("b", "read", None, (1, 2), 1), ("b", "read", None, (3, 4), None)],
                ["not_linearizable"],
            ),
            # An unknown write may come late, or never, but not before it was asked for.
            ([("a", "write", 1, (0, None)), ("b", "read", None, (5, 6), None), ("b", "read", None, (7, 8), 1)], []),
            ([("b", "read", None, (0, 1), 1), ("a", "write", 1, (2, None))], ["not_linearizable"]),
            ([("a", "write", 1, (0, 1), FAILS), ("b", "read", None, (2, 3), 1)], ["not_linearizable"]),
            ([("a", "write", 1, (0, 1)), ("b", "cas", [1, 2], (2, 3)), ("b", "read", None, (4, 5), 2)], []),
            ([("a", "write", 1, (0, 1)), ("b", "cas", [0, 2], (2, 3))], ["not_linearizable"]),
        ],
    )
    def test_known_histories(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """Fresh and stale reads, overlaps, unknown and failed writes, compare-and-set."""
        assert names(check_linearizable(written(*lines))) == found

    @pytest.mark.parametrize("first", ["write", "cas"])
    def test_which_unknown_operation_was_used_up_is_kept(self, first: str) -> None:
        """Two unknown operations lead to one state, and only one of them can be used again later: both ways are kept."""
        unknown = {"write": ("u", "write", 1, (2, None)), "cas": ("u", "cas", [0, 1], (2, None))}
        lines = [unknown.pop(first), *unknown.values()]
        history = written(("a", "write", 0, (0, 1)), *lines, ("b", "read", None, (3, 4), 1))
        history.add("a", "write", 5, (5, 6))
        history.add("b", "read", None, (7, 8), 1)

        assert check_linearizable(history) == []
        history.add("a", "write", 6, (9, 10))
        history.add("b", "read", None, (11, 12), 1)
        assert names(check_linearizable(history)) == ["not_linearizable"]

    def test_a_lost_update_is_shown_with_what_was_possible(self) -> None:
        """The anomaly names the operation that no order explains and the states before it."""
        history = written(("a", "write", 1, (0, 1), None, "k"), ("b", "read", None, (2, 3), 7, "k"))

        (found,) = check_linearizable(history)

        assert found.operations[0].process == "b"
        assert found.says.startswith("no order of 'k' explains b: read 'k' -> ok 7")
        assert found.says.endswith("before it the state was 1")

    def test_keys_are_apart(self) -> None:
        """A wrong key does not accuse its neighbour."""
        history = written(
            ("a", "write", 1, (0, 1), None, "x"),
            ("b", "read", None, (2, 3), None, "y"),
            ("b", "read", None, (2, 3), 2, "x"),
        )

        assert [each.operations[0].key for each in check_linearizable(history)] == ["x"]

    def test_a_long_history_of_few_clients_is_decided(self) -> None:
        """20,000 operations of four clients are decided within the default bound, right and wrong."""
        chance, history, value, at = Random(5), written(), None, 0.0
        for number in range(20_000):
            at += 1
            if chance.random() < 0.5:
                value = number
                history.add(number % 4, "write", number, (at, at + 2.5))
                at += 2
            else:
                history.add(number % 4, "read", None, (at, at + 0.5), value)

        assert check_linearizable(history) == []
        history.add("x", "read", None, (at + 10, at + 11), -1)
        assert names(check_linearizable(history)) == ["not_linearizable"]

    def test_unknown_writes_do_not_hang(self) -> None:
        """A thousand unknown writes that nobody saw, and thirty that are seen late, leave a history decided."""
        history = written(*(("u", "write", number, (0, None)) for number in range(1030)))
        for number in range(100):
            history.add("a", "write", 2000 + number, (2 * number + 1, 2 * number + 1.5))
            history.add("a", "read", None, (2 * number + 2, 2 * number + 2.5), 2000 + number)
        for number in range(30):
            history.add("a", "read", None, (300 + number, 300.5 + number), number)

        assert check_linearizable(history) == []
        history.add("a", "read", None, (400, 401), 0)
        assert names(check_linearizable(history)) == ["not_linearizable"]

    def test_a_search_without_end_says_undecided(self) -> None:
        """Where every order would have to be tried the answer is `undecided` after the given number of steps."""
        lines: list[tuple[Any, ...]] = [("w", "cas", [number, number + 1], (0, 100)) for number in range(12)]
        history = written(("a", "write", 0, (0, 100)), *lines, *(("u", "write", n, (0, None)) for n in range(12)))
        history.add("r", "read", None, (101, 102), -1)

        (found,) = check_linearizable(history, states_most=2000)

        assert found.undecided
        assert "2000 steps" in found.says


class TestLock:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("a", "acquire", None, (0, 1)), ("a", "release", None, (2, 3)), ("b", "acquire", None, (2, 4))], []),
            ([("a", "acquire", None, (0, 1)), ("b", "acquire", None, (2, 4))], ["not_linearizable"]),
            ([("a", "acquire", None, (0, 1)), ("b", "release", None, (2, 4))], ["not_linearizable"]),
            # It may or may not have been acquired, and may or may not have been released.
            ([("a", "acquire", None, (0, None)), ("b", "acquire", None, (2, 4))], []),
            ([("a", "acquire", None, (0, 1)), ("a", "release", None, (2, None)), ("b", "acquire", None, (3, 4))], []),
            (
                [("a", "acquire", None, (0, 1), 5), ("a", "release", None, (2, 3)), ("b", "acquire", None, (4, 5), 6)],
                [],
            ),
            (
                [("a", "acquire", None, (0, 1), 5), ("a", "release", None, (2, 3)), ("b", "acquire", None, (4, 5), 5)],
                ["not_linearizable"],
            ),
        ],
    )
    def test_known_histories(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """One holder at a time, released by its holder, with fencing numbers that rise."""
        assert names(check_linearizable(written(*lines), Lock())) == found


def invented(chance: Random) -> list[Operation]:
    """Up to six operations on one register."""
    made = []
    for number in range(chance.randrange(1, 7)):
        kind = chance.choice(("write", "read", "read", "cas"))
        value = {"write": chance.randrange(3), "read": None, "cas": (chance.randrange(3), chance.randrange(3))}[kind]
        made.append(
            operation(
                number, chance, kind, value=value, result=chance.choice((None, 0, 1, 2)) if kind == "read" else None
            )
        )
    return made


def invented_lock(chance: Random) -> list[Operation]:
    """Up to six operations on one lock, sometimes with fencing numbers."""
    made = []
    for number in range(chance.randrange(1, 7)):
        kind = chance.choice(("acquire", "release"))
        made.append(operation(number, chance, kind, result=chance.choice((None, 1, 2)) if kind == "acquire" else None))
    return made


def orderable(history: list[Operation], model: Sequential) -> bool:
    """Whether some order of the certain operations and some of the unknown ones explains all: every order is tried."""
    possible = [o for o in history if o.possible]
    sure = {o.op_id for o in possible if o.certain}

    def explains(order: list[Operation], state: Any) -> bool:
        for place, each in enumerate(order):
            if any(other.ended_at < each.invoked_at for other in order[place + 1 :] if other.certain):
                return False
            state = model.step(state, each)
            if state is IMPOSSIBLE:
                return False
        return True

    for size in range(len(sure), len(possible) + 1):
        for order in permutations(possible, size):
            if sure <= {o.op_id for o in order} and explains(list(order), model.initial):
                return True
    return False


@pytest.mark.parametrize(("seed", "times"), COUNTS)
@pytest.mark.parametrize("model", [Register(), Lock()], ids=["register", "lock"])
def test_it_agrees_with_the_trial_of_every_order(model: Any, seed: int, times: int) -> None:
    """An anomaly is found if and only if no order of any choice of unknown operations explains the answers."""
    chance, seen = Random(seed), Counter[bool]()
    for _ in range(2_500 * times):
        history = (invented if isinstance(model, Register) else invented_lock)(chance)
        found = check_linearizable(history, model)
        assert (found == []) == orderable(history, model), history
        seen[found == []] += 1

    assert min(seen[True], seen[False]) > 300
