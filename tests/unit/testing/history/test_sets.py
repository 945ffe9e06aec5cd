"""The set's checker against known losses, and against every pair of add and read."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dujiang.testing.history import Operation, check_set_full
from tests.unit.testing.history.invented import COUNTS, FAILS, names, operation, written


class TestKnown:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (2, 3), [1])], []),
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (1, 3), [])], ["undecided"]),
            ([("a", "add", 1, (0, 1))], ["undecided"]),
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (2, 3), [])], ["lost"]),
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (2, 3), [1]), ("b", "read", None, (4, 5), [])], ["lost"]),
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (2, 3), []), ("b", "read", None, (4, 5), [1])], ["stale"]),
            ([("a", "add", 1, (0, None)), ("b", "read", None, (2, 3), []), ("b", "read", None, (4, 5), [1])], []),
            ([("a", "add", 1, (0, None)), ("b", "read", None, (2, 3), [1]), ("b", "read", None, (4, 5), [])], ["lost"]),
            ([("b", "read", None, (2, 3), [1])], ["unexpected"]),
            ([("a", "add", 1, (0, 1), FAILS), ("b", "read", None, (2, 3), [1])], ["unexpected"]),
            (
                [("b", "read", None, (0, 1), [1]), ("a", "add", 1, (2, 3)), ("b", "read", None, (4, 5), [1])],
                ["unexpected"],
            ),
            ([("a", "add", 1, (0, 1)), ("b", "read", None, (2, 3), [1, 1])], ["duplicated"]),
            # The add was tried twice with one element, and the first try's end is unknown.
            ([("a", "add", 1, (0, None)), ("a", "add", 1, (4, 5)), ("b", "read", None, (2, 3), [1])], []),
        ],
    )
    def test_what_is_wrong_has_its_name(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """Lost, seen late, from nowhere, twice, never looked at."""
        assert names(check_set_full(written(*lines))) == found

    def test_a_promised_staleness_is_allowed_and_no_more(self) -> None:
        """A read that begins within the promised seconds may lack the element, a later one may not."""
        history = written(("a", "add", 1, (0, 1)), ("b", "read", None, (3, 4), []), ("b", "read", None, (9, 9), [1]))

        assert check_set_full(history, within_s=2.0) == []
        assert names(check_set_full(history, within_s=1.9)) == ["stale"]

    def test_sets_are_apart(self) -> None:
        """An element of one set is not missed in another."""
        history = written(("a", "add", 1, (0, 1), None, "x"), ("b", "read", None, (2, 3), [], "y"))

        assert names(check_set_full(history)) == ["undecided"]


def invented(chance: Random) -> list[Operation]:
    """A few adds of three elements and a few reads."""
    made = [operation(number, chance, "add", value=chance.randrange(3)) for number in range(chance.randrange(4))]
    for number in range(chance.randrange(4)):
        some = [element for element in range(3) if chance.random() < 0.6]
        made.append(operation(10 + number, chance, "read", result=tuple(some)))
    return made


def verdicts(history: list[Operation]) -> list[str]:
    """The names by definition: every element with every read."""
    found = []
    reads = [o for o in history if o.kind == "read" and o.certain]
    for element in range(3):
        adds = [o for o in history if o.kind == "add" and o.possible and o.value == element]
        having = [read for read in reads if element in read.result]
        if having and not adds:
            found.append("unexpected")
        if not adds:
            continue
        if any(all(read.ended_at < add.invoked_at for add in adds) for read in having):
            found.append("unexpected")
        acknowledged = [add.ended_at for add in adds if add.certain]
        known_at = min([*acknowledged, *(read.ended_at for read in having)], default=None)
        later = [] if known_at is None else [read for read in reads if read.invoked_at > known_at]
        lacking = [read for read in later if element not in read.result]
        if acknowledged and not later and not having:
            found.append("undecided")
        elif any(all(seen.ended_at < read.invoked_at for seen in having) for read in lacking):
            found.append("lost")
        elif lacking:
            found.append("stale")
    return sorted(found)


@pytest.mark.parametrize(("seed", "times"), COUNTS)
def test_it_agrees_with_the_definition(seed: int, times: int) -> None:
    """For every invented history the names found are those that the definition gives."""
    chance, seen = Random(seed), Counter[str]()
    for _ in range(15_000 * times):
        history = invented(chance)
        found = names(check_set_full(history))
        assert found == verdicts(history), history
        seen.update(found)

    assert set(seen) == {"lost", "stale", "unexpected", "undecided"}
