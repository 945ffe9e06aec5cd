"""Forgotten: the log of what cached answers must no longer be given, written by the transactions that change the data.

    tx.forget(read_order, 7)  ──►  a row of dj_forgotten, in the closing statement of the same transaction
                                            │
    each process that caches ◄── look ──────┘   a few times a second: what was committed since my last look?

The row exists if and only if the change does, so a lost invalidation would be a lost commit. Nothing carries it: each
process asks the database itself. So a broker that is away, a relay that died or a wake-up that was lost neither delays an
invalidation nor loses one; the first design sent them through the outbox, where all three did.

What is new since the last look is answered exactly. A number drawn from a sequence would lose rows: transactions commit in
another order than they draw. Where the database has snapshots a row carries the id of its transaction, and new are the
rows that the snapshot of the last look does not show and this one does. On the embedded store one writer commits in order,
so there the row's number will do.

The log is cut after a while. `forgotten_cut` in dj_counter says how far, so a process that looked away for too long learns
that it missed something, and does not conclude from an empty answer that nothing happened.

A row holds numbers of 48 bits, made from names, and no names: they say nothing about a customer. Two names with one number
cost a needless load. The first number is drawn for the row alone: by it a process recognises its own rows, which it has
acted upon already. tests/conformance/test_forgotten.py holds this on both databases, late commits and a cut log included.

What is cut off is bounded by a transaction's number, and numbers are no order of commits: one that was running at the last
look and whose number lies below the cut may have ended and been cut off since. Then something was missed as well.

A process that shares answers with others also needs to know what was forgotten before its first look, by which transaction
(`history`): what is still in the log, and the number up to which it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.messaging.position import Position, at_number, at_snapshot, origin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dujiang.data.database import Database

# More names than this in one transaction, and the row says "everything": it is cheaper for all to begin anew.
NAMES_MAX = 10_000
ROWS_MAX = 10_000
KEEP_US = 600_000_000
EVERYTHING = "*"

INSERT_WITH_XID = Sql(
    "forgotten_insert_with_xid",
    "INSERT INTO dj_forgotten (xid, created_us, names) SELECT own.xid, $1, $2 FROM own RETURNING 1",
    "Notes what a transaction makes outdated, under the transaction's id.",
)
INSERT_IN_ORDER = Sql(
    "forgotten_insert_in_order",
    "INSERT INTO dj_forgotten (created_us, names) VALUES ($1, $2) RETURNING 1",
    "Notes what a transaction makes outdated, where one writer commits in order.",
)
PRESENT_SNAPSHOT = Sql("forgotten_present_snapshot", "SELECT pg_current_snapshot()::text", "Where the log is now.")
PRESENT_NUMBER = Sql(
    "forgotten_present_number",
    """SELECT max(coalesce((SELECT max(seq) FROM dj_forgotten), 0),
                  (SELECT value FROM dj_counter WHERE name = 'forgotten_cut'))""",
    "Where the log is now, where one writer commits in order.",
)
SINCE_SNAPSHOT = Sql(
    "forgotten_since_snapshot",
    """SELECT pg_current_snapshot()::text, f.names, f.xid::text::bigint,
              NOT pg_visible_in_snapshot(c.value::text::xid8, $1::text::pg_snapshot) OR EXISTS
                (SELECT 1 FROM pg_snapshot_xip($1::text::pg_snapshot) AS ran
                 WHERE ran <= c.value::text::xid8 AND pg_visible_in_snapshot(ran, pg_current_snapshot()))
       FROM dj_counter c LEFT JOIN
         (SELECT xid, names FROM dj_forgotten WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
            AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) LIMIT $2) f ON true
       WHERE c.name = 'forgotten_cut'""",
    "What was committed between an earlier snapshot and this one, and whether some of it was cut off.",
)
SINCE_NUMBER = Sql(
    "forgotten_since_number",
    """SELECT coalesce(f.seq, $1), f.names, f.seq, c.value > $1
       FROM dj_counter c LEFT JOIN (SELECT seq, names FROM dj_forgotten WHERE seq > $1 ORDER BY seq LIMIT $2) f ON true
       WHERE c.name = 'forgotten_cut' ORDER BY 1 DESC""",
    "What came after a number, where one writer commits in order, and whether some of it was cut off.",
)
HISTORY_SNAPSHOT = Sql(
    "forgotten_history_snapshot",
    """SELECT pg_current_snapshot()::text, f.names, f.xid::text::bigint, c.value,
              concat_ws('/', current_database(), pg_postmaster_start_time(),
                        (SELECT stats_reset FROM pg_stat_bgwriter), left(pg_walfile_name(pg_current_wal_lsn()), 8))
       FROM dj_counter c LEFT JOIN (SELECT xid, names FROM dj_forgotten ORDER BY xid DESC LIMIT $1) f ON true
       WHERE c.name = 'forgotten_cut' ORDER BY f.xid DESC""",
    "What is in the log, the newest first, how far it is cut, and what tells this life of the server from others.",
)
HISTORY_NUMBER = Sql(
    "forgotten_history_number",
    """SELECT max(coalesce((SELECT max(seq) FROM dj_forgotten), 0), c.value), f.names, f.seq, c.value, 'one writer'
       FROM dj_counter c LEFT JOIN (SELECT seq, names FROM dj_forgotten ORDER BY seq DESC LIMIT $1) f ON true
       WHERE c.name = 'forgotten_cut' ORDER BY f.seq DESC""",
    "What is in the log, the newest first, and how far it is cut, where one writer commits in order.",
)
CUT_WITH_XID = Sql(
    "forgotten_cut_with_xid",
    """WITH gone AS (DELETE FROM dj_forgotten WHERE xid IN
                     (SELECT xid FROM dj_forgotten WHERE created_us < $1 ORDER BY xid LIMIT $2) RETURNING xid)
       UPDATE dj_counter SET value = greatest(value, (SELECT max(xid::text::bigint) FROM gone))
       WHERE name = 'forgotten_cut' AND EXISTS (SELECT 1 FROM gone) RETURNING (SELECT count(*) FROM gone)""",
    "Deletes a slice of old rows and says how far.",
)
LAST_OLD = Sql(
    "forgotten_last_old",
    """SELECT max(seq), count(*) FROM
       (SELECT seq FROM dj_forgotten WHERE created_us < $1 ORDER BY seq LIMIT $2) old""",
    "The end of the next slice of old rows.",
)
MARK_CUT = Sql(
    "forgotten_mark_cut",
    "UPDATE dj_counter SET value = $1 WHERE name = 'forgotten_cut'",
    "Says how far the log is cut.",
)
DELETE_TO = Sql("forgotten_delete_to", "DELETE FROM dj_forgotten WHERE seq <= $1", "Deletes a slice of old rows.")


class Forgettable(Protocol):
    """What `tx.forget` takes besides a tag: something that knows which cached answers its arguments mean."""

    def names_of(self, *args: Any, **kwargs: Any) -> Iterable[str]:
        """The names under which those answers lie. Raises ForgetRefused when the arguments name none."""
        ...


class Row(NamedTuple):
    """A row of the log.

    Attributes:
        mark: Its own number, by which the process that wrote it knows it again.
        names: What is forgotten.
        number: Its transaction's; positions show it or do not.
    """

    mark: int
    names: tuple[int, ...]
    number: int


@dataclass(frozen=True, slots=True)
class News:
    """What a look at the log found.

    Attributes:
        position: Where the log is now; for the next look.
        missed: Whether something may have been cut off, or was too much to read.
        rows: What was forgotten since the last look.
    """

    position: Any
    missed: bool
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What the log still holds.

    Attributes:
        position: Where the log is now; for the next look.
        origin: Names the server's life and the database.
        horizon: Of transactions up to this number something may be missing.
        rows: What was forgotten by the others; a row that means everything has the name ALL.
    """

    position: Any
    origin: bytes
    horizon: int
    rows: tuple[Row, ...]


def tag_name(tag: str) -> str:
    """The name of what carries a tag."""
    return f"tag\x1f{tag}"


def number_of(name: str) -> int:
    """The number that stands for a name in the log; 48 bits."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")


ALL = number_of(tag_name(EVERYTHING))


def means_all(names: Sequence[int]) -> bool:
    """Whether these names are to be taken for everything."""
    return ALL in names or len(names) > NAMES_MAX


def insert_piece(database: Database, now_us: int, mark: int, names: Sequence[int]) -> Piece:
    """The closing piece that notes what a transaction makes outdated, under a number that is this row's alone."""
    distinct = sorted(set(names))
    text = EVERYTHING if means_all(distinct) else ",".join(map(str, (mark, *distinct)))
    sql = INSERT_WITH_XID if database.capabilities.xid_horizon else INSERT_IN_ORDER
    return Piece("forgotten", sql, (now_us, text))


async def present(database: Database) -> Any:
    """Where the log is now."""
    sql = PRESENT_SNAPSHOT if database.capabilities.xid_horizon else PRESENT_NUMBER
    return (await database.read(lambda c: c.fetch(sql)))[0][0]


async def since(database: Database, position: Any) -> News:
    """What was committed after an earlier position, in no order."""
    sql = SINCE_SNAPSHOT if database.capabilities.xid_horizon else SINCE_NUMBER
    rows = await database.read(lambda c: c.fetch(sql, position, ROWS_MAX + 1))
    found = [(text, number) for _, text, number, _ in rows if text is not None]
    missed = bool(rows[0][3]) or len(found) > ROWS_MAX or any(text == EVERYTHING for text, _ in found)
    return News(rows[0][0], missed, () if missed else tuple(parsed(text, number) for text, number in found))


async def history(database: Database) -> History:
    """What the log still holds, and where it is now."""
    sql = HISTORY_SNAPSHOT if database.capabilities.xid_horizon else HISTORY_NUMBER
    rows = await database.read(lambda c: c.fetch(sql, ROWS_MAX + 1))
    position, _, _, horizon, origin = rows[0]
    found = [parsed(text, number) for _, text, number, *_ in rows if text is not None]
    if len(found) > ROWS_MAX:
        horizon = max(horizon, found.pop().number)
    return History(position, origin_of(origin), horizon, tuple(found))


def placed(position: Any, origin: bytes) -> Position:
    """A position of the log in the form that other processes understand."""
    return at_snapshot(origin, position) if isinstance(position, str) else at_number(origin, position)


def parsed(text: str, number: int) -> Row:
    """A row, from its text and the number of its transaction."""
    if text == EVERYTHING:
        return Row(-1, (ALL,), number)
    mark, *names = map(int, text.split(","))
    return Row(mark, tuple(names), number)


async def cut(database: Database, before_us: int, limit: int = 1000) -> int:
    """Delete up to `limit` rows older than a time; how many went."""
    if database.capabilities.xid_horizon:
        rows = await database.statement(CUT_WITH_XID, before_us, limit)
        return int(rows[0][0]) if rows else 0

    async def body(connection: Any) -> int:
        final, count = (await connection.fetch(LAST_OLD, before_us, limit))[0]
        if count:
            await connection.execute(MARK_CUT, final)
            await connection.execute(DELETE_TO, final)
        return int(count)

    return await database.write(body)
