"""Crash points: named places where a test may kill the process, and where production passes by in 20 ns.

    DUJIANG_CRASH_AT=relay_confirmed_unmarked:3      the third pass of that point ends the process with SIGKILL

SIGKILL, and not an exception or `os._exit`: no `finally` runs, no buffer is flushed, no connection is closed, which is
what a power cut or the kernel's out-of-memory killer does. The variable is read once, when this module is imported; a
name that does not exist refuses to start, because a test that kills nowhere would pass for the wrong reason.
tests/unit/telemetry/test_crash.py kills a process at a point.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from dujiang.kernel.errors import DujiangError

VARIABLE = "DUJIANG_CRASH_AT"

CRASH_POINTS: tuple[str, ...] = (
    "before_outbox_insert",  # The handler has returned, its events are not written yet.
    "after_outbox_insert",  # Business rows and events are written, nothing is committed.
    "before_commit",  # Everything is written; COMMIT is the next statement.
    "after_commit",  # Committed; nobody has been told.
    "relay_read",  # The relay holds a batch that no broker has seen.
    "relay_sent_unconfirmed",  # The batch is on its way; it may or may not have arrived.
    "relay_confirmed_unmarked",  # The broker has it, the outbox does not know.
    "consumer_received",  # A claim is taken, nothing has been done.
    "inbox_inserted",  # The inbox row is written in the reaction's transaction.
    "handler_done",  # The reaction's own rows are written.
    "call_done",  # A handler outside any transaction has had its effect; nothing here says so yet.
    "saga_step_done",  # A step of a saga has had its effect; its progress is not committed.
    "saga_comp_done",  # The undo of a step has had its effect; its progress is not committed.
    "before_ack_commit",  # The acknowledgement is written in the same transaction; COMMIT is next.
    "after_commit_before_broker_ack",  # The effect is committed, the broker does not know.
    "retry_row_written",  # The attempt failed and the next one is written down.
    "schedule_fire_inserted",  # A due time is taken; its job is not made yet, and nothing is committed.
)


@dataclass(eq=False, kw_only=True)
class UnknownCrashPoint(DujiangError):
    """The variable that arms a crash point names none."""

    code = "unknown_crash_point"
    move = "fix"
    says = "{variable}={text!r} is not NAME:N with a known name and N from 1"
    cure = "use one of: {names}"

    text: str
    variable: str = VARIABLE
    names: str = ", ".join(CRASH_POINTS)


@dataclass(slots=True)
class Armed:
    """The point that kills, and how many passes of it are left, the deadly one included."""

    name: str
    left: int

    def passed(self, name: str) -> None:
        """Count a pass; the last one does not return."""
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def armed(text: str) -> Armed | None:
    """The armed point of `NAME:N`; None for an empty text. Raises UnknownCrashPoint."""
    if not text:
        return None
    name, _, count = text.partition(":")
    if name not in CRASH_POINTS or not count.isascii() or not count.isdigit() or int(count) < 1:
        raise UnknownCrashPoint(text=text)
    return Armed(name, int(count))


ARMED: Armed | None = armed(os.environ.get(VARIABLE, ""))


def crash_point(name: str) -> None:
    """End the process here if this pass of this point is the armed one; otherwise nothing."""
    if ARMED is not None:
        ARMED.passed(name)


@dataclass(slots=True)
class Reached:
    """How often each `sometimes` was reached."""

    counts: dict[str, int] = field(default_factory=dict)


REACHED: Reached | None = None


def sometimes(what: str) -> None:
    """State that this place is reached now and then; a drill that never gets to it is too weak. Otherwise nothing."""
    if REACHED is not None:
        REACHED.counts[what] = REACHED.counts.get(what, 0) + 1


def count_sometimes(*, on: bool) -> Reached | None:
    """Begin to count from nothing, or stop; the counts while it is on."""
    global REACHED  # noqa: PLW0603 - one switch per process, read at each place without a lookup
    REACHED = Reached() if on else None
    return REACHED


__all__ = ["CRASH_POINTS", "UnknownCrashPoint", "count_sometimes", "crash_point", "sometimes"]
