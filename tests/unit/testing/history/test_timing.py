"""Availability, recovery and latency: by hand, and by plain counting."""

from __future__ import annotations

import math
from random import Random

import pytest

from dujiang.testing.history import Fault, Phase, Window, availability, check_recovery, latencies, recoveries
from dujiang.testing.history.timing import percentile
from tests.unit.testing.history.invented import COUNTS, FAILS, Written, names, operation, written


def every_second(outcomes: str) -> Written:
    """One operation a second, 0.5 s long: `.` is ok, `x` fails, `?` never ends."""
    lines = []
    for at, outcome in enumerate(outcomes):
        lines.append(
            ("c", "order", None, (at, None if outcome == "?" else at + 0.5), FAILS if outcome == "x" else None)
        )
    return written(*lines)


class TestAvailability:
    def test_an_operation_belongs_to_the_window_in_which_it_began(self) -> None:
        """Good and asked by window, windows in which nobody asked included."""
        history = every_second("." * 9 + "x" + "?" * 5)
        history.add("c", "order", None, (31, 99))

        windows = availability(history)

        assert windows == [Window(0, 10, 9), Window(10, 5, 0), Window(20, 0, 0), Window(30, 1, 1)]
        assert [each.share for each in windows] == [0.9, 0.0, 1.0, 1.0]
        assert availability([]) == []

    def test_the_caller_says_what_is_good(self) -> None:
        """A refusal of the business may be a good answer."""
        history = every_second("..xx")

        assert availability(history, good=lambda operation: operation.outcome != "info")[0].share == 1.0

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_plain_counting(self, seed: int, times: int) -> None:
        """Every operation is in exactly one window, as a count over all windows says."""
        chance = Random(seed)
        for _ in range(5_000 * times):
            history = [operation(n, chance, "read") for n in range(chance.randrange(8))]
            first = min((o.invoked_at for o in history), default=0)
            for window in availability(history, window_s=3.0):
                own = [o for o in history if window.from_s <= o.invoked_at < window.from_s + 3.0]
                assert (window.asked, window.good) == (len(own), sum(o.certain for o in own))
            assert sum(window.asked for window in availability(history, window_s=3.0)) == len(history)
            assert not history or availability(history)[0].from_s == first


class TestRecovery:
    def test_it_is_counted_from_the_healing_to_the_first_of_ten(self) -> None:
        """One lucky answer among failures is no recovery; the first of ten good ones in a row is."""
        history = every_second("." * 5 + "xxx.x" + "." * 12)

        (found,) = recoveries(history, [Fault("kill", 5, 6)])

        assert found.seconds == 10.5 - 6

    def test_nothing_felt_is_the_length_of_one_answer(self) -> None:
        """A fault that hit nobody is recovered from with the first answer."""
        assert [each.seconds for each in recoveries(every_second("." * 30), [Fault("kill", 5, 6)])] == [0.5]

    def test_a_fault_without_recovery_is_worse_than_any_number(self) -> None:
        """Nine good answers before the end are no recovery, and the checker says never."""
        history = every_second("x" * 5 + "." * 9)

        (slow,) = check_recovery(history, [Fault("kill -9", 1, 2)], most_s=1e9)

        assert slow.says == "kill -9 at 1.000 s was recovered from never"
        assert names(check_recovery(every_second("xxx" + "." * 10), [Fault("k", 0, 1)], most_s=2.4)) == [
            "slow_recovery"
        ]
        assert check_recovery(every_second("xxx" + "." * 10), [Fault("k", 0, 1)], most_s=2.5) == []

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_it_agrees_with_a_walk(self, seed: int, times: int) -> None:
        """The same seconds as a walk from each fault along all that followed."""
        chance = Random(seed)
        for _ in range(400 * times):
            outcomes = "".join(chance.choice(("." * 9, "....", "x", "?")) for _ in range(12))
            history, faults = every_second(outcomes), [Fault("f", 0, chance.randrange(60)) for _ in range(3)]
            for recovery in recoveries(history, faults):
                healed = int(recovery.fault.healed_at)
                at = next((n for n in range(healed, len(outcomes)) if outcomes[n : n + 10] == "." * 10), None)
                assert recovery.seconds == (math.inf if at is None else at + 0.5 - healed)


class TestLatency:
    def test_percentiles_are_those_of_the_good_ones_by_phase_and_kind(self) -> None:
        """Failures are counted beside, not mixed in; an operation belongs to the phase in which it began."""
        history = written(*(("c", "read", None, (at, at + at / 100)) for at in range(1, 101)))
        history.add("c", "write", None, (50, 51), fails="no")
        history.add("c", "read", None, (200, 201))

        calm, empty = latencies(history, [Phase("calm", 0, 101), Phase("later", 101, 150)])

        assert (calm.phase, calm.kind, calm.good, calm.other) == ("calm", "read", 100, 0)
        assert [round(s, 6) for s in (calm.p50_s, calm.p95_s, calm.p99_s, calm.longest_s)] == [0.5, 0.95, 0.99, 1.0]
        assert (empty.kind, empty.good, empty.other, empty.p50_s) == ("write", 0, 1, 0.0)

    @pytest.mark.parametrize(("seed", "times"), COUNTS)
    def test_a_percentile_is_a_value_that_enough_others_reach(self, seed: int, times: int) -> None:
        """Nearest rank: the least value such that at least the share of all is not above it."""
        chance = Random(seed)
        for _ in range(10_000 * times):
            values = sorted(chance.randrange(9) for _ in range(chance.randrange(1, 12)))
            share = chance.choice((0.5, 0.95, 0.99, 1.0))
            least = min(v for v in values if sum(each <= v for each in values) >= share * len(values))
            assert percentile(values, share) == least
