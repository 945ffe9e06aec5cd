"""Verdict: what a received message is: an event, or the reason why it is not handled here.

Whatever the bytes are, judging them raises nothing: a message that could make the judge fail would come again for ever
and take its subscription with it. A newer version of an event is no poison: a newer process understands it, ours returns
it. The id tells the message's age; beyond the horizon nobody could say any more whether it was handled before, and an id
from the future would outlive every horizon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import DujiangError
from dujiang.kernel.ids import uuid7_us
from dujiang.messaging.inbox import HORIZON_US

if TYPE_CHECKING:
    from dujiang.messaging.message import Message
    from dujiang.messaging.subscription import Subscription

AHEAD_US_MAX = 86_400_000_000
ID_BYTES = 16


class Mixed(Exception):
    """Among events that share a transaction some were handled before; each is run by itself."""


@dataclass(eq=False, kw_only=True)
class Undecodable(DujiangError):
    """The bytes of a message are not an event of its type."""

    code = "undecodable"
    move = "fix"
    says = "{event}: {why}"
    cure = "replay it with a corrected payload: dujiang deadletter replay ID --payload FILE"

    event: str
    why: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A message that is not handled.

    Attributes:
        reason: Of the dead letter; empty = it is not dead but returned, for a process that knows its version.
        error: What was wrong with the bytes, if they were read.
    """

    reason: str
    error: Exception | None = None


def judged(message: Message, subscription: Subscription, now_us: int) -> Any:
    """The event of a message for a subscription, or an Unfit that says why it has none."""
    expected = subscription.event
    try:
        if message.topic != expected.event_name:  # None when the outbox has dropped it
            raise Undecodable(event=str(message.topic), why=f"{subscription.name} handles {expected.event_name}")
        if len(message.message_id) != ID_BYTES:
            raise Undecodable(event=message.topic, why=f"its id has {len(message.message_id)} bytes, not {ID_BYTES}")
        made_us = uuid7_us(message.message_id)
        if subscription.routed and made_us < now_us - HORIZON_US:
            return Unfit("beyond_dedupe_horizon")
        if made_us > now_us + AHEAD_US_MAX:
            return Unfit("id_in_the_future")
        version = int(message.headers.get("version", 1))
        if version > expected.event_version:
            return Unfit("")
        event = expected.from_bytes(message.payload, version)
    except Exception as error:  # noqa: BLE001  (a validator is foreign code, and headers hold anything)
        return Unfit("undecodable", error)
    return event
