"""Contracts: a version of the code is refused when it cannot read what is still stored.

    start ──► form of each event = the one of the last start? ──yes──► go on
                  │ no
                  ▼
              read what is stored: unrouted, ready, running, dead; at most LOOKED of each kind, the oldest first
                  │ all of it readable: remember the form       │ not: refuse the start, with the list and the cure

A change of an event's class is harmless in the code and breaks in the data: what was published before the deploy is read
after it. Without this look it would show as a dead letter for each stored message, minutes after the deploy, when the old
version is gone.

The stored messages themselves are tried, with the new class and its upcast steps. Comparing two schemas instead would
refuse harmless changes and let harmful ones through (a validator is code). The price is that only what is there is
proven, so it says nothing about a rollback.

Letters that are dead because their bytes are no event are left out, and so is what other programs published: nobody here
promised to read it. Newer versions than ours are a rollback, and are returned (verdict.py).

The form is a hash of schema, version and steps, and lies in dj_counter. The cases C67 of the suite hold it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import to_json

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.deadletter import text_of
from dujiang.messaging.message import headers_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.message import Readable

LOOKED = 2000
NOT_RENAMED: Mapping[str, str | None] = MappingProxyType({})
SHOWN = 300

FORM = Sql("contracts_form", "SELECT value FROM dj_counter WHERE name = $1", "Reads the form of an event's last start.")
REMEMBER = Sql(
    "contracts_remember",
    "INSERT INTO dj_counter (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    "Remembers the form of an event.",
)
UNROUTED = Sql(
    "contracts_unrouted",
    """SELECT headers, payload FROM dj_outbox
       WHERE topic = $1 AND seq > (SELECT floor_seq FROM dj_relay WHERE relay_id = 1) ORDER BY seq LIMIT $2""",
    "Reads what the relay has not passed on.",
)
WAITING = """SELECT coalesce(w.headers, o.headers), coalesce(w.payload, o.payload)
             FROM dj_subscription s JOIN {table} w ON w.sub_id = s.sub_id LEFT JOIN dj_outbox o ON o.seq = w.seq
             WHERE s.topic = $1 AND s.active = 1 AND w.seq > 0 ORDER BY w.seq LIMIT $2"""
READY = Sql("contracts_ready", WAITING.format(table="dj_ready"), "Reads what waits for a reaction.")
RUNNING = Sql("contracts_running", WAITING.format(table="dj_running"), "Reads what runs.")
DEAD = Sql(
    "contracts_dead",
    """SELECT headers, payload FROM dj_dead WHERE topic = $1 AND seq > 0 AND reason <> 'undecodable'
       ORDER BY dead_id LIMIT $2""",
    "Reads dead letters that somebody may replay.",
)
PLACES = (("not yet routed", UNROUTED), ("waiting", READY), ("running", RUNNING), ("dead letters", DEAD))


@dataclass(eq=False, kw_only=True)
class ContractBroken(DujiangError):
    """This version of the code cannot read messages that are still stored.

    They were published by an earlier version, whose class of the event had another form.
    """

    code = "contract_broken"
    move = "fix"
    says = "version {version} of {event} cannot read what is stored: {stored}; the first, of version {old}: {why}"
    cure = (
        "say how the old form becomes the new one: `class {event}(Event, version={wanted})` with `@{event}.upcast({old})`; "
        "or give new fields a default; or let the old version of the code end what waits, and discard its dead letters"
    )

    event: str
    version: int
    old: int
    wanted: int
    stored: str
    why: str


def form_of(event: Readable) -> int:
    """A number that changes whenever the class reads other payloads than before, as far as its declaration tells."""
    return _form(cast("Hashable", event))


@lru_cache(maxsize=1024)  # Each start of each copy asks for it.
def _form(event: Any) -> int:
    said = [event.model_json_schema(), event.event_version, sorted(event.upcasters)]
    return int.from_bytes(hashlib.blake2b(to_json(said), digest_size=8).digest(), "big") >> 1


async def check_stored(
    database: Database,
    events: Iterable[Readable],
    renamed: Mapping[str, str | None] = NOT_RENAMED,
    *,
    remember: bool = True,
) -> None:
    """Try what is stored with the classes whose form is not the one of the last start.

    Args:
        database: Where it is stored.
        events: What reads the messages of each reaction and job.
        renamed: What is stored under an old name counts as stored under the new one.
        remember: Whether the next start may rely on this one.

    Raises:
        ContractBroken: For the first event that cannot be read.
    """
    for event in sorted(set(events), key=lambda one: one.event_name):
        name, form = f"contract:{event.event_name}", form_of(event)
        rows = await database.read(lambda connection, name=name: connection.fetch(FORM, name))  # type: ignore[misc]
        if rows and rows[0][0] == form:
            continue
        await _try(
            database, event, [event.event_name, *(old for old, new in renamed.items() if new == event.event_name)]
        )
        if remember:
            await database.write(lambda c, name=name, form=form: c.execute(REMEMBER, name, form))  # type: ignore[misc]


async def _try(database: Database, event: Readable, names: Sequence[str]) -> None:
    counts, first = Counter[str](), ("", 1)

    async def look(connection: Connection, sql: Sql) -> Sequence[Sequence[Any]]:
        return [row for name in names for row in await connection.fetch(sql, name, LOOKED)]

    for place, sql in PLACES:
        for headers, payload in await database.read(lambda connection, sql=sql: look(connection, sql)):  # type: ignore[misc]
            version = version_of(headers_of(headers))
            found = unreadable(event, version, payload)
            if found:
                counts[place] += 1
                first = first if first[0] else (found, version)
    if counts:
        stored = ", ".join(f"{count} {place}" for place, count in counts.items())
        why, old = first
        wanted = max(event.event_version, old + 1)
        raise ContractBroken(
            event=event.event_name, version=event.event_version, old=old, wanted=wanted, stored=stored, why=why
        )


def version_of(headers: dict[str, Any]) -> int:
    """The version under which a message was stored; 1 if its headers hold anything else."""
    found = headers.get("version", 1)
    return found if isinstance(found, int) else 1


def unreadable(event: Readable, version: int, payload: bytes | None) -> str:
    """Why a stored payload cannot be read by a class; empty = it can, or it is not for this version to read."""
    if payload is None or version > event.event_version:
        return ""
    try:
        event.from_bytes(bytes(payload), version)
    except Exception as error:  # noqa: BLE001  (steps and validators are foreign code)
        return " ".join(text_of(error).split())[:SHOWN]
    return ""
