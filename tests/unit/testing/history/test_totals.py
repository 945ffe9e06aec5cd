"""Ids, money and counters: known faults, and the counter's bounds against every subset of adds."""

from __future__ import annotations

from itertools import chain, combinations
from random import Random

import pytest

from dujiang.testing.history import Operation, check_bank, check_counter, check_unique_ids
from tests.unit.testing.history.invented import COUNTS, FAILS, names, operation, written


class TestIds:
    def test_an_id_given_twice_is_found_and_an_unknown_one_is_not(self) -> None:
        """Two answers with one id are shown together; what nobody received is no id."""
        history = written(
            ("a", "generate", None, (0, 1), 7),
            ("b", "generate", None, (0, 1), 8),
            ("c", "generate", None, (0, None)),
            ("b", "generate", None, (2, 3), 7),
        )

        found = check_unique_ids(history)

        assert names(found) == ["duplicated_id"]
        assert [each.op_id for each in found[0].operations] == [0, 3]
        assert check_unique_ids(history[number] for number in range(3)) == []

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_every_pair(self, seed: int, times: int) -> None:
        """One anomaly for each answer that an earlier one equals."""
        chance = Random(seed)
        for _ in range(15_000 * times):
            history = [operation(n, chance, "generate", result=chance.randrange(6)) for n in range(chance.randrange(6))]
            ids = [o.result for o in history if o.certain]
            repeats = sum(ids[i] in ids[:i] for i in range(len(ids)))
            assert len(check_unique_ids(history)) == repeats


class TestBank:
    @pytest.mark.parametrize(
        ("amounts", "found"),
        [
            ({"a": 4, "b": 6}, []),
            ({"a": 4, "b": 7}, ["wrong_total"]),
            ({"a": -1, "b": 11}, ["overdrawn"]),
            ({"a": 10}, ["wrong_accounts"]),
            ({"a": 4, "b": 5, "c": 1}, ["wrong_accounts"]),
        ],
    )
    def test_what_is_wrong_has_its_name(self, amounts: dict[str, int], found: list[str]) -> None:
        """A read adds up, shows every account, and none below its floor."""
        history = written(("r", "read", None, (0, 1), amounts), ("r", "read", None, (0, None)))

        assert names(check_bank(history, total=10, accounts=("a", "b"))) == found

    def test_a_read_between_the_two_halves_of_a_transfer_is_found(self) -> None:
        """A simulated bank whose transfer is two steps: reads between them, and only they, are wrong."""
        chance = Random(3)
        history, accounts, torn, at = written(), {"a": 50, "b": 50}, 0, 0
        for _ in range(500):
            amount, at = chance.randrange(1, 5), at + 1
            accounts["a"] -= amount
            if chance.random() < 0.3:
                torn += 1
                history.add("r", "read", None, (at, at), dict(accounts))
            accounts["b"] += amount
            history.add("r", "read", None, (at, at), dict(accounts))

        assert names(check_bank(history, total=100, least=None)) == ["wrong_total"] * torn
        assert torn > 0

    def test_a_floor_may_be_lower_or_none(self) -> None:
        """An overdraft that is allowed is no anomaly."""
        history = written(("r", "read", None, (0, 1), {"a": -5, "b": 15}))

        assert check_bank(history, total=10, least=-5) == check_bank(history, total=10, least=None) == []
        assert names(check_bank(history, total=10, least=-4)) == ["overdrawn"]


class TestCounter:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("a", "add", 5, (0, 1)), ("b", "read", None, (2, 3), 5)], []),
            ([("a", "add", 5, (0, 1)), ("b", "read", None, (2, 3), 0)], ["out_of_bounds"]),
            ([("a", "add", 5, (0, 1)), ("b", "read", None, (1, 3), 0)], []),
            ([("a", "add", 5, (0, None)), ("b", "read", None, (2, 3), 0), ("b", "read", None, (4, 5), 5)], []),
            ([("a", "add", 5, (0, 1), FAILS), ("b", "read", None, (2, 3), 5)], ["out_of_bounds"]),
            ([("a", "add", -5, (0, 1)), ("a", "add", 7, (0, None)), ("b", "read", None, (2, 3), -5)], []),
            ([("a", "add", 5, (4, 5)), ("b", "read", None, (2, 3), 5)], ["out_of_bounds"]),
        ],
    )
    def test_a_read_lies_within_its_bounds(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """What must be in a read, what may be, and what cannot."""
        assert names(check_counter(written(*lines))) == found

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_its_bounds_are_those_of_every_subset(self, seed: int, times: int) -> None:
        """The bounds are the least and the greatest sum of a subset of adds that a read may have seen."""
        chance, wrong = Random(seed), 0
        for _ in range(8_000 * times):
            adds = [
                operation(number, chance, "add", value=chance.randrange(-4, 6), key=chance.randrange(2))
                for number in range(chance.randrange(6))
            ]
            read = operation(9, chance, "read", result=chance.randrange(-5, 9), key=0)
            found = check_counter([*adds, read])
            assert (found == []) == (not read.certain or within(adds, read)), (adds, read)
            wrong += found != []

        assert wrong > 100


def within(adds: list[Operation], read: Operation) -> bool:
    """Whether the read lies between the least and the greatest sum, all subsets tried."""
    own = [add for add in adds if add.key == read.key and add.possible and add.invoked_at <= read.ended_at]
    must = [add.value for add in own if add.certain and add.ended_at < read.invoked_at]
    may = [add.value for add in own if not (add.certain and add.ended_at < read.invoked_at)]
    subsets = chain.from_iterable(combinations(may, size) for size in range(len(may) + 1))
    sums = [sum(must) + sum(subset) for subset in subsets]
    return bool(min(sums) <= read.result <= max(sums))
