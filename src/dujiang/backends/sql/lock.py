"""Locks in the database: one row for each name, and the token in it.

    take     INSERT, or UPDATE ... SET token = token + 1 WHERE until_us < now     one statement, one winner
    renew    UPDATE ... SET until_us WHERE token = mine AND until_us >= now
    give     UPDATE ... SET until_us = 0 WHERE token = mine
    fence    UPDATE ... SET token = token WHERE token = mine AND until_us >= now, in the last statement before COMMIT

A row is never deleted: a name that nobody used for a year goes on with the next token, so a store outside that has seen
token 7 may refuse 6 for ever. The times are the store's, as every process of it has them (data/clock.py).

The fence is a closing piece and not SELECT ... FOR SHARE where the body begins. It holds the row from the check to the
commit, which is as long as it has to be: a token that was replaced never comes back, so who has it at the end has had
it all along. A lock on the row for the length of the transaction would keep the holder's own renewal waiting, and a long
transaction would lose its lock by being fenced. And it costs no round trip.

Who waits looks (a read, on the embedded store beside the writer) and takes only what is free: an upsert whose condition
is false still locks the row, on the one database, and stands in the queue of the one writer on the other.

testing/conformance/locks.py holds it on both databases.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dujiang.data.database import OutcomeUnknown
from dujiang.data.sql import Sql
from dujiang.data.transaction import Piece
from dujiang.locking.port import Grant, LockLost, Occupied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.messaging.tx import Tx

TAKE = Sql(
    "lock_take",
    """INSERT INTO dj_lock (name, holder, token, since_us, until_us) VALUES ($1, $2, 1, $3, $4)
       ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = dj_lock.token + 1,
         since_us = excluded.since_us, until_us = excluded.until_us
       WHERE dj_lock.until_us < $3 RETURNING token""",
    "Takes a lock that is free.",
)
LOOK = Sql(
    "lock_look", "SELECT holder, token, since_us, until_us FROM dj_lock WHERE name = $1", "Reads who has a lock."
)
RENEW = Sql(
    "lock_renew",
    "UPDATE dj_lock SET until_us = $4 WHERE name = $1 AND token = $2 AND until_us >= $3 RETURNING 1",
    "Keeps a lock for longer.",
)
GIVE = Sql("lock_give", "UPDATE dj_lock SET until_us = 0 WHERE name = $1 AND token = $2 RETURNING 1", "Frees a lock.")
FENCE = Sql(
    "lock_fence",
    "UPDATE dj_lock SET token = token WHERE name = $1 AND token = $2 AND until_us >= $3 RETURNING 1",
    "Keeps a lock from being taken until the commit; nothing when it has been.",
)


class SqlLocks:
    """The adapter `database:` of the port `lock`.

    Args:
        url: Its scheme.
        node: Whose clock is the store's.
        database: The store.
    """

    def __init__(self, url: str, node: Node, database: Database) -> None:
        self.url = url
        self._clock = node.clock
        self._database = database
        self._gatherer = self._fences  # One object: a transaction tells gatherers apart by identity.

    def __repr__(self) -> str:
        return f"<SqlLocks in {self._database.url}>"

    async def take(self, name: str, holder: str, ttl_us: int) -> Grant | Occupied:
        """Take a free lock."""
        now_us = self._clock.now_us()
        try:
            rows = await self._database.statement(TAKE, name, holder, now_us, now_us + ttl_us)
        except OutcomeUnknown:
            rows = []  # The row says it.
        if rows:
            return Grant(rows[0][0])
        found = await self._database.statement(LOOK, name)
        if not found:
            return Occupied("", now_us)
        row = found[0]
        if row[0] == holder and await self.renew(name, row[1], ttl_us):
            return Grant(row[1])
        return Occupied(row[0], row[2])

    async def look(self, name: str) -> Occupied | None:
        """Who has it."""
        rows = await self._database.read(lambda connection: connection.fetch(LOOK, name))
        return Occupied(rows[0][0], rows[0][2]) if rows and rows[0][3] >= self._clock.now_us() else None

    async def renew(self, name: str, token: int, ttl_us: int) -> bool:
        """Keep a lock for longer."""
        now_us = self._clock.now_us()
        return bool(await self._database.statement(RENEW, name, token, now_us, now_us + ttl_us))

    async def give(self, name: str, token: int) -> None:
        """Give a lock back."""
        await self._database.statement(GIVE, name, token)

    def fence(self, tx: Tx, name: str, token: int) -> None:
        """Let the transaction end with a look at the lock."""
        tx.gather(self._gatherer, (name, token))

    def _fences(self, _: Database, rows: Sequence[tuple[str, int]]) -> list[Piece]:
        now_us = self._clock.now_us()
        return [
            Piece(
                f"lock_{place}",
                FENCE,
                (name, token, now_us),
                expect=1,
                otherwise=partial(LockLost, name=name, token=token),
            )
            for place, (name, token) in enumerate(dict.fromkeys(rows))
        ]
