"""Gate: stops a subscription whose work all fails, because then it is not the work that is wrong.

    open ──20 different messages, 9 of 10 failed──► closed: nothing is claimed, nothing counts as an attempt
      ▲                                               │ after 1 s, 2 s, 4 s, ... 60 s: one message, the probe
      └────────────── it is handled ──────────────────┴── it fails: wait longer

When a bank is away every message fails, and retries make it worse twice: each burns its attempts until thousands of
innocent messages are dead letters, and the bank is greeted by all of them at once when it comes back. One message that
always fails is no reason to close: failures are counted by message, so its retries are one entry of the twenty.

The probe is the message that closed the gate, and if it fails another one, in turn. Only new ones would be wrong for a
handler whose first try of each message fails and whose second works: such a gate would never open. Only the same one
would be wrong when that one is poisoned. A gate that its first probe opens has judged too early: from then on, until all
that failed has been handled, a first failure is no evidence any more, only the second of the same message.

Retryable errors count alone. A refusal, or an error whose cure is to change something, says that the handler could judge.
What the outage has cost before the gate closed is given back to the messages that failed; the age bound of `Retry`
stays, for who waited a day has waited long enough.

The gate is one process's and lives in its memory: a start begins open. While nothing fails it costs one comparison for
each message. The cases C30 hold it.

Rejected: a count of failures in a row, which one lucky message resets for ever; a gate in the database, which costs a
round trip for each message and stops processes that can still reach the bank.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from dujiang.data.sql import Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dujiang.data.database import Connection, Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.work import Claim

WINDOW = 20
FAILED_LEAST = 18
# Of so many messages it is remembered that they failed.
FAILED_MAX = 256
PROBE_S_FIRST, PROBE_S_MAX = 1.0, 60.0

REFUND = Sql(
    "gate_refund",
    "UPDATE dj_ready SET attempt = attempt - $3 WHERE sub_id = $1 AND seq = $2 AND attempt >= $3",
    "Forgets attempts of work that waits.",
)


class Gate:
    """The gate of one subscription in one process.

    Args:
        node: Gives the time, and the chance that keeps processes from probing together.
        turned: Called after the gate has closed or opened.

    Attributes:
        closed: Whether it is.
        kept: What it tries next, still claimed; None = what comes.
    """

    def __init__(self, node: Node, turned: Callable[[], None]) -> None:
        self.closed = False
        self.kept: Claim | None = None
        self._tried = -1  # The message that was kept last.
        self._node = node
        self._turned = turned
        # How often each message failed that was not handled since; and of the last that say something, whether they failed.
        self._failures: OrderedDict[int, int] = OrderedDict()
        self._window: OrderedDict[int, bool] = OrderedDict()
        # Which failure of a message says something: the first, or the second.
        self._least = 1
        self._probe_at = 0.0
        self._probe_s = PROBE_S_FIRST

    def __repr__(self) -> str:
        return f"<Gate {'closed' if self.closed else 'open'}: {len(self._failures)} failed>"

    @property
    def probe_in_s(self) -> float:
        """Seconds until one message may be tried; 0 = now. Of a closed gate."""
        return max(0.0, self._probe_at - self._node.clock.monotonic())

    def passed(self, seqs: list[int]) -> None:
        """Say that messages were handled, or judged."""
        if self.closed:
            self.closed = False
            self._least = 2 if self._probe_s == 2 * PROBE_S_FIRST else 1  # No second wait was set.
            self._window.clear()
            for seq in seqs:
                self._failures.pop(seq, None)
            self._turned()
        elif self._failures:
            for seq in seqs:
                self._failures.pop(seq, None)
                self._note(seq, failed=False)
            if not self._failures:
                self._window.clear()
                self._least = 1

    def failed(self, seq: int) -> None:
        """Say that a message failed by an error that may pass; may close the gate."""
        if self.closed:
            self._wait()
            return
        failures = self._failures[seq] = self._failures.get(seq, 0) + 1
        self._failures.move_to_end(seq)
        if len(self._failures) > FAILED_MAX:
            self._failures.popitem(last=False)
        if failures < self._least:
            return
        self._note(seq, failed=True)
        if len(self._window) == WINDOW and sum(self._window.values()) >= FAILED_LEAST:
            self.closed, self._probe_s = True, PROBE_S_FIRST
            self._wait()
            self._turned()

    def keep(self, claim: Claim) -> bool:
        """Offer what failed; whether it is kept as the next probe. What was kept before is not: another one has its turn."""
        if not self.closed or self.kept is not None:
            return False
        if claim.message.seq == self._tried:
            self._tried = -1
            return False
        self.kept, self._tried = claim, claim.message.seq
        return True

    def take(self) -> list[Claim]:
        """What was kept, which is the caller's from now on; or nothing."""
        kept, self.kept = self.kept, None
        return [] if kept is None else [kept]

    def cost(self) -> dict[int, int]:
        """How often each message failed that has not been handled since; the gate forgets it."""
        cost = dict(self._failures)
        self._failures.clear()
        return cost

    def _note(self, seq: int, *, failed: bool) -> None:
        self._window[seq] = failed
        self._window.move_to_end(seq)
        if len(self._window) > WINDOW:
            self._window.popitem(last=False)

    def _wait(self) -> None:
        """Set the time of the next probe. Runs that were under way when the gate closed put it off no further."""
        if self.probe_in_s > 0:
            return
        self._probe_at = self._node.clock.monotonic() + self._probe_s * self._node.entropy.uniform(0.8, 1.2)
        self._probe_s = min(PROBE_S_MAX, 2 * self._probe_s)


async def refund(database: Database, sub_id: int, cost: Mapping[int, int]) -> None:
    """Forget so many attempts of each message, by its number, if it waits."""

    async def body(connection: Connection) -> None:
        for seq, attempts in sorted(cost.items()):
            await connection.execute(REFUND, sub_id, seq, attempts)

    await database.write(body)
