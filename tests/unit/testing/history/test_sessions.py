"""Sessions, staleness, forks and key order: known faults, and every pair compared."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest

from dujiang.testing.history import (
    Anomaly,
    Operation,
    check_key_order,
    check_long_fork,
    check_sessions,
    check_staleness,
    staleness,
)
from tests.unit.testing.history.invented import COUNTS, FAILS, names, operation, written


class TestSessions:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("u", "write", None, (0, 1), 2), ("u", "read", None, (2, 3), 2)], []),
            ([("u", "write", None, (0, 1), 2), ("u", "read", None, (2, 3), 1)], ["read_your_writes"]),
            ([("u", "write", None, (0, 1), 2), ("u", "read", None, (2, 3), None)], ["read_your_writes"]),
            ([("u", "read", None, (0, 1), 2), ("u", "read", None, (2, 3), 1)], ["monotonic_reads"]),
            ([("u", "write", None, (0, 1), 2), ("u", "write", None, (2, 3), 1)], ["monotonic_writes"]),
            ([("u", "read", None, (0, 1), 2), ("u", "write", None, (2, 3), 1)], ["writes_follow_reads"]),
            # Another user, another key, an overlap, an unknown end: nothing was promised.
            ([("u", "write", None, (0, 1), 2), ("v", "read", None, (2, 3), 1)], []),
            ([("u", "write", None, (0, 1), 2, "x"), ("u", "read", None, (2, 3), 1, "y")], []),
            ([("u", "write", None, (0, 2), 2), ("u", "read", None, (2, 3), 1)], []),
            ([("u", "write", None, (0, None)), ("u", "read", None, (2, 3), None)], []),
        ],
    )
    def test_a_broken_guarantee_has_its_name(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """The four guarantees, one user and one key at a time."""
        assert names(check_sessions(written(*lines))) == found

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_every_pair(self, seed: int, times: int) -> None:
        """A guarantee of an operation is broken if and only if some earlier one of its user shows a higher version."""
        chance, seen = Random(seed), Counter[str]()
        kinds = {("read", "write"): "read_your_writes", ("read", "read"): "monotonic_reads"}
        kinds |= {("write", "write"): "monotonic_writes", ("write", "read"): "writes_follow_reads"}
        for _ in range(12_000 * times):
            history = invented(chance)
            expected = {
                (o.op_id, kinds[o.kind, past.kind])
                for o in history
                for past in history
                if o.certain and past.certain and past.process == o.process and past.key == o.key
                if past.ended_at < o.invoked_at and (o.result or -9) < (past.result or -9)
            }
            found = [(anomaly.operations[1].op_id, anomaly.name) for anomaly in check_sessions(history)]
            assert sorted(found) == sorted(expected), history
            seen.update(name for _, name in expected)

        assert set(seen) == set(kinds.values())


def invented(chance: Random) -> list[Operation]:
    """Up to six reads and writes of two keys; versions from 1, None for a read of nothing."""
    made = []
    for number in range(chance.randrange(7)):
        kind = chance.choice(("read", "write"))
        result = chance.choice((1, 2, 3) if kind == "write" else (None, 1, 2, 3))
        made.append(
            operation(number, chance, kind, key=chance.choice("xy"), process=chance.choice("ab"), result=result)
        )
    return made


class TestStaleness:
    def test_a_read_is_as_old_as_the_first_newer_acknowledgement(self) -> None:
        """A read 3 s after the next version's acknowledgement is 3 s old; one during the write is fresh."""
        history = written(
            ("w", "write", None, (0, 1), 1),
            ("w", "write", None, (2, 4), 2),
            ("w", "write", None, (5, 6), 3),
            ("r", "read", None, (3, 9), 1),
            ("r", "read", None, (7, 8), 1),
            ("r", "read", None, (7, 8), 3),
        )

        measured = staleness(history)

        assert (measured.reads, measured.stale, measured.longest_s, measured.p50_s) == (3, 1, 3.0, 0.0)
        assert (measured.buckets[0.0], measured.buckets[10.0], measured.buckets[math.inf]) == (2, 1, 0)
        assert names(check_staleness(history, most_s=2.9)) == ["too_stale"]
        assert check_staleness(history, most_s=3.0) == []

    def test_no_reads_are_no_staleness(self) -> None:
        """A history without reads has nothing to be old."""
        assert staleness([]).reads == 0

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_every_pair(self, seed: int, times: int) -> None:
        """The age is the greatest distance from the end of a write with a higher version."""
        chance = Random(seed)
        for _ in range(8_000 * times):
            history = invented(chance)
            ages = sorted(
                max(
                    [0.0]
                    + [
                        read.invoked_at - write.ended_at
                        for write in history
                        if write.kind == "write" and write.certain and write.key == read.key
                        if write.result > (read.result or -9)
                    ]
                )
                for read in history
                if read.kind == "read" and read.certain
            )
            assert [sum(age > most for age in ages) for most in (0, 1, 3)] == [
                len(check_staleness(history, most_s=most)) for most in (0, 1, 3)
            ]
            assert staleness(history).longest_s == max(ages, default=0.0)


class TestLongFork:
    @pytest.mark.parametrize(
        ("reads", "found"),
        [
            ([{"x": 1, "y": None}, {"x": 1, "y": 2}], []),
            ([{"x": 1, "y": None}, {"x": None, "y": 2}], ["long_fork"]),
            ([{"x": 1, "y": None}, {"y": 2, "z": None}], []),
            ([{"x": 9, "y": None}], ["unexpected"]),
        ],
    )
    def test_what_is_wrong_has_its_name(self, reads: list[dict[str, int | None]], found: list[str]) -> None:
        """Opposite orders are a fork; one after the other is not; other groups of keys are not compared."""
        history = written(("w", "write", 1, (0, 1), None, "x"), ("w", "write", 2, (0, None), None, "y"))
        for read in reads:
            history.add("r", "read", None, (2, 3), read)

        assert names(check_long_fork(history)) == found

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_every_pair(self, seed: int, times: int) -> None:
        """A fork is found if and only if two reads of one group are such that neither holds the other."""
        chance, forks = Random(seed), 0
        keys = ("x", "y", "z")
        for _ in range(12_000 * times):
            history = [operation(n, chance, "write", key=key, value=1) for n, key in enumerate(keys)]
            history = [each for each in history if each.possible]
            there = [each.key for each in history]
            for number in range(chance.randrange(5)):
                shown = {key: chance.choice((None, 1)) for key in there}
                history.append(operation(10 + number, chance, "read", result=shown))
            sets = [
                {key for key, value in o.result.items() if value} for o in history if o.kind == "read" and o.certain
            ]
            forked = any(not one <= other and not other <= one for one in sets for other in sets)
            assert (check_long_fork(history) != []) == forked, history
            forks += forked

        assert forks > 500


class TestKeyOrder:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("s", "handle", 1, (4, 5)), ("s", "handle", 2, (6, 7))], []),
            ([("s", "handle", 2, (4, 5)), ("s", "handle", 1, (6, 7))], ["out_of_order"]),
            # Overlapping handlings have no order, a repeat does not count, another subscriber has an order of its own.
            ([("s", "handle", 2, (4, 6)), ("s", "handle", 1, (6, 7))], []),
            ([("s", "handle", 1, (4, 5)), ("s", "handle", 2, (6, 7)), ("s", "handle", 1, (8, 9))], []),
            ([("s", "handle", 2, (4, 5)), ("t", "handle", 1, (6, 7))], []),
            # An unknown handling may have been the first.
            ([("s", "handle", 1, (3, None)), ("s", "handle", 2, (4, 5)), ("s", "handle", 1, (6, 7))], []),
            (
                [("s", "handle", 1, (3, 4), FAILS), ("s", "handle", 2, (4, 5)), ("s", "handle", 1, (6, 7))],
                ["out_of_order"],
            ),
            ([("s", "handle", 3, (4, 5))], ["unexpected"]),
        ],
    )
    @pytest.mark.parametrize("positions", [(None, None), (17, 18)], ids=["by time", "by position"])
    def test_what_is_wrong_has_its_name(
        self, lines: list[tuple[object, ...]], found: list[str], positions: tuple[int | None, int | None]
    ) -> None:
        """The same verdicts whether commits are ordered by real time or by the positions that they answer with."""
        history = written(("w", "commit", 1, (0, 1), positions[0]), ("w", "commit", 2, (2, 3), positions[1]), *lines)

        assert names(check_key_order(history)) == found

    def test_commits_that_overlap_are_ordered_by_position_only(self) -> None:
        """Two commits at once may be handled either way, unless they answer with positions."""
        for positions, found in (((None, None), []), ((1, 2), ["out_of_order"])):
            history = written(("w", "commit", 1, (0, 9), positions[0]), ("w", "commit", 2, (0, 9), positions[1]))
            history.add("s", "handle", 2, (10, 11))
            history.add("s", "handle", 1, (12, 13))
            assert names(check_key_order(history)) == found

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_every_pair(self, seed: int, times: int) -> None:
        """An event is out of order if and only if a later commit was certainly handled before it can have been."""
        chance, wrong = Random(seed), 0
        for _ in range(10_000 * times):
            history = [operation(n, chance, "commit", value=n) for n in range(3)]
            history = [each for each in history if each.possible]
            for number in range(chance.randrange(6)):
                event = chance.choice([each.value for each in history if each.kind == "commit"] or [0])
                history.append(operation(10 + number, chance, "handle", process="s", value=event))
            assert out_of_order(check_key_order(history)) == by_pairs(history), history
            wrong += bool(by_pairs(history))

        assert wrong > 500


def out_of_order(anomalies: list[Anomaly]) -> set[int]:
    """The events that were found out of order."""
    return {anomaly.operations[3].value for anomaly in anomalies if anomaly.name == "out_of_order"}


def by_pairs(history: list[Operation]) -> set[int]:
    """The same by definition: every pair of commits, and every handling of both."""
    commits = {o.value: o for o in history if o.kind == "commit"}
    handled = [o for o in history if o.kind == "handle" and o.possible and o.value in commits]
    found = set()
    for event, mine in commits.items():
        tries = [o for o in handled if o.value == event]
        for other, later in commits.items():
            if not (mine.certain and mine.ended_at < later.invoked_at):
                continue
            if tries and any(
                o.certain and all(o.ended_at < each.invoked_at for each in tries) for o in handled if o.value == other
            ):
                found.add(event)
    return found
