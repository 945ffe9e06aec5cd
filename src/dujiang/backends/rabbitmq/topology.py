"""Topology: what exchange, queues and routing keys are called, and what the queues are; see link.py for the picture.

    <prefix>.events    dj.3.u    dj.4.0 .. dj.4.7        Placed.5    Placed.*        Placed.5.shared

Names carry the subscription's number, which a rename keeps, behind the prefix of the installation. The third form of a
routing key has three words, so no binding of ours matches it: it is for the queues of other programs alone.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dujiang.messaging.carrier import PARTITIONS, partition_of

if TYPE_CHECKING:
    from dujiang.messaging.broker import Feed
    from dujiang.messaging.message import Message

TOPIC_BYTES = 200


def exchange_of(prefix: str) -> str:
    """The exchange to which events are published."""
    return f"{prefix}.events"


def queues_of(prefix: str, sub_id: int, *, ordered: bool) -> list[str]:
    """The queues of a subscription, by partition."""
    start = f"{prefix}.{sub_id}"
    return [f"{start}.{partition}" for partition in range(PARTITIONS)] if ordered else [f"{start}.u"]


def arguments_of(feed: Feed, queue_limit: int) -> dict[str, Any]:
    """With what the queues of a feed are declared; they cannot change later."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    if queue_limit:
        arguments["x-max-length"] = queue_limit
    if feed.ordered:
        arguments["x-single-active-consumer"] = True
    return arguments


def binding_of(feed: Feed, partition: int) -> str:
    """The routing keys that a queue of a feed wants."""
    return f"{topic_word(feed.topic)}.{partition if feed.ordered else '*'}"


def key_of(message: Message) -> str:
    """The routing key of a message to everybody."""
    return f"{topic_word(message.topic)}.{partition_of(message)}"


def topic_word(topic: str) -> str:
    """An event's name as part of a routing key: no wildcards, at most 200 bytes."""
    word = quote(topic, safe=".-_")
    return word if len(word) <= TOPIC_BYTES else blake2b(topic.encode(), digest_size=32).hexdigest()
