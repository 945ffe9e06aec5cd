"""Invented: small random histories, and how a test writes one by hand.

h("a", "write", 1, (0, 1))                 client a wrote 1, from 0 s to 1 s, ok
h("b", "read", None, (2, 3), 1)            client b read 1
h("c", "write", 2, (2, None))              nobody knows
h("c", "write", 2, (2, 3), fails="no")     it did not happen
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from dujiang.testing.history import Anomaly, History, Operation, Outcome

# How many histories a test invents: a few seconds' worth, and with `make proof` eight times as many.
COUNTS = [pytest.param(1, 1, id="quick"), pytest.param(2, 8, marks=pytest.mark.proof, id="long")]


class Written(History):
    """A history that a test writes line by line."""

    def add(
        self,
        process: Any,
        kind: str,
        value: Any,
        span: tuple[float, float | None],
        result: Any = None,
        *,
        key: Any = None,
        fails: str = "",
    ) -> int:
        """One operation with its beginning and its end; without an end nobody knows."""
        number = self.invoke(process, kind, key=key, value=value, at=span[0])
        if fails:
            self.fail(number, fails, at=span[1] or span[0])
        elif span[1] is not None:
            self.ok(number, result, at=span[1])
        return number


def written(*lines: tuple[Any, ...]) -> Written:
    """A history of (process, kind, value, span[, result[, key]]); the result `FAILS` means that it did not happen."""
    history = Written()
    for process, kind, value, span, *more in lines:
        result, key = [*more, None, None][:2]
        history.add(
            process, kind, value, span, None if result is FAILS else result, key=key, fails="no" * (result is FAILS)
        )
    return history


FAILS = object()


def names(anomalies: list[Anomaly]) -> list[str]:
    """The names of what was found, sorted."""
    return sorted(anomaly.name for anomaly in anomalies)


def span(chance: Random, most: int = 12) -> tuple[int, int]:
    """A beginning and an end that is not before it; equal moments are frequent on purpose."""
    start = chance.randrange(most)
    return start, start + chance.choice((0, 1, 1, 2, 3, 6))


def outcome(chance: Random, ended: int) -> tuple[Outcome, float]:
    """An outcome with its end: mostly ok."""
    drawn = chance.random()
    if drawn < 0.75:
        return "ok", ended
    if drawn < 0.9:
        return "info", float("inf") if drawn < 0.83 else ended
    return "fail", ended


def operation(
    number: int, chance: Random, kind: str, *, value: Any = None, result: Any = None, **more: Any
) -> Operation:
    """A random operation: where and how it ended is drawn; `result` counts when it is ok."""
    start, ended = span(chance)
    how, ended_at = outcome(chance, ended)
    made: Any = {"process": chance.choice("abc"), "key": None, **more}
    return Operation(
        number,
        made["process"],
        kind,
        made["key"],
        value,
        start,
        how,
        ended_at,
        result if how == "ok" else None,
    )
