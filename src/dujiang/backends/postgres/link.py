"""Link: one connection of the driver, with what was prepared on it and what is known of its server process.

Each statement is prepared once per link and then costs one round trip. The statements are kept by us, not by the
driver's own cache, because a kept statement gives rows and the number of matched rows in one call, and costs less on
the way.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from dujiang.data.sql import Sql

PREPARED_MAX = 500
# A text longer than this is a list unfolded into places, and hardly ever comes twice.
PREPARED_CHARS_MAX = 15_000
CLOSE_S = 2.0

ABOUT = Sql(
    "link_about",
    "SELECT (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())),"
    " pg_postmaster_start_time()::text || coalesce((SELECT stats_reset::text FROM pg_stat_bgwriter), ''),"
    " current_setting('synchronous_standby_names') <> '', pg_is_in_recovery(),"
    " current_setting('default_transaction_read_only') = 'on', CASE WHEN pg_is_in_recovery() THEN 0"
    " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END",
    "Reads when this process began, what changes when the server restarts or crashes, whether a standby confirms, whether"
    " it is one, whether it is fenced, and its timeline.",
)


class Link:
    """One connection; used by one caller at a time.

    Attributes:
        driver: The driver's connection.
        prepared: Its statements, by text.
        fresh: Nobody has used it yet, so a failure is news about the server and not about an old socket.
        began: When its server process began.
        incarnation: Changes when the server restarts, also after a crash.
        read_only: This connection only reads.
        standby: The server is in recovery.
        fenced: Its operator lets no session write.
        timeline: Grows with each promotion; 0 on a standby.
        commit: The text that commits. Where a standby confirms, the server's limit on a statement is lifted first:
            ended by it, COMMIT would answer success without the standby.
    """

    __slots__ = (
        *("_doomed", "began", "commit", "described", "driver", "fenced", "fresh", "incarnation", "pid", "prepared"),
        *("read_only", "standby", "timeline"),
    )

    def __init__(self, driver: Any, about: Any, *, read_only: bool = False) -> None:
        self.driver = driver
        self.pid: int = driver.get_server_pid()
        self.prepared: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        self.fresh = True
        self.began, self.incarnation, confirmed, self.standby, fenced, self.timeline = about
        self.read_only, self.fenced = read_only, fenced and not read_only
        self.commit = "SET LOCAL statement_timeout = 0; COMMIT" if confirmed else "COMMIT"
        self._doomed = False

    def __repr__(self) -> str:
        return f"<Link {self.pid}{'' if self.usable else ' broken'}>"

    def doom(self) -> None:
        """A reply may be half read: nobody may use this connection again."""
        self._doomed = True

    @property
    def usable(self) -> bool:
        """Whether another caller may have it: open, in step with the server, and in no transaction."""
        return not (self._doomed or self.driver.is_closed() or self.driver.is_in_transaction())

    @property
    def usable_inside(self) -> bool:
        """Whether the transaction on it can go on: open, and in step with the server."""
        return not (self._doomed or self.driver.is_closed())

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open on it."""
        return self.usable_inside and bool(self.driver.is_in_transaction())

    async def prepare(self, text: str, timeout_s: float) -> Any:
        """The prepared statement of a text."""
        statement = self.prepared.get(text)
        if statement is None:
            statement = await self.driver.prepare(text, timeout=timeout_s)
            if len(text) <= PREPARED_CHARS_MAX:
                if len(self.prepared) >= PREPARED_MAX:
                    oldest = next(iter(self.prepared))
                    del self.prepared[oldest]
                    self.described.pop(oldest, None)
                self.prepared[text] = statement
        return statement

    def forget_prepared(self) -> None:
        """Drop all statements, because the schema changed under them."""
        self.prepared.clear()
        self.described.clear()

    async def close(self) -> None:
        """End a running statement on the server, say goodbye, and close; by force after 2 s. Never raises."""
        self._doomed = True
        self.forget_prepared()
        try:
            await self.driver.close(timeout=CLOSE_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            self.driver.terminate()
        except BaseException:
            self.driver.terminate()
            raise
