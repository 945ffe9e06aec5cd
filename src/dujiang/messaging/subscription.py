"""Subscription: who wants which events, as the code declares it; its row in the database is catalogue.py's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from dujiang.messaging.broker import Feed
from dujiang.resilience.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dujiang.messaging.closing import Outside
    from dujiang.messaging.message import Readable

OnFail = Literal["park_key", "skip", "halt"]
Start = Literal["now", "beginning"] | datetime

PREFETCH_MIN = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Subscription:
    """A declared owner of work, as messaging sees it: a reaction, or a job.

    Attributes:
        name: The stored name, `module.function` by default.
        event: Reads its messages; of a reaction the class of its events.
        handle: Runs the handler: (tx, events) for a batch of one or more, or (call, [event]).
        ordered: Whether events with one key are handled one after another, in commit order.
        on_fail: What a dead event of an ordered subscription does to its key.
        retry: The bound on tries.
        batch: Events at most in one transaction of a handler that takes lists.
        lists: Whether the handler takes lists; otherwise it is called for each event.
        outside: Runs the handler outside any transaction, before the one that ends the claim; None = inside that one.
        routed: Whether its work comes from published events, which may come twice. Other work was put into the tables by
            the transaction that wanted it; no repeat of it can come, so the inbox is not asked.
        ahead: Whether a process claims more than it can run, so that nobody waits for a round trip. Of long work it must not:
            what waits behind it could run elsewhere.
        limit: Runs at once over all processes; 0 = no limit. Of work that is not routed.
        concurrency: Transactions at once in one process.
        timeout_s: How long one run may take.
        start: Whether a new subscription begins with what comes now, with all that the outbox still holds, or with what
            was published since a time.
    """

    name: str
    event: Readable
    handle: Callable[[Any, Sequence[Any]], Awaitable[Sequence[Any]]]
    ordered: bool = False
    on_fail: OnFail = "park_key"
    retry: Retry = Retry()  # noqa: RUF009  (immutable)
    batch: int = 1
    lists: bool = False
    outside: Outside | None = None
    routed: bool = True
    ahead: bool = True
    limit: int = 0
    concurrency: int = 8
    timeout_s: float = 60.0
    start: Start = "now"

    def feed(self, sub_id: int) -> Feed:
        """What it wants of a broker, under the number of its name."""
        prefetch = max(PREFETCH_MIN, 4 * self.concurrency * self.batch)
        return Feed(sub_id=sub_id, topic=self.event.event_name, ordered=self.ordered, prefetch=prefetch)
