"""Envelope: an event as RabbitMQ carries it, and back.

    body                 the payload, as it is
    message_id           the id, hexadecimal
    type, timestamp      the event's name, seconds of its transaction; for other programs that read the exchange
    dj-id, dj-seq, dj-topic, dj-key, dj-created, dj-headers       what we read
    dj-repeated          the publisher may have published it before
    dj-partial           its headers do not fit: AMQP sends all of them in one frame; the outbox has them

A message without our headers comes from another program. Its id is its `message_id` if that is a UUIDv7, and otherwise
follows from what it says and from its `timestamp`, so that a redelivery has the same id. Without a timestamp, or with an
older one, the day on which it came stands for it: what is delivered again across midnight (UTC) counts as a new message.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pamqp.commands import Basic

from dujiang.kernel.ids import uuid7
from dujiang.messaging.message import Message, headers_of, received_text

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

SHORT_BYTES = 255
FIT_CHARACTERS = 8_192
PERSISTENT = 2
DAY_US = 86_400_000_000


def properties_of(message: Message, *, repeated: bool) -> Basic.Properties:
    """The properties under which a message travels."""
    headers = received_text(message.headers)
    partial = len(headers) + len(message.okey or "") > FIT_CHARACTERS
    table: dict[str, Any] = {
        "dj-id": message.message_id.hex(),
        "dj-seq": message.seq,
        "dj-topic": message.topic,
        "dj-created": message.created_us,
        "dj-headers": "" if partial else headers,
    }
    if message.okey is not None and not partial:
        table["dj-key"] = message.okey
    if repeated:
        table["dj-repeated"] = True
    if partial:
        table["dj-partial"] = True
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        headers=table,
        message_id=message.message_id.hex() or "0",
        timestamp=datetime.fromtimestamp(message.created_us / 1e6, UTC),
        message_type=message.topic if len(message.topic.encode()) <= SHORT_BYTES else None,
    )


def message_of(delivered: DeliveredMessage, topic: str, now_us: int) -> tuple[Message, bool, bool]:
    """A delivered message, whether its publisher marked it as repeated, and whether it is partial. Never raises."""
    properties = delivered.header.properties
    table: dict[str, Any] = dict(properties.headers or {})
    try:
        message = Message(
            seq=int(table["dj-seq"]),
            message_id=bytes.fromhex(table["dj-id"]),
            topic=str(table["dj-topic"]),
            okey=table.get("dj-key"),
            created_us=int(table["dj-created"]),
            headers=headers_of(table["dj-headers"]),
            payload=delivered.body,
        )
    except (KeyError, TypeError, ValueError):
        return foreign(properties, delivered.body, topic, now_us), False, False
    return message, bool(table.get("dj-repeated")), bool(table.get("dj-partial"))


def foreign(properties: Basic.Properties, body: bytes, topic: str, now_us: int) -> Message:
    """A message that another program published; its number is negative, and the same at each delivery."""
    sent = properties.timestamp
    sent_us = int(sent.timestamp() * 1e6) if isinstance(sent, datetime) else 0
    known_us = sent_us if now_us - DAY_US < sent_us <= now_us else now_us // DAY_US * DAY_US
    said = json.dumps([properties.message_id, properties.message_type, topic], default=str).encode()
    digest = int.from_bytes(blake2b(said + b"\n" + body, digest_size=8).digest(), "big") >> 2
    named = (properties.message_id or "").replace("-", "").lower()
    is_uuid7 = len(named) == 32 and named[12] == "7" and all(c in "0123456789abcdef" for c in named)
    message_id = bytes.fromhex(named) if is_uuid7 else uuid7(known_us, digest)
    return Message(-1 - digest, message_id, topic, None, now_us, {}, body)
