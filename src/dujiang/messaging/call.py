"""Call: what a reaction with an effect outside holds instead of a transaction.

    asked: was it handled? ──no──► handler(call, event) ──► transaction: inbox row, acknowledgement, outcome
                                       │ outside: a bank, a mail server          │ lost here: it runs again,
                                       └ `await app.run(settle, ...)`: its own   │ with the same key
                                         transactions, committed by themselves ──┘

No transaction can hold what another company does, so the handler runs at least once. What makes that harmless is `call.key`:
it follows from subscription and message alone, so every run, in whatever process, hands on the same one, and the other side
can tell a repeat. It is made from the subscription's number and not its name: a renamed reaction keeps its keys.

Refused: the inbox row before the handler (a crash in between would lose the effect), and a transaction held open around it
(locks that wait for a stranger). tests/unit/messaging/test_call.py kills a process between effect and acknowledgement.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dujiang.kernel.clock import instant
from dujiang.kernel.context import changed, current
from dujiang.messaging.closing import Closing
from dujiang.messaging.inbox import handled
from dujiang.telemetry.crash import crash_point

if TYPE_CHECKING:
    from datetime import datetime

    from dujiang.data.database import Database
    from dujiang.data.transaction import Piece
    from dujiang.messaging.message import Event, Message
    from dujiang.messaging.subscription import Subscription
    from dujiang.messaging.work import Claim

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One run of a reaction whose effect lies outside; it may run again, with the same key.

    Attributes:
        key: 32 hexadecimal digits, the same in every run for this message: the idempotency key to hand on. For a second
            call to the same receiver add a word to it: `f"{call.key}-refund"`.
        attempt: Which run this is, from 1. An earlier one may have had its effect; one that raised Snooze is not counted.
        now_us: When this run began, microseconds since the Unix epoch.
        subscription: The stored name of the reaction.
        message: What is handled; None in a test that makes its own Call.
        undoes: In the undo of a saga's step: the key that the step handed on; else empty.
    """

    key: str
    attempt: int = 1
    now_us: int = 0
    subscription: str = ""
    message: Message | None = field(default=None, repr=False)
    undoes: str = ""

    @property
    def fence(self) -> Piece | None:
        """Nothing: what this run has committed by operations of its own stands, whatever becomes of its claim."""
        return None

    @property
    def now(self) -> datetime:
        """The instant at which this run began, UTC; another one in every run, so it belongs into no key."""
        return instant(self.now_us)


def stable_key(sub_id: int, message_id: bytes) -> str:
    """The key of a message for a subscription: 32 visible ASCII characters."""
    what = sub_id.to_bytes(8, "big") + message_id
    return hashlib.blake2b(what, digest_size=KEY_BYTES, person=b"dujiang-call").hexdigest()


async def called(subscription: Subscription, database: Database, claim: Claim, event: Event) -> Closing:
    """Run the handler of a claim outside any transaction, unless its message was handled before.

    Raises:
        TimeoutError: The handler took longer than the subscription allows.
    """
    node, message = current().node, claim.message
    with node.limits.within(subscription.timeout_s):
        if await handled(database, claim.sub_id, message.message_id):
            return Closing()
        call = Call(
            key=stable_key(claim.sub_id, message.message_id),
            attempt=claim.attempt,
            now_us=node.clock.now_us(),
            subscription=subscription.name,
            message=message,
        )
        with changed(call=call):
            await subscription.handle(call, [event])
    crash_point("call_done")
    return Closing()
