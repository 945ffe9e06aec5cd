"""The queue's checker against known losses, and against a matching of everything with everything."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dujiang.testing.history import Operation, check_total_queue
from tests.unit.testing.history.invented import COUNTS, FAILS, names, operation, written


class TestKnown:
    def test_what_came_out_once_is_fine(self) -> None:
        """Acknowledged, of unknown end, refused; each taken as often as it may be, by dequeue or by drain."""
        history = written(
            ("a", "enqueue", 1, (0, 1)),
            ("a", "enqueue", 2, (1, None)),
            ("a", "enqueue", 3, (1, None)),
            ("a", "enqueue", 4, (1, 2), FAILS),
            ("b", "dequeue", None, (0, 3), 1),
            ("b", "dequeue", None, (4, 5), None),
            ("b", "drain", None, (4, 5), [2]),
        )

        assert check_total_queue(history) == []

    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            ([("a", "enqueue", 1, (0, 1))], ["lost"]),
            ([("a", "enqueue", 1, (0, 1)), ("a", "enqueue", 1, (2, 3)), ("b", "dequeue", None, (4, 5), 1)], ["lost"]),
            ([("a", "enqueue", 1, (0, 1)), ("b", "drain", None, (2, 3), [1, 1])], ["duplicated"]),
            ([("b", "dequeue", None, (2, 3), 1)], ["unexpected"]),
            ([("a", "enqueue", 1, (0, 1), FAILS), ("b", "dequeue", None, (2, 3), 1)], ["unexpected"]),
            ([("b", "dequeue", None, (0, 1), 1), ("a", "enqueue", 1, (2, 3))], ["early"]),
            ([("a", "enqueue", 1, (0, 1)), ("b", "dequeue", None, (2, None))], []),
            (
                [("a", "enqueue", 1, (0, 1)), ("a", "enqueue", 2, (0, 1)), ("b", "dequeue", None, (2, None))],
                ["lost"] * 2,
            ),
            ([("a", "enqueue", 1, (0, 1)), ("b", "drain", None, (2, None))], ["undecided"]),
        ],
    )
    def test_what_is_wrong_has_its_name(self, lines: list[tuple[object, ...]], found: list[str]) -> None:
        """Lost, duplicated, from nowhere, too early; what an unknown dequeue may have taken is excused."""
        assert names(check_total_queue(written(*lines))) == found

    def test_queues_are_apart_and_the_sentence_names_the_element(self) -> None:
        """What was put into one queue and came out of another is lost and unexpected."""
        history = written(("a", "enqueue", "x", (0, 1), None, "in"), ("b", "dequeue", None, (2, 3), "x", "out"))

        found = check_total_queue(history)

        assert names(found) == ["lost", "unexpected"]
        assert found[0].says == "'x' of 'in' was acknowledged and never dequeued"


def invented(chance: Random) -> list[Operation]:
    """Up to five enqueues and dequeues of three elements."""
    made = [operation(number, chance, "enqueue", value=chance.randrange(3)) for number in range(chance.randrange(4))]
    for number in range(chance.randrange(4)):
        if chance.random() < 0.5:
            made.append(operation(number + 10, chance, "dequeue", result=chance.choice((None, 0, 1, 2))))
        else:
            made.append(
                operation(
                    number + 10, chance, "drain", result=[chance.randrange(3) for _ in range(chance.randrange(3))]
                )
            )
    return made


def explained(history: list[Operation]) -> bool:
    """Whether each dequeued element can be matched with an enqueue of its own, and every acknowledged one is gone.

    The trial of everything: which enqueue each dequeue took, which of the unknown dequeues took what is left.
    """
    puts = [o for o in history if o.kind == "enqueue" and o.possible]
    takes = [
        (element, o)
        for o in history
        if o.kind != "enqueue" and o.certain
        for element in (o.result if o.kind == "drain" else (o.result,))
        if element is not None
    ]
    unknown = sum(o.kind == "dequeue" and o.outcome == "info" for o in history)
    drains = any(o.kind == "drain" and o.outcome == "info" for o in history)

    def matched(left: list[tuple[int, Operation]], free: list[Operation]) -> bool:
        if not left:
            rest = sum(put.certain for put in free)
            return drains or rest <= unknown
        element, take = left[0]
        return any(
            put.value == element
            and put.invoked_at <= take.ended_at
            and matched(left[1:], [o for o in free if o is not put])
            for put in free
        )

    return matched(takes, puts)


@pytest.mark.parametrize(("seed", "times"), COUNTS)
def test_it_agrees_with_the_trial_of_every_matching(seed: int, times: int) -> None:
    """An anomaly is found if and only if no matching explains the history; unknown drains may leave it undecided."""
    chance, seen = Random(seed), Counter[str]()
    for _ in range(15_000 * times):
        history = invented(chance)
        found = [anomaly for anomaly in check_total_queue(history) if not anomaly.undecided]
        assert (found == []) == explained(history), history
        seen.update(names(found))

    assert set(seen) == {"lost", "duplicated", "unexpected", "early"}
