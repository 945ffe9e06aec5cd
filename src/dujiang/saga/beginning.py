"""Beginning: the reactions of a saga: to the event that begins one, and to those for which it waits.

    OrderPlaced     ──► key, state ──► one transaction: dj_saga, if there is none with the key, and its work row
    PaymentCaptured ──► key ──► one transaction: the event is kept; a saga that waits for it now is woken

Events of different classes have no order between them, so one that is waited for may come before the event that begins its
saga. It is kept under the key, and the saga finds it when its time has come.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dujiang.jobs.enqueue import number_of
from dujiang.kernel.context import current
from dujiang.kernel.ids import uuid7
from dujiang.messaging import direct
from dujiang.messaging.message import received_text
from dujiang.saga import store
from dujiang.saga.kind import KeyRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.messaging.message import Event
    from dujiang.messaging.tx import Tx
    from dujiang.saga.definition import Saga, Wait
    from dujiang.saga.kind import Kind


async def begin(
    tx: Tx, kind: Kind, saga: type[Saga[Any]], event: Event, key: Callable[[Any], object], within_us: int
) -> None:
    """Begin a saga, unless one with its key is known."""
    context, flow = current(), kind.flow
    sub_id = await number_of(tx, kind.name)
    saga_id = tx.new_id()
    data = flow.adapter.dump_json(saga.begin(event))
    text = key_text(kind.name, key(event))
    deadline_us = tx.now_us + within_us
    row = (saga_id, sub_id, context.tenant, text, kind.version, flow.parts[0].name, data, deadline_us, tx.now_us)
    if not await tx.fetch(store.INSERT, *row):
        return
    message_id = uuid7(tx.now_us, context.node.entropy.bits(62))
    headers = tx.envelope(step=0)
    if kind.version > 1:
        headers["version"] = kind.version
    work = (
        sub_id,
        saga_id,
        context.tenant,
        message_id,
        store.TOPIC + kind.name,
        tx.now_us,
        received_text(headers),
        b"{}",
    )
    tx.gather(direct.insert_pieces, (*work, tx.now_us))
    tx.after_commit.append(partial(context.runtime.bells.ring_far, f"sub{sub_id}"))


async def hear(tx: Tx, kind: Kind, wait: Wait[Event], event: Event) -> None:
    """Keep an event for the saga of its key, and wake that if it waits for it now."""
    found = wait.by(event)
    if found is None:
        return
    context, text, topic = current(), key_text(f"{kind.name}.{wait.name}", found), wait.event.event_name
    sub_id = await number_of(tx, kind.name)
    at = (sub_id, context.tenant, text)
    await store.alone_on(tx, context.runtime.database, *at)
    rows = await tx.fetch(store.OF_KEY, *at)
    if rows and rows[0][1] is not None:
        return  # It has ended: too late.
    cause = tx.cause
    assert cause is not None  # A reaction always has one.
    kept = (cause.message_id, cause.seq, wait.event.event_version, event.to_bytes(), tx.now_us)
    await tx.fetch(store.ARRIVE, *at, topic, *kept)
    if rows and rows[0][2] == topic:
        await tx.fetch(store.WAKE, sub_id, rows[0][0], tx.now_us)
        tx.after_commit.append(partial(context.runtime.bells.ring_far, f"sub{sub_id}"))


def key_text(where: str, key: object) -> str:
    """The text of a key. Raises KeyRefused."""
    text = str(key)
    if key is None or not text or len(text) > store.KEY_MAX or "\x00" in text:
        raise KeyRefused(saga=where, length=len(text))
    return text
