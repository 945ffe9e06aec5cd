"""Envelope: what goes into RabbitMQ comes out the same; what others put there has one id, however often it comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pamqp.commands import Basic

from dujiang.backends.rabbitmq.envelope import message_of, properties_of
from dujiang.kernel.ids import uuid7, uuid7_us
from dujiang.messaging.message import Message

NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
MESSAGE = Message(7, uuid7(NOW_US, 1), "Told", "江", NOW_US, {"tenant": "水利", "odd": '\ud800"\\'}, b"\x00\xffbytes")


def delivered(properties: Basic.Properties, body: bytes) -> Any:
    """A message as the driver hands it over, its properties encoded and decoded as on the wire."""
    wire = Basic.Properties()
    wire.unmarshal(*flags_of(properties.marshal()))
    return SimpleNamespace(header=SimpleNamespace(properties=wire), body=body)


def flags_of(data: bytes) -> tuple[int, bytes]:
    """The flag words before encoded properties, and the rest."""
    return int.from_bytes(data[:2], "big"), data[2:]


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        replace(MESSAGE, okey=None, payload=b"", headers={}),
        replace(MESSAGE, okey="", message_id=b"short", topic="x" * 300),
    ],
)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    """Any key, id, name, headers and bytes survive the way."""
    got, repeated, partial = message_of(delivered(properties_of(message, repeated=False), message.payload), "?", NOW_US)

    assert got == message
    assert (repeated, partial) == (False, False)


def test_what_is_too_large_is_marked_and_a_repeat_says_so() -> None:
    """Headers or keys that fit in no frame stay behind, and the mark says that the outbox has them."""
    for large in (replace(MESSAGE, headers={"x": "y" * 100_000}), replace(MESSAGE, okey="k" * 100_000)):
        properties = properties_of(large, repeated=True)
        got, repeated, partial = message_of(delivered(properties, b""), "?", NOW_US)

        assert (got.seq, got.message_id, repeated, partial) == (7, MESSAGE.message_id, True, True)
        assert len(properties.marshal()) < 60_000


def test_a_foreign_message_has_the_same_id_each_time_and_another_one_another() -> None:
    """Number and id follow from what a message says; a UUIDv7 is taken as it is; the number is negative."""
    sent = datetime.fromtimestamp(NOW_US // 1_000_000 - 60, UTC)

    def read(body: bytes, at_us: int = NOW_US, **named: Any) -> Message:
        return message_of(delivered(Basic.Properties(**named), body), "Told", at_us)[0]

    first, again, other = read(b"a", timestamp=sent), read(b"a", NOW_US + 5, timestamp=sent), read(b"b", timestamp=sent)
    assert (first.seq, first.message_id) == (again.seq, again.message_id)
    assert first.seq < 0
    assert first.message_id != other.message_id
    assert uuid7_us(first.message_id) // 1_000_000 == int(sent.timestamp())
    assert read(b"a").message_id == read(b"a", NOW_US + 1).message_id
    assert read(b"a", message_id=MESSAGE.message_id.hex()).message_id == MESSAGE.message_id
    assert (first.topic, first.okey, first.payload) == ("Told", None, b"a")


def test_odd_headers_of_ours_make_a_message_foreign_and_raise_nothing() -> None:
    """Whatever somebody writes into our headers, reading them is an answer."""
    table = properties_of(MESSAGE, repeated=False).headers or {}
    for name, wrong in (("dj-seq", "x"), ("dj-id", "zz"), ("dj-created", None), ("dj-topic", "gone")):
        odd = {**table, name: wrong}
        if name == "dj-topic":
            del odd[name]
        got, _, _ = message_of(delivered(Basic.Properties(headers=odd), b"{}"), "Told", NOW_US)

        assert got.seq < 0
