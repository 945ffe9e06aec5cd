"""Retry: how often and how long to try again.

The wait after failure n is uniform in [0, min(cap, base * 2**n)]: full jitter. It spreads a crowd of callers that failed
together; equal waits would bring them back together. Its cost: the first retry may come almost at once.

A failure costs a try, also one that says how long to wait. Work that has not failed but finds its time not come is put off
with `Snooze`, which costs none; only the greatest age bounds it.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dujiang.kernel.errors import Declared, DujiangError
from dujiang.kernel.units import Duration, duration_s

if TYPE_CHECKING:
    from dujiang.kernel.entropy import Entropy
    from dujiang.kernel.errors import Move


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A bound on tries and on elapsed time, with full jitter between them.

    Args:
        attempts: Every run counts, the first included; at least 1.
        base: The scale of the first wait, as "200ms". Start near the usual duration of the call.
        cap: The longest wait; at least `base`.
        max_age: The longest time from the publication of the message to the start of its last try.

    Raises:
        Declared: At import, when the numbers contradict each other.
    """

    attempts: int = 8
    base: Duration = "200ms"
    cap: Duration = "60s"
    max_age: Duration = "24h"

    def __post_init__(self) -> None:
        """Check the numbers at import, not at three in the morning."""
        if self.attempts < 1 or not 0 < duration_s(self.base) <= duration_s(self.cap):
            raise Declared(
                where=repr(self), what="needs attempts >= 1 and 0 < base <= cap", how="correct the declaration"
            )

    def wait_s(self, failures: int, entropy: Entropy) -> float:
        """Seconds to wait before the try that follows failure number `failures` (from 1)."""
        ceiling_s = min(duration_s(self.cap), duration_s(self.base) * 2.0 ** min(failures - 1, 60))
        return entropy.uniform(0.0, ceiling_s)

    def exhausted(self, failures: int, age_s: float) -> bool:
        """Whether no further try is due after this many failures and this age."""
        return failures >= self.attempts or age_s > duration_s(self.max_age)


class Snooze(DujiangError):
    """The work is put off; this was no failure.

        if not await partner_is_open(tx):
            raise Snooze("15m", "the partner opens at nine")

    In a reaction: rolled back, and due again after the wait; no try is counted, until `Retry.max_age` has passed. In an
    ordered reaction the later events of the key wait with it. In a write it is a 503 with Retry-After.

    Args:
        wait: How long, as "15m".
        why: For the log.
    """

    code: ClassVar[str] = "snoozed"
    move: ClassVar[Move] = "wait"
    retry_after_s: float = 0.0
    why: str = ""

    def __init__(self, wait: Duration, why: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = duration_s(wait)

    @property
    def values(self) -> dict[str, Any]:
        """How long, and why."""
        return {"retry_after_s": self.retry_after_s, "why": self.why}

    @property
    def detail(self) -> str:
        """How long, and why."""
        return f"put off by {self.retry_after_s:g} s" + (f": {self.why}" if self.why else "")
