"""Redo: what a transaction did on the primary, done again on the committed side when it commits.

    primary     INSERT a   SELECT   UPDATE b   COMMIT
                    │                  │          │
    log         (text, args, when, what the server told it)
                                                  ▼
    committed                      BEGIN  INSERT a  UPDATE b  COMMIT

One writer at a time and the same order of commits: both sides hold the same rows before a statement, so it does the same to
both, if what comes from outside the rows is the same too. Time, chance and advisory locks are therefore told once and
repeated. A statement that failed is not done again: nothing may follow it but a rollback to a savepoint, which is.

Refused: carrying rows over with SQLite's session extension. It cost a third of a run, because applying a changeset sets a
pragma, and with that every prepared statement of the connection is compiled anew.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

READS = re.compile(r"\s*(?:SELECT|VALUES|PRAGMA|EXPLAIN)\b", re.IGNORECASE)
WITH_READS = re.compile(r"\s*WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE)\b)", re.IGNORECASE | re.DOTALL)
# What is known of a text is kept by the process, because a text means the same in every run.
TEXTS_KEPT = 10_000


@lru_cache(maxsize=TEXTS_KEPT)
def reads(text: str) -> bool:
    """Whether a statement changes nothing, judged by its words."""
    return READS.match(text) is not None or WITH_READS.match(text) is not None


class Redo:
    """The log of the transaction that holds the writer.

    Args:
        now_us: The server's time, microseconds.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._log: list[tuple[str, Sequence[Any], int, list[Any]]] = []
        self._told: list[Any] = []
        self._again: deque[Any] | None = None
        self._at_us = 0
        self._before = 0

    def __repr__(self) -> str:
        return f"<Redo of {len(self._log)} statements>"

    def now_us(self) -> int:
        """The time of the statement that runs: now, or when it ran first."""
        return self._now_us() if self._again is None else self._at_us

    def told(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the primary whose answers are kept for the other side."""

        def tell(*args: Any) -> Any:
            answer = function(*args)
            self._told.append(answer)
            return answer

        return tell

    def retold(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function of the committed side: while a statement is done again it answers as it did before."""

        def tell(*args: Any) -> Any:
            return function(*args) if self._again is None else self._again.popleft()

        return tell

    def begin(self, primary: apsw.Connection) -> None:
        """A transaction begins."""
        self._log, self._told = [], []
        self._before = primary.total_changes()

    def next_statement(self) -> None:
        """Whatever the last statement was told is over; it may have failed."""
        self._told.clear()

    def note(self, text: str, args: Sequence[Any]) -> None:
        """It ran a statement."""
        told, self._told = self._told, []
        if not reads(text):
            self._log.append((text, args, self._now_us(), told))

    def again(self, primary: apsw.Connection, committed: apsw.Connection) -> bool:
        """Do all of it on the committed side; False when there was nothing."""
        log, self._log = self._log, []
        if not log or primary.total_changes() == self._before:
            return False
        committed.execute("BEGIN")
        try:
            for text, args, self._at_us, told in log:
                self._again = deque(told)
                committed.execute(text, args).fetchall()
        finally:
            self._again = None
        committed.execute("COMMIT")
        return True
