"""Link: one connection of the driver, with what was prepared on it and what is known of its server process.

Each statement is prepared once per link and then costs one round trip. The statements are kept by us, not by the
driver's own cache, because a kept statement gives rows and the number of matched rows in one call, and costs less on
the way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from dujiang.backends.postgres.errors import unconnected
from dujiang.backends.postgres.options import session_name
from dujiang.data.database import DatabaseRefused
from dujiang.data.sql import Sql
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DeadlinePassed

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

    from dujiang.backends.postgres.options import Address

PREPARED_MAX = 500
# A text longer than this is a list unfolded into places, and hardly ever comes twice.
PREPARED_CHARS_MAX = 15_000
CLOSE_S = 2.0
VERSION_MIN = 14

ABOUT = Sql(
    "link_about",
    "SELECT (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())),"
    " pg_postmaster_start_time()::text || coalesce((SELECT stats_reset::text FROM pg_stat_bgwriter), ''),"
    " current_setting('synchronous_standby_names') <> ''",
    "Reads when this process began, what changes when the server restarts or crashes, and whether a standby confirms.",
)


class Link:
    """One connection; used by one caller at a time.

    Attributes:
        driver: The driver's connection.
        prepared: Its statements, by text.
        fresh: Nobody has used it yet, so a failure is news about the server and not about an old socket.
        began: When its server process began.
        incarnation: Changes when the server restarts, also after a crash.
        commit: The text that commits. Where a standby confirms, the server's limit on a statement is lifted first:
            ended by it, COMMIT would answer success without the standby.
    """

    __slots__ = ("_doomed", "began", "commit", "described", "driver", "fresh", "incarnation", "pid", "prepared")

    def __init__(self, driver: Any, about: Any) -> None:
        self.driver = driver
        self.pid: int = driver.get_server_pid()
        self.prepared: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        self.fresh = True
        self.began, self.incarnation, confirmed = about
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


async def connected(address: Address, dialect: PGDialect_asyncpg, node_name: str, *, read_only: bool = False) -> Link:
    """A new connection with our session settings. Raises DatabaseUnreachable or DatabaseRefused."""
    options = address.options
    settings = {
        "application_name": session_name(node_name),
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "on" if read_only else "off",
        "idle_in_transaction_session_timeout": milliseconds(options.idle_timeout),
        "lock_timeout": milliseconds(options.lock_timeout),
        "statement_timeout": milliseconds(options.statement_timeout),
        "timezone": "UTC",
    }
    context = current_or_none()
    remaining_s = context.remaining_s() if context is not None else None
    limit_s = options.connect_timeout if remaining_s is None else min(options.connect_timeout, remaining_s)
    driver: Any = None
    try:
        async with asyncio.timeout(limit_s):
            driver = await asyncpg.connect(address.dsn, server_settings=settings, timeout=options.connect_timeout)
            major = driver.get_server_version().major
            if major < VERSION_MIN:
                raise DatabaseRefused(
                    url=address.shown, why=f"its version is {major}; Dujiang needs {VERSION_MIN} or later"
                )
            # The very codecs that SQLAlchemy sets: its types then fit the rows of both ways into the database.
            untyped: Any = dialect
            await untyped.setup_asyncpg_json_codec(Carrier(driver))
            await untyped.setup_asyncpg_jsonb_codec(Carrier(driver))
            return Link(driver, await driver.fetchrow(ABOUT.text))
    except BaseException as cause:
        if driver is not None:
            driver.terminate()
        if isinstance(cause, TimeoutError) and remaining_s is not None and remaining_s <= options.connect_timeout:
            raise DeadlinePassed(what=f"connecting to {address.shown}", limit_s=limit_s) from cause
        if isinstance(cause, DatabaseRefused) or not isinstance(cause, Exception):
            raise
        raise unconnected(cause, url=address.shown) from cause


class Carrier:
    """What SQLAlchemy's set-up of codecs expects: the driver's connection as `_connection`."""

    def __init__(self, driver: Any) -> None:
        self._connection = driver


def milliseconds(seconds: float) -> str:
    """Seconds as the server's settings want them."""
    return f"{max(1, round(seconds * 1000))}ms"
