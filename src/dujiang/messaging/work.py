"""Work: what each subscription still has to do. The table in which a row lies is its state.

    outbox --relay--> dj_ready --claim--> dj_running --ack--> (gone; one row in dj_outcome)
                         ^                    |
                         +------ retry -------+---- dead --> dj_dead (and dj_hold for an ordered key)

No status column is ever updated: an update of an indexed status is what bloats job tables. Each table stays as small as
the work that is in that state now.

A claim is fenced by the lease number of the claiming process and the attempt: whoever lost its lease finds no row to
acknowledge and its transaction rolls back (`LeaseLost`). Ordered work carries its key: the unique index on
(subscription, key) in dj_running lets one event of a key run at a time, wherever; the head of each key is found by a loose
index scan from a rotating cursor, so a key with 5,000 waiting events costs the others nothing. A key whose event is
dead is held: its later events stay in dj_ready and are passed over until somebody replays or discards the dead one.

The unique indexes decide, not the reads; READ COMMITTED is enough. tests/conformance/test_broker.py races four workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.kernel.errors import DujiangError
from dujiang.messaging.outbox import message_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Connection, Database, Settle
    from dujiang.messaging.message import Message

COLUMNS = "sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload"
MOVED = "d.seq, d.attempt, d.crashes, {0}"
# A replayed row carries its own copy of the message, because the outbox may have dropped the original.
BODY = """d.message_id, coalesce(d.topic, o.topic), d.okey, coalesce(d.created_us, o.created_us),
          coalesce(d.headers, o.headers), coalesce(d.payload, o.payload)"""

CLAIM_FREE = Sql(
    "work_claim_free",
    f"""WITH c AS (SELECT sub_id, seq FROM dj_ready WHERE sub_id = $1 AND okey IS NULL AND run_at <= $2
                   AND NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = $1 AND h.okey = E'\\x01')
                   ORDER BY run_at, seq LIMIT $3 FOR UPDATE SKIP LOCKED),
        d AS (DELETE FROM dj_ready r USING c WHERE r.sub_id = c.sub_id AND r.seq = c.seq RETURNING r.*),
        i AS (INSERT INTO dj_running ({COLUMNS}, lease, started_us)
              SELECT sub_id, seq, okey, tenant, attempt + 1, crashes, message_id, topic, created_us, headers, payload, $4, $2
              FROM d)
        SELECT d.seq, d.attempt + 1, d.crashes, {BODY} FROM d LEFT JOIN dj_outbox o ON o.seq = d.seq ORDER BY d.seq""",
    "Takes due unordered work, passing over rows that another process is taking.",
)
HEADS = Sql(
    "work_heads",
    """WITH RECURSIVE k(okey, n) AS (
         SELECT (SELECT okey FROM dj_ready WHERE sub_id = $1 AND okey IS NOT NULL AND okey >= $2 ORDER BY okey LIMIT 1), 1
         UNION ALL
         SELECT (SELECT r.okey FROM dj_ready r WHERE r.sub_id = $1 AND r.okey IS NOT NULL AND r.okey > k.okey
                 ORDER BY r.okey LIMIT 1), k.n + 1 FROM k WHERE k.okey IS NOT NULL AND k.n < $3)
       SELECT k.okey,
              (SELECT r.seq FROM dj_ready r WHERE r.sub_id = $1 AND r.okey IS NOT NULL AND r.okey = k.okey
               ORDER BY r.seq LIMIT 1),
              (SELECT r.run_at FROM dj_ready r WHERE r.sub_id = $1 AND r.okey IS NOT NULL AND r.okey = k.okey
               ORDER BY r.seq LIMIT 1),
              (EXISTS (SELECT 1 FROM dj_running u WHERE u.sub_id = $1 AND u.okey IS NOT NULL AND u.okey = k.okey)
               OR EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = $1 AND h.okey IN (k.okey, $4)))
       FROM k WHERE k.okey IS NOT NULL""",
    "The oldest waiting event of each key after the cursor, and whether the key is busy or held.",
)
CLAIM_KEYED = Sql(
    "work_claim_keyed",
    f"""WITH c AS (SELECT r.* FROM dj_ready r WHERE r.sub_id = $1 AND r.seq = ANY($2::bigint[]) AND NOT EXISTS
                    (SELECT 1 FROM dj_ready e WHERE e.sub_id = r.sub_id AND e.okey = r.okey AND e.seq < r.seq)
                   AND NOT EXISTS
                    (SELECT 1 FROM dj_hold h WHERE h.sub_id = r.sub_id AND h.okey IN (r.okey, E'\\x01'))
                   ORDER BY okey FOR UPDATE SKIP LOCKED),
        i AS (INSERT INTO dj_running ({COLUMNS}, lease, started_us)
              SELECT sub_id, seq, okey, tenant, attempt + 1, crashes, message_id, topic, created_us, headers, payload, $4, $3
              FROM c ON CONFLICT DO NOTHING RETURNING sub_id, seq),
        d AS (DELETE FROM dj_ready r USING i WHERE r.sub_id = i.sub_id AND r.seq = i.seq RETURNING r.*)
        SELECT d.seq, d.attempt + 1, d.crashes, {BODY} FROM d LEFT JOIN dj_outbox o ON o.seq = d.seq ORDER BY d.seq""",
    "Takes the heads of keys; the unique index on running keys refuses what another process took first.",
)
# The same moves where one writer works: no locks to skip, three plain statements in one transaction.
PICK_FREE = Sql(
    "work_pick_free",
    """SELECT seq FROM dj_ready WHERE sub_id = $1 AND okey IS NULL AND run_at <= $2
       AND NOT EXISTS (SELECT 1 FROM dj_hold h WHERE h.sub_id = $1 AND h.okey = char(1)) ORDER BY run_at, seq LIMIT $3""",
    "Finds due unordered work.",
)
COPY_TO_RUNNING = Sql(
    "work_copy_to_running",
    f"""INSERT INTO dj_running ({COLUMNS}, lease, started_us)
        SELECT sub_id, seq, okey, tenant, attempt + 1, crashes, message_id, topic, created_us, headers, payload, $4, $3
        FROM dj_ready WHERE sub_id = $1 AND seq IN (SELECT value FROM json_each($2)) RETURNING 1""",
    "Copies picked work to running.",
)
DROP_READY = Sql(
    "work_drop_ready",
    "DELETE FROM dj_ready WHERE sub_id = $1 AND seq IN (SELECT value FROM json_each($2))",
    "Removes picked work from ready.",
)
RUNNING_BODIES = Sql(
    "work_running_bodies",
    f"""SELECT d.seq, d.attempt, d.crashes, {BODY} FROM dj_running d LEFT JOIN dj_outbox o ON o.seq = d.seq
        WHERE d.sub_id = $1 AND d.seq IN (SELECT value FROM json_each($2)) ORDER BY d.seq""",
    "Reads picked work with its messages.",
)
ACK_ARRAYS = Sql(
    "work_ack_arrays",
    """DELETE FROM dj_running r USING unnest($2::bigint[], $3::int[]) AS a(seq, attempt)
       WHERE r.sub_id = $1 AND r.seq = a.seq AND r.attempt = a.attempt AND r.lease = $4 RETURNING 1""",
    "Ends claims, if they are still ours.",
)
ACK_ONE = Sql(
    "work_ack_one",
    "DELETE FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4 RETURNING 1",
    "Ends one claim, if it is still ours.",
)
STILL_RUNNING = Sql(
    "work_still_running",
    "SELECT 1 FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4",
    "Says whether a claim is still open.",
)
OF_LEASE = Sql(
    "work_of_lease",
    f"""SELECT d.seq, d.attempt, d.crashes, {BODY} FROM dj_running d LEFT JOIN dj_outbox o ON o.seq = d.seq
        WHERE d.sub_id = $1 AND d.lease = $2""",
    "Reads what lies under a lease.",
)
OUTCOME_ARRAYS = Sql(
    "work_outcome_arrays",
    """INSERT INTO dj_outcome (sub_id, seq, state, finished_us, attempts, duration_us)
       SELECT $1, seq, $4, $5, attempt, $6 FROM unnest($2::bigint[], $3::int[]) AS a(seq, attempt) RETURNING 1""",
    "Counts finished work: one narrow row for each.",
)
OUTCOME_ONE = Sql(
    "work_outcome_one",
    """INSERT INTO dj_outcome (sub_id, seq, attempts, state, finished_us, duration_us) VALUES ($1, $2, $3, $4, $5, $6)
       RETURNING 1""",
    "Counts one finished piece of work.",
)
RETURN_CLAIM = Sql(
    "work_return_claim",
    f"""INSERT INTO dj_ready ({COLUMNS}, run_at)
        SELECT sub_id, seq, okey, tenant, attempt - $6, crashes, message_id, topic, created_us, headers, payload, $5
        FROM dj_running WHERE sub_id = $1 AND seq = $2 AND attempt = $3 AND lease = $4 ON CONFLICT DO NOTHING RETURNING 1""",
    "Puts a claim back to ready, due at a time; $6 = 1 forgets the attempt.",
)
LOCK_OF_LEASE = Sql(
    "work_lock_of_lease",
    "UPDATE dj_running SET lease = lease WHERE lease = $1",
    "Waits for whoever is just ending a claim of this lease, so that it is not put back although it was ended.",
)
ORPHANED = Sql(
    "work_orphaned",
    """SELECT DISTINCT r.lease FROM dj_running r
       WHERE NOT EXISTS (SELECT 1 FROM dj_process p WHERE p.lease = r.lease AND p.expires_us > 0)""",
    "Finds leases that hold work although no living process has them: it was claimed after they had been ended.",
)
RETURN_OF_LEASE = Sql(
    "work_return_of_lease",
    f"""INSERT INTO dj_ready ({COLUMNS}, run_at)
        SELECT sub_id, seq, okey, tenant, attempt, crashes, message_id, topic, created_us, headers, payload, $2
        FROM dj_running WHERE lease = $1 RETURNING sub_id""",
    "Puts back to ready what a dead process was doing.",
)
DROP_OF_LEASE = Sql(
    "work_drop_of_lease", "DELETE FROM dj_running WHERE lease = $1", "Ends the claims of a dead process."
)
COUNTS = Sql(
    "work_counts",
    """SELECT s.name, (SELECT count(*) FROM dj_ready r WHERE r.sub_id = s.sub_id),
              (SELECT count(*) FROM dj_running u WHERE u.sub_id = s.sub_id),
              (SELECT count(*) FROM dj_dead d WHERE d.sub_id = s.sub_id)
       FROM dj_subscription s WHERE s.active = 1 ORDER BY s.name""",
    "How much work each subscription has ready, running and dead.",
)

# The key under which dj_hold stops a whole subscription; no order key begins with this character.
HALT = "\x01"

STATE_DONE, STATE_DEAD, STATE_DUPLICATE, STATE_CANCELLED, STATE_EXPIRED = 1, 2, 3, 4, 5


@dataclass(eq=False, kw_only=True)
class LeaseLost(DujiangError):
    """This process lost its lease; what it did since is rolled back and another process does it."""

    code = "lease_lost"
    move = "wait"
    says = "{subscription} no longer holds {count} pieces of work"

    subscription: str
    count: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One piece of work that this process holds under its lease.

    Attributes:
        sub_id: The subscription.
        attempt: This run's number, from 1.
        crashes: How many processes died while they ran it.
        lease: The lease number under which it was claimed.
        message: The message.
    """

    sub_id: int
    attempt: int
    crashes: int
    lease: int
    message: Message


@dataclass(frozen=True, kw_only=True)
class Worked:
    """What became of a claim; for metrics.

    Attributes:
        subscription: Its name.
        outcome: `done`, `duplicate`, `retried`, `snoozed` or `dead`.
        took_s: Seconds from the start of the run to its end.
        delay_s: Seconds from the message's transaction to the end of the run.
    """

    subscription: str
    outcome: str
    took_s: float
    delay_s: float


def claims_of(rows: Sequence[Sequence[Any]], sub_id: int, lease: int) -> list[Claim]:
    """Claims from rows of (seq, attempt, crashes, message_id, topic, okey, created_us, headers, payload)."""
    return [Claim(sub_id, row[1], row[2], lease, message_of((row[0], *row[3:]))) for row in rows]


async def claim_free(database: Database, sub_id: int, lease: int, now_us: int, limit: int) -> list[Claim]:
    """Claim up to `limit` due events without a key."""
    if database.capabilities.skip_locked:
        return claims_of(await database.statement(CLAIM_FREE, sub_id, now_us, limit, lease), sub_id, lease)
    return await database.write(lambda connection: claim_inside(database, connection, sub_id, lease, now_us, limit))


async def claim_inside(
    database: Database, connection: Connection, sub_id: int, lease: int, now_us: int, limit: int
) -> list[Claim]:
    """The same in a transaction that is open."""
    if database.capabilities.skip_locked:
        rows = await connection.fetch(CLAIM_FREE, sub_id, now_us, limit, lease)
    else:
        found = [row[0] for row in await connection.fetch(PICK_FREE, sub_id, now_us, limit)]
        rows = await take(connection, sub_id, found, now_us, lease) if found else []
    return claims_of(rows, sub_id, lease)


async def take(connection: Connection, sub_id: int, seqs: list[int], now_us: int, lease: int) -> list[Sequence[Any]]:
    """Move picked rows from ready to running and read them, where one writer works."""
    listed = "[" + ",".join(map(str, seqs)) + "]"
    await connection.fetch(COPY_TO_RUNNING, sub_id, listed, now_us, lease)
    await connection.execute(DROP_READY, sub_id, listed)
    return await connection.fetch(RUNNING_BODIES, sub_id, listed)


class KeyCursor:
    """Where the next round over the keys of one subscription begins; it wraps, so that no key starves.

    Attributes:
        start: The first key to look at; the empty text is a key too.
        width: How many keys to look at.
    """

    def __init__(self) -> None:
        self.start = ""
        self.width = 64


async def claim_keyed(
    database: Database, sub_id: int, lease: int, now_us: int, limit: int, cursor: KeyCursor
) -> tuple[list[Claim], int | None]:
    """Claim the heads of up to `limit` keys; also when the next waiting head is due, in microseconds, or None."""
    began, look = cursor.start, (sub_id, cursor.start, cursor.width, HALT)
    heads = await database.read(lambda c: c.fetch(HEADS, *look))
    wrapped = len(heads) < cursor.width
    free = [row for row in heads if not row[3]]
    due = [row for row in free if row[2] <= now_us][:limit]
    waiting = min((row[2] for row in free if row[2] > now_us), default=None)
    taken_all = len(due) < limit
    # No key lies between a key and the same key with the smallest character behind it.
    cursor.start = "" if wrapped and taken_all else (heads[-1][0] if taken_all else due[-1][0]) + HALT
    # Most heads busy: look further next time; mostly free: a narrow look is cheaper.
    cursor.width = min(4096, cursor.width * 2) if heads and not due else 64
    if not due:
        return [], (waiting if wrapped and not began else now_us)  # Not the whole round was seen: look on at once.
    seqs = [row[1] for row in due]
    if database.capabilities.skip_locked:
        rows = await database.statement(CLAIM_KEYED, sub_id, seqs, now_us, lease)
    else:

        async def look_again(connection: Connection) -> list[Sequence[Any]]:
            # The reader saw committed rows only; the writer's own view decides.
            heads = {row[1] for row in await connection.fetch(HEADS, *look) if not row[3]}
            still = [seq for seq in seqs if seq in heads]
            return await take(connection, sub_id, still, now_us, lease) if still else []

        rows = await database.write(look_again)
    return claims_of(rows, sub_id, lease), waiting


def ack_pieces(
    database: Database, name: str, claims: Sequence[Claim], state: int, now_us: int, took_us: int
) -> list[Piece]:
    """The closing pieces that end claims and count them; a lost lease raises LeaseLost and rolls everything back."""
    sub_id, lease = claims[0].sub_id, claims[0].lease

    def lost() -> Exception:
        return LeaseLost(subscription=name, count=len(claims))

    if database.capabilities.arrays:
        seqs, attempts = [claim.message.seq for claim in claims], [claim.attempt for claim in claims]
        return [
            Piece("ack", ACK_ARRAYS, (sub_id, seqs, attempts, lease), expect=len(claims), otherwise=lost),
            Piece("outcome", OUTCOME_ARRAYS, (sub_id, seqs, attempts, state, now_us, took_us)),
        ]
    pieces = []
    for claim in claims:
        seq, attempt = claim.message.seq, claim.attempt
        pieces.append(Piece("ack", ACK_ONE, (sub_id, seq, attempt, lease), expect=1, otherwise=lost))
        pieces.append(Piece("outcome", OUTCOME_ONE, (sub_id, seq, attempt, state, now_us, took_us)))
    return pieces


async def end_claim(connection: Connection, name: str, claim: Claim) -> None:
    """End one claim inside a transaction; raises LeaseLost when it is no longer ours."""
    seq = claim.message.seq
    if not await connection.fetch(ACK_ONE, claim.sub_id, seq, claim.attempt, claim.lease):
        raise LeaseLost(subscription=name, count=1)


async def claims_of_lease(database: Database, sub_id: int, lease: int) -> list[Claim]:
    """Everything of one subscription that lies under a lease."""
    rows = await database.read(lambda connection: connection.fetch(OF_LEASE, sub_id, lease))
    return claims_of(rows, sub_id, lease)


async def still_running(connection: Connection, claim: Claim) -> bool:
    """Whether a claim is still open under its lease."""
    return bool(await connection.fetch(STILL_RUNNING, claim.sub_id, claim.message.seq, claim.attempt, claim.lease))


def settled_by(claim: Claim) -> Settle:
    """Says after a lost reply whether the commit happened: the same transaction ends the claim."""

    async def settle(connection: Connection) -> bool:
        return not await still_running(connection, claim)

    return settle


def belong_together(first: Claim, other: Claim) -> bool:
    """Whether two claims may share a transaction: one lease, one tenant, and no process died of either."""
    if first.crashes or other.crashes:
        return False
    return first.lease == other.lease and first.message.headers.get("tenant") == other.message.headers.get("tenant")


async def give_back(
    database: Database, name: str, claim: Claim, run_at_us: int, *, forget_attempt: bool = False
) -> None:
    """Put a claim back to ready, due at a time. Raises LeaseLost when it is no longer ours."""

    async def body(connection: Connection) -> None:
        seq = claim.message.seq
        await connection.fetch(
            RETURN_CLAIM, claim.sub_id, seq, claim.attempt, claim.lease, run_at_us, 1 if forget_attempt else 0
        )
        await end_claim(connection, name, claim)

    await database.write(body)


async def release_lease(connection: Connection, lease: int, now_us: int) -> set[int]:
    """Put everything that a lease held back to ready; the subscriptions concerned. For the reaper and for a stop."""
    await connection.execute(LOCK_OF_LEASE, lease)
    rows = await connection.fetch(RETURN_OF_LEASE, lease, now_us)
    if rows:
        await connection.execute(DROP_OF_LEASE, lease)
    return {row[0] for row in rows}


async def orphaned_leases(connection: Connection) -> list[int]:
    """Lease numbers that hold work and that no living process has."""
    return [row[0] for row in await connection.fetch(ORPHANED)]
