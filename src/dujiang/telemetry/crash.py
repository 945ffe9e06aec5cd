"""Crash points: named places at which a test ends the process with SIGKILL; no-ops otherwise.

`DUJIANG_CRASH_AT=after_commit:3` kills the process at the third pass of the point `after_commit`. SIGKILL runs no
handler and no `finally`: what is left behind is what a power cut of the process leaves.
"""

from __future__ import annotations

import os
import signal

from dujiang.kernel.errors import Declared

CRASH_POINTS = (
    "before_outbox_insert",
    "after_outbox_insert",
    "before_commit",
    "after_commit",
    "relay_read",
    "relay_sent_unconfirmed",
    "relay_confirmed_unmarked",
    "consumer_received",
    "inbox_inserted",
    "handler_done",
    "before_ack_commit",
    "after_commit_before_broker_ack",
    "retry_row_written",
)


def armed(text: str) -> tuple[str, int] | None:
    """The point and the pass of `name:n`; None for an empty text. Raises Declared for an unknown point."""
    if not text:
        return None
    name, _, number = text.partition(":")
    if name not in CRASH_POINTS or not (number or "1").isdigit():
        raise Declared(where="DUJIANG_CRASH_AT", what=f"{text!r} names no crash point", how=f"one of {', '.join(CRASH_POINTS)}, as name:n")
    return name, int(number or "1")


ARMED = armed(os.environ.get("DUJIANG_CRASH_AT", ""))
PASSES = {"count": 0}


def crash_point(name: str) -> None:
    """End the process here if this pass of this point is armed."""
    if ARMED is None or name != ARMED[0]:
        return
    PASSES["count"] += 1
    if PASSES["count"] == ARMED[1]:
        os.kill(os.getpid(), signal.SIGKILL)
