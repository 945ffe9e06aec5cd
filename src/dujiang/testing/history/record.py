"""Record: what clients asked for and what they know about the end of it; append-only, in memory and in a file.

    invoke ──► sent ──► ok      it happened, and this came back
                   ├──► fail    it certainly did not happen
                   └──► info    nobody knows, and nobody ever will: it may happen later, or not at all
      │
      └── the line is in the file before the request leaves

The order of the first two steps is the whole value of the file. A client that is killed while it waits has left the
`invoke`, so its request is `info` and may explain a row that nobody acknowledged; were the line written after the
answer, the same row would look like one that no client ever asked for.

`fail` is a promise of the caller: "it did not happen". A time-out, a reset connection and a 5xx after sending are
`info`. An operation that never ended is `info` too. Times are monotonic seconds that the caller hands in: this module has
no clock. Operation A came before B if and only if `A.ended_at < B.invoked_at`; equal times are concurrent, so a coarse
clock costs precision and never invents an order. Histories of several processes of one machine may be merged, because
CLOCK_MONOTONIC is one clock for all of them; those of two machines may not.

What is recorded is JSON: None, bool, int, finite float, str, lists of these, and mappings with text as keys. Lists are
kept as tuples and mappings as read-only views, so that a record cannot change, and is the same before and after the file.

Cost: 100,000 operations take a second to record without a file and three with one, and two to load. A line is one write and
no fsync: the file survives the death of the process and not that of the machine. Refused: SQLite as the file, whose lock
and journal would be one more thing that a `kill -9` can leave half done.

Proof: tests/unit/testing/history/test_record.py, which kills a client between the line and the answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from pathlib import Path

Outcome = Literal["ok", "fail", "info"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "fail", "info")
HEAD = {"history": 1}
NEVER = math.inf


@dataclass(eq=False, kw_only=True)
class HistoryRefused(DujiangError):
    """A history was told what cannot be."""

    code = "history_refused"
    move = "fix"
    says = "{what}"
    cure = "{how}"

    what: str
    how: str


@dataclass(eq=False, kw_only=True)
class HistoryDamaged(DujiangError):
    """The file of a history holds a line that is no record of one."""

    code = "history_damaged"
    move = "fix"
    says = "{path}, line {line}: {why}"
    cure = "only the last line may be torn; take the file as the client left it, or leave it out"

    path: str
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a client asked for, and what it knows about its end.

    Attributes:
        op_id: Its number in its history, from 0, in the order of `invoke`.
        process: The client: a user, a connection, a worker.
        kind: What was asked: `enqueue`, `read`, `transfer`.
        key: What it was asked of; None where there is one thing only.
        value: What went in.
        invoked_at: Monotonic seconds, before anything was sent.
        outcome: `ok`, `fail`, or `info` (unknown for ever).
        ended_at: Monotonic seconds, after the answer; infinite when no answer came.
        result: What came out; of a `fail` or `info` the reason, if one was given.
    """

    op_id: int
    process: Any
    kind: str
    key: Any
    value: Any
    invoked_at: float
    outcome: Outcome = "info"
    ended_at: float = NEVER
    result: Any = None

    @property
    def possible(self) -> bool:
        """Whether it may have happened: everything but a `fail`."""
        return self.outcome != "fail"

    @property
    def certain(self) -> bool:
        """Whether it has happened."""
        return self.outcome == "ok"

    @property
    def effective_at(self) -> float:
        """Until when it must have taken effect: its end when it is `ok`, otherwise never."""
        return self.ended_at if self.outcome == "ok" else NEVER

    def before(self, other: Operation) -> bool:
        """Whether this one had ended before the other began."""
        return self.ended_at < other.invoked_at

    def __str__(self) -> str:
        of = "" if self.key is None else f" {self.key!r}"
        gave = "" if self.value is None else f" {shown(self.value)}"
        back = "" if self.result is None else f" {shown(self.result)}"
        until = "never" if self.ended_at == NEVER else f"{self.ended_at:.3f}"
        return f"{self.process}: {self.kind}{of}{gave} -> {self.outcome}{back} [{self.invoked_at:.3f}, {until}] s"


class History:
    """What a run's clients asked for and got.

    Not for two threads at once. Iterating gives the operations in the order of `invoke`; every checker takes a history,
    or any other iterable of operations.

    Args:
        path: A new file that is written line by line; None keeps the history in memory only.

    Raises:
        HistoryRefused: If the file exists already: a history is never continued by a second client.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._operations: list[Operation] = []
        self._file: BinaryIO | None = None
        self.torn = ""
        if path is not None:
            try:
                self._file = path.open("xb")
            except FileExistsError:
                raise HistoryRefused(what=f"{path} exists", how="give every client a file of its own") from None
            self._write(HEAD)

    def invoke(self, process: Any, kind: str, *, key: Any = None, value: Any = None, at: float) -> int:
        """Record that a client is about to ask; the number of the operation. Call it before anything is sent.

        Args:
            process: The client.
            kind: What it asks.
            key: What it asks it of.
            value: What goes in.
            at: Monotonic seconds now.

        Raises:
            HistoryRefused: If a value is none that JSON can hold.
        """
        op_id = len(self._operations)
        made = Operation(op_id, frozen(process), kind, frozen(key), frozen(value), time_of(at))
        if self._file is not None:
            begun = {"op": op_id, "t": at, "do": "invoke", "process": process, "kind": kind, "key": key, "value": value}
            self._write(begun)
        self._operations.append(made)
        return op_id

    def ok(self, op_id: int, result: Any = None, *, at: float) -> None:
        """Record that it happened, and what came back. Raises HistoryRefused."""
        self._end(op_id, "ok", result, at)

    def fail(self, op_id: int, why: Any = None, *, at: float) -> None:
        """Record that it certainly did not happen, and why. Raises HistoryRefused."""
        self._end(op_id, "fail", why, at)

    def info(self, op_id: int, why: Any = None, *, at: float) -> None:
        """Record that nobody will ever know whether it happened, and why. Raises HistoryRefused."""
        self._end(op_id, "info", why, at)

    def close(self) -> None:
        """Close the file, if there is one. What was recorded can still be read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations)

    def __getitem__(self, op_id: int) -> Operation:
        return self._operations[op_id]

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in OUTCOMES)
        return f"<History [{len(self)} operations: {counts}]>"

    def count(self, outcome: Outcome) -> int:
        """How many operations have this outcome; those that never ended are `info`."""
        return sum(operation.outcome == outcome for operation in self._operations)

    @classmethod
    def load(cls, path: Path) -> History:
        """The history of a file, in memory; `torn` holds its last line if a death tore it, else empty text.

        A line counts once its newline is there. A torn `invoke` was never sent, and a torn end leaves its operation
        `info`: nothing false is read.

        Raises:
            HistoryDamaged: If any other line is no record.
        """
        *lines, rest = path.read_bytes().split(b"\n")
        history = cls()
        history.torn = rest.decode("utf-8", "replace")
        for number, line in enumerate(lines, start=1):
            try:
                history._replay(json.loads(line), first=number == 1)
            except (ValueError, KeyError, TypeError, HistoryRefused) as cause:
                why = cause.detail if isinstance(cause, HistoryRefused) else f"{type(cause).__name__}: {cause}"
                raise HistoryDamaged(path=str(path), line=number, why=why) from cause
        return history

    @classmethod
    def merged(cls, histories: Iterable[Iterable[Operation]]) -> History:
        """One history of several, in the order of their beginnings and numbered anew."""
        together = cls()
        every = sorted((each for history in histories for each in history), key=attrgetter("invoked_at"))
        together._operations = [replace(each, op_id=number) for number, each in enumerate(every)]
        return together

    def _end(self, op_id: int, outcome: Outcome, result: Any, at: float) -> None:
        """Put the end beside the beginning."""
        if not 0 <= op_id < len(self._operations):
            raise HistoryRefused(what=f"there is no operation {op_id}", how="end what `invoke` gave a number")
        begun = self._operations[op_id]
        if begun.ended_at != NEVER:
            raise HistoryRefused(what=f"operation {op_id} has ended already: {begun}", how="end an operation once")
        if at < begun.invoked_at:
            how = "take both times from one monotonic clock"
            raise HistoryRefused(what=f"operation {op_id} ended at {at}, before it began: {begun}", how=how)
        # Not `dataclasses.replace`, which takes three times as long.
        was = begun.process, begun.kind, begun.key, begun.value, begun.invoked_at
        ended = Operation(op_id, *was, outcome, time_of(at), frozen(result))
        if self._file is not None:
            self._write({"op": op_id, "t": at, "do": outcome, "result": result})
        self._operations[op_id] = ended

    def _write(self, record: Mapping[str, Any]) -> None:
        """Hand one line to the operating system, which keeps it when this process dies."""
        assert self._file is not None
        self._file.write(ENCODER.encode(record).encode() + b"\n")
        self._file.flush()

    def _replay(self, record: dict[str, Any], *, first: bool) -> None:
        """Do what a line of the file says."""
        if first or "history" in record:
            if record != HEAD or not first:
                raise ValueError(f"a history begins with {HEAD}, once, not {record!r}")
        elif record["do"] == "invoke":
            made = self.invoke(
                record["process"], record["kind"], key=record["key"], value=record["value"], at=record["t"]
            )
            if made != record["op"]:
                raise ValueError(f"operation {record['op']} stands where {made} is due")
        elif record["do"] in OUTCOMES:
            self._end(record["op"], record["do"], record["result"], record["t"])
        else:
            raise ValueError(f"{record['do']!r} is none of invoke, {', '.join(OUTCOMES)}")


def frozen(value: Any) -> Any:
    """The value as a history keeps it: lists as tuples, mappings read-only. Raises HistoryRefused."""
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(frozen(each) for each in value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return MappingProxyType({name: frozen(each) for name, each in value.items()})
    how = "record JSON: text, finite numbers, lists, and mappings whose keys are text"
    raise HistoryRefused(what=f"a history cannot hold {shown(value)}", how=how)


def time_of(at: Any) -> float:
    """A moment, which is a finite number. Raises HistoryRefused."""
    if not isinstance(at, (int, float)) or not math.isfinite(at):
        raise HistoryRefused(what=f"{at!r} is no moment", how="hand in monotonic seconds")
    return float(at)


def plain(value: Any) -> Any:
    """A read-only mapping as the dict that JSON writes."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


ENCODER = json.JSONEncoder(separators=(",", ":"), default=plain, allow_nan=False)


def shown(value: Any) -> str:
    """A value as a sentence shows it: short."""
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
