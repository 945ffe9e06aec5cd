"""Subscriptions: who wants which events; the declaration in code and its row in the database.

A subscription's name is stored. A stored name that the code no longer has would leave its work waiting for ever, so the
start is refused until somebody says `renamed={"old": "new"}` or, for a reaction that is gone on purpose,
`renamed={"old": None}`: what still waits for it then ends as cancelled, counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError
from dujiang.resilience.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dujiang.data.database import Connection, Database
    from dujiang.messaging.message import Event

OnFail = Literal["park_key", "skip", "halt"]
Start = Literal["now", "beginning"]

ALL = Sql(
    "subscription_all", "SELECT sub_id, name, active FROM dj_subscription ORDER BY sub_id", "Reads the catalogue."
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
    "INSERT INTO dj_subscription (sub_id, name, topic, ordered, active) VALUES ($1, $2, $3, $4, 1)",
    "Adds a subscription.",
)
UPDATE = Sql(
    "subscription_update",
    "UPDATE dj_subscription SET topic = $2, ordered = $3, active = 1 WHERE sub_id = $1",
    "Brings a subscription to what the code says.",
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
       WHERE o.topic = $4 AND o.seq <= (SELECT floor_seq FROM dj_relay WHERE relay_id = 1) ON CONFLICT DO NOTHING""",
    "Gives a new subscription every event that the outbox still holds.",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Subscription:
    """A declared reaction, as messaging sees it.

    Attributes:
        name: The stored name, `module.function` by default.
        event: The class of its events.
        handle: Runs the handler: (tx, events) for a batch of one or more.
        ordered: Whether events with one key are handled one after another, in commit order.
        on_fail: What a dead event of an ordered subscription does to its key.
        retry: The bound on tries.
        batch: Events at most in one transaction of a handler that takes lists.
        lists: Whether the handler takes lists; otherwise it is called for each event.
        concurrency: Transactions at once in one process.
        timeout_s: How long one run may take.
        start: Whether a new subscription begins with what comes now or with what the outbox still holds.
    """

    name: str
    event: type[Event]
    handle: Callable[[Any, Sequence[Event]], Awaitable[Sequence[Any]]]
    ordered: bool = False
    on_fail: OnFail = "park_key"
    retry: Retry = Retry()  # noqa: RUF009  (immutable)
    batch: int = 1
    lists: bool = False
    concurrency: int = 8
    timeout_s: float = 60.0
    start: Start = "now"


@dataclass(eq=False, kw_only=True)
class NamesStranded(DujiangError):
    """The database knows names that the code no longer has; their work would wait for ever."""

    code = "names_stranded"
    move = "fix"
    says = "subscriptions without code: {names}"
    cure = 'say what became of them: App(renamed={{"old.name": "new.name"}}), or None for one that is gone on purpose'

    names: str


async def activate(
    database: Database, subscriptions: Sequence[Subscription], renamed: Mapping[str, str | None], now_us: int
) -> dict[str, int]:
    """Make the catalogue equal to the code; the number of each subscription by name.

    Raises:
        NamesStranded: If the catalogue has active names that the code neither has nor renames.
    """

    async def body(connection: Connection) -> dict[str, int]:
        await connection.execute(LOCK_RELAY)
        for old, new in renamed.items():
            if new is not None:
                await connection.execute(RENAME, old, new)
            else:
                await connection.execute(CANCEL, old, now_us)
                await connection.execute(DROP, old)
                await connection.execute(RETIRE, old)
        rows = await connection.fetch(ALL)
        known = {row[1]: row[0] for row in rows}
        names = {subscription.name for subscription in subscriptions}
        stranded = [row[1] for row in rows if row[2] and row[1] not in names]
        if stranded:
            raise NamesStranded(names=", ".join(stranded))
        last = max((row[0] for row in rows), default=0)
        for subscription in subscriptions:
            topic, ordered = subscription.event.event_name, int(subscription.ordered)
            if subscription.name in known:
                await connection.execute(UPDATE, known[subscription.name], topic, ordered)
                continue
            last += 1
            known[subscription.name] = last
            await connection.execute(FENCE_RELAY)
            await connection.execute(INSERT, last, subscription.name, topic, ordered)
            if subscription.start == "beginning":
                await connection.execute(FROM_BEGINNING, last, ordered, now_us, topic)
        return {name: known[name] for name in names}

    return await database.write(body)
