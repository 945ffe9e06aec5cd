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
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece

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
    """SELECT pg_current_snapshot()::text, NOT pg_visible_in_snapshot(c.value::text::xid8, $1::text::pg_snapshot), f.names
       FROM dj_counter c LEFT JOIN
         (SELECT names FROM dj_forgotten WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
            AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) LIMIT $2) f ON true
       WHERE c.name = 'forgotten_cut'""",
    "What was committed between an earlier snapshot and this one, and whether some of it was cut off.",
)
SINCE_NUMBER = Sql(
    "forgotten_since_number",
    """SELECT coalesce(f.seq, $1), c.value > $1, f.names
       FROM dj_counter c LEFT JOIN (SELECT seq, names FROM dj_forgotten WHERE seq > $1 ORDER BY seq LIMIT $2) f ON true
       WHERE c.name = 'forgotten_cut' ORDER BY 1 DESC""",
    "What came after a number, where one writer commits in order, and whether some of it was cut off.",
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


@dataclass(frozen=True, slots=True)
class News:
    """What a look at the log found.

    Attributes:
        position: Where the log is now; for the next look.
        missed: Whether something may have been cut off, or was too much to read.
        rows: What was forgotten since the last look: the mark of each row, and its names.
    """

    position: Any
    missed: bool
    rows: tuple[tuple[int, tuple[int, ...]], ...] = ()


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
    texts = [text for _, _, text in rows if text is not None]
    missed = bool(rows[0][1]) or len(texts) > ROWS_MAX or EVERYTHING in texts
    return News(rows[0][0], missed, () if missed else tuple(map(parsed, texts)))


def parsed(text: str) -> tuple[int, tuple[int, ...]]:
    """The mark of a row, and its names."""
    mark, *names = map(int, text.split(","))
    return mark, tuple(names)


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
