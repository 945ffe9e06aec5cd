"""Catalogue: the subscriptions in the database, made equal to the code at each start; and what of it belongs to other versions.

    in the catalogue    in the code      at a start
    -                   a reaction       added; it begins with what comes now, or as `start=` says
    a name              the same         its event and its order as the code says, if nothing of another event is stored
    a name              another, said    `renamed={"old": "new"}`: it goes on under the new name; None: what waits is cancelled
    a name              -                this very program has run here before: left to the version that has it, with a warning
    a name              -                otherwise: refused, its work would wait for ever

A deploy is undone by starting the version before it, which knows nothing of the reactions that the deploy brought. That
version must start: its own reactions are all there, and what the others wait for waits for the version that comes back. A
version in which somebody removed a reaction, and said nothing, looks the same by its names. It is told apart because it has
never run here: every start leaves the mark of its program (a row `program:<hash>` in dj_counter), made from what it says of
its reactions and their events. A program whose every contract is as before is the program from before.

Refused: a list of the newest names in the store, which an older version would have to trust; the version number of the
app, which nobody raises for a hotfix; letting everything start, because a forgotten reaction is then missed months later.

A message knows its event by name. A reaction that takes another event than before cannot read what waits of the old one,
so that is refused too, with what is stranded; `renamed={"OldEvent": "NewEvent"}` gives what is stored the new name.
tests/conformance/test_broker.py (C67) and tests/cli/test_rolled_back.py go forward and back with waiting work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic_core import to_json

from dujiang.data.sql import Sql
from dujiang.kernel.clock import microseconds
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.contracts import form_of
from dujiang.messaging.work import COUNTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.subscription import Subscription

ALL = Sql(
    "subscription_all",
    "SELECT sub_id, name, topic, active FROM dj_subscription ORDER BY sub_id",
    "Reads the catalogue.",
)
LOCK_RELAY = Sql(
    "subscription_lock_relay",
    "UPDATE dj_relay SET floor_seq = floor_seq WHERE relay_id = 1",
    "Keeps the relay and other starting processes out while the catalogue changes.",
)
FENCE_RELAY = Sql(
    "subscription_fence_relay",
    "UPDATE dj_relay SET lease = lease + 1, owner_lease = 0 WHERE relay_id = 1",
    "Makes the relay read the catalogue anew: a routing statement that waited for us would still see the old one.",
)
INSERT = Sql(
    "subscription_insert",
    "INSERT INTO dj_subscription (sub_id, name, topic, ordered, active, routed) VALUES ($1, $2, $3, $4, 1, $5)",
    "Adds a subscription.",
)
UPDATE = Sql(
    "subscription_update",
    """UPDATE dj_subscription SET topic = $2, ordered = $3, active = 1, routed = $4
       WHERE sub_id = $1 AND (topic <> $2 OR ordered <> $3 OR active <> 1 OR routed <> $4)""",
    "Brings a subscription to what the code says, if it is something else.",
)
RENAME = Sql(
    "subscription_rename", "UPDATE dj_subscription SET name = $2 WHERE name = $1", "Gives a subscription its new name."
)
RETIRE = Sql("subscription_retire", "UPDATE dj_subscription SET active = 0 WHERE name = $1", "Ends a subscription.")
CANCEL = Sql(
    "subscription_cancel",
    """INSERT INTO dj_outcome (sub_id, seq, state, finished_us, attempts, duration_us)
       SELECT r.sub_id, r.seq, 4, $2, r.attempt, 0 FROM dj_ready r JOIN dj_subscription s ON s.sub_id = r.sub_id
       WHERE s.name = $1""",
    "Counts what waits for a subscription as cancelled.",
)
DROP = Sql(
    "subscription_drop",
    "DELETE FROM dj_ready WHERE sub_id = (SELECT sub_id FROM dj_subscription WHERE name = $1)",
    "Drops what waits for a subscription.",
)
FROM_BEGINNING = Sql(
    "subscription_from_beginning",
    """INSERT INTO dj_ready (sub_id, seq, okey, tenant, attempt, crashes, message_id, run_at)
       SELECT $1, o.seq, CASE WHEN $2 = 1 THEN o.okey END, '', 0, 0, o.message_id, $3 FROM dj_outbox o
       WHERE o.topic = $4 AND o.created_us >= $5 AND o.seq <= (SELECT floor_seq FROM dj_relay WHERE relay_id = 1)
       ON CONFLICT DO NOTHING""",
    "Gives a new subscription every event since a time that the outbox still holds.",
)
PROGRAM = Sql(
    "catalogue_program", "SELECT 1 FROM dj_counter WHERE name = $1", "Tells whether a program has run here before."
)
MARK = Sql(
    "catalogue_mark",
    "INSERT INTO dj_counter (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
    "Leaves the mark of a program; its value is when it first ran here.",
)
STRANDED = Sql(
    "catalogue_stranded",
    """SELECT (SELECT count(*) FROM dj_ready WHERE sub_id = $1), (SELECT count(*) FROM dj_running WHERE sub_id = $1),
              (SELECT count(*) FROM dj_dead WHERE sub_id = $1 AND topic = $2 AND seq > 0 AND reason <> 'undecodable'),
              (SELECT count(*) FROM dj_outbox o WHERE o.topic = $2
               AND o.seq > coalesce((SELECT value FROM dj_counter WHERE name = $3),
                                    (SELECT floor_seq FROM dj_relay WHERE relay_id = 1))
               AND NOT EXISTS (SELECT 1 FROM dj_inbox i WHERE i.message_id = o.message_id AND i.sub_id = $1)
               AND NOT EXISTS (SELECT 1 FROM dj_ready r WHERE r.sub_id = $1 AND r.seq = o.seq)
               AND NOT EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.seq = o.seq)
               AND NOT EXISTS (SELECT 1 FROM dj_dead d WHERE d.sub_id = $1 AND d.seq = o.seq))""",
    "Counts what is stored of a subscription's former event: waiting, running, dead, not yet there.",
)
RETITLE = tuple(
    Sql(
        f"catalogue_retitle_{table}",
        f"UPDATE dj_{table} SET topic = $2 WHERE topic = $1",
        "Gives what is stored of a renamed event its new name.",
    )
    for table in ("outbox", "ready", "running", "dead")
)


@dataclass(eq=False, kw_only=True)
class NamesStranded(DujiangError):
    """The database knows names that the code no longer has; their work would wait for ever.

    A version of the code that has worked on this database before may start beside the names that newer ones have added,
    as long as its own are all there.
    """

    code = "names_stranded"
    move = "fix"
    says = "subscriptions without code: {names}"
    cure = 'say what became of them: App(renamed={{"old.name": "new.name"}}), or None for one that is gone on purpose'

    names: str


@dataclass(eq=False, kw_only=True)
class EventStranded(DujiangError):
    """A reaction takes another event than before, and messages of the former one are still stored for it."""

    code = "event_stranded"
    move = "fix"
    says = "{reaction} took {former} and takes {event} now; of {former} there are still {stored}"
    cure = (
        'keep the stored name: class {event}(Event, name="{former}"); or, with every process of the old version stopped, '
        'App(renamed={{"{former}": "{event}"}}), None if what is stored may be cancelled; or let the old version end it'
    )

    reaction: str
    former: str
    event: str
    stored: str


@dataclass(frozen=True, kw_only=True)
class Activated:
    """The catalogue after a start.

    Attributes:
        numbers: The number of each subscription of the code, by name.
        foreign: The names that other versions have, and how much waits for each.
    """

    numbers: dict[str, int]
    foreign: dict[str, int]


async def activate(
    database: Database, subscriptions: Sequence[Subscription], renamed: Mapping[str, str | None], now_us: int
) -> Activated:
    """Make the catalogue equal to the code, but for what belongs to other versions.

    Raises:
        NamesStranded: If the catalogue has active names that the code neither has nor renames, and this program has not
            run here before, or one of its own names is gone.
        EventStranded: If messages are stored for a subscription whose event is another one now.
    """

    async def body(connection: Connection) -> Activated:
        await connection.execute(LOCK_RELAY)
        await _rename(connection, renamed, now_us)
        rows = await connection.fetch(ALL)
        names = {subscription.name for subscription in subscriptions}
        strange = [name for _, name, _, active in rows if active and name not in names]
        foreign = await _left(connection, subscriptions, {row[1] for row in rows}, strange) if strange else {}
        known = {name: (number, topic) for number, name, topic, _ in rows}
        last = max((row[0] for row in rows), default=0)
        for subscription in subscriptions:
            if subscription.name in known:
                await _keep(connection, subscription, *known[subscription.name], renamed, now_us)
                continue
            last += 1
            known[subscription.name] = (last, subscription.event.event_name)
            await _add(connection, subscription, last, now_us)
        await connection.execute(MARK, mark_of(subscriptions), now_us)
        return Activated(numbers={name: known[name][0] for name in names}, foreign=foreign)

    return await database.write(body)


async def check_catalogue(
    connection: Connection, subscriptions: Sequence[Subscription], renamed: Mapping[str, str | None]
) -> dict[str, int]:
    """What `activate` would refuse, raised without a change; what it would leave to other versions."""
    rows = await connection.fetch(ALL)
    present = {renamed.get(name, name) if name in renamed else name for _, name, _, _ in rows}
    names = {subscription.name for subscription in subscriptions}
    strange = [name for _, name, _, active in rows if active and name not in names and name not in renamed]
    foreign = await _left(connection, subscriptions, present, strange) if strange else {}
    known = {renamed.get(name) or name: (number, topic) for number, name, topic, _ in rows}
    for subscription in subscriptions:
        number, topic = known.get(subscription.name, (0, ""))
        if number and subscription.routed and topic not in (subscription.event.event_name, *renamed):
            await _refuse_stranded(connection, subscription, number, topic)
    return foreign


def mark_of(subscriptions: Sequence[Subscription]) -> str:
    """The name of a program's mark: the same as long as nothing changes of what it says of its reactions."""
    said = [(each.name, each.event.event_name, form_of(each.event), each.ordered) for each in subscriptions]
    return f"program:{hashlib.blake2b(to_json(sorted(said)), digest_size=16).hexdigest()}"


async def _left(
    connection: Connection, subscriptions: Sequence[Subscription], present: set[str | None], strange: Sequence[str]
) -> dict[str, int]:
    """How much waits for each name that is left to other versions. Raises NamesStranded unless it may be."""
    counts = {name: (ready + running, dead) for name, ready, running, dead in await connection.fetch(COUNTS)}
    ran = await connection.fetch(PROGRAM, mark_of(subscriptions))
    if not ran or not {subscription.name for subscription in subscriptions} <= present:
        told = [f"{name} ({counts[name][0]} waiting, {counts[name][1]} dead)" for name in strange]
        raise NamesStranded(names=", ".join(told))
    return {name: counts[name][0] for name in strange}


async def _rename(connection: Connection, renamed: Mapping[str, str | None], now_us: int) -> None:
    """Give subscriptions their new names, and end those that are gone on purpose."""
    for old, new in renamed.items():
        if new is not None:
            await connection.execute(RENAME, old, new)
        else:
            # First: it waits for a replay that is under way, so that what that puts back is cancelled too.
            await connection.execute(RETIRE, old)
            await connection.execute(CANCEL, old, now_us)
            await connection.execute(DROP, old)
            await connection.execute(FENCE_RELAY)


async def _keep(
    connection: Connection,
    subscription: Subscription,
    number: int,
    former: str,
    renamed: Mapping[str, str | None],
    now_us: int,
) -> None:
    """Bring a known subscription to what the code says."""
    topic = subscription.event.event_name
    # What waits for a job is titled by the job's own name, which has just been changed.
    if former != topic and (renamed.get(former) == topic or not subscription.routed):
        for retitle in RETITLE:
            await connection.execute(retitle, former, topic)
    elif former != topic and former in renamed:
        await connection.execute(CANCEL, subscription.name, now_us)
        await connection.execute(DROP, subscription.name)
    elif former != topic:
        await _refuse_stranded(connection, subscription, number, former)
    if await connection.execute(UPDATE, number, topic, int(subscription.ordered), int(subscription.routed)):
        await connection.execute(FENCE_RELAY)


async def _add(connection: Connection, subscription: Subscription, number: int, now_us: int) -> None:
    """Add a subscription, with what it begins with."""
    topic, ordered = subscription.event.event_name, int(subscription.ordered)
    await connection.execute(FENCE_RELAY)
    await connection.execute(INSERT, number, subscription.name, topic, ordered, int(subscription.routed))
    if subscription.start != "now":
        since_us = 0 if subscription.start == "beginning" else microseconds(subscription.start)
        await connection.execute(FROM_BEGINNING, number, ordered, now_us, topic, since_us)


async def _refuse_stranded(connection: Connection, subscription: Subscription, number: int, former: str) -> None:
    """Raise EventStranded if anything of its former event is stored for a subscription."""
    found = (await connection.fetch(STRANDED, number, former, f"arrived:{number}"))[0]
    words = ("waiting", "running", "dead letters", "on their way")
    stored = ", ".join(f"{count} {word}" for count, word in zip(found, words, strict=True) if count)
    if stored:
        event = subscription.event.event_name
        raise EventStranded(reaction=subscription.name, former=former, event=event, stored=stored)
