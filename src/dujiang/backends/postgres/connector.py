"""Connector: makes the connections of one database, to whichever of its servers takes writes (hosts.py)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from dujiang.backends.postgres.errors import unconnected
from dujiang.backends.postgres.hosts import Hosts
from dujiang.backends.postgres.link import ABOUT, Link
from dujiang.backends.postgres.options import session_name
from dujiang.data.database import DatabaseRefused, DatabaseUnreachable
from dujiang.kernel.context import current_or_none
from dujiang.kernel.errors import DeadlinePassed

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

    from dujiang.backends.postgres.options import Address, Host

VERSION_MIN = 14
# The arrays of statements with many rows, by their numbers in the catalog, which are the same on every server: bool, bytea,
# int2, int4, text, bpchar, varchar, int8, float4, float8, timestamp, date, time, timestamptz, timetz, numeric, uuid.
ARRAYS = (1000, 1001, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1115, 1182, 1183, 1185, 1270, 1231, 2951)


class Connector:
    """Makes links for one running copy.

    Args:
        address: Where, and with which limits.
        dialect: Says how JSON is read.
        node_name: Stands in the server's list of sessions.

    Attributes:
        hosts: The servers, and which was the primary last.
    """

    def __init__(self, address: Address, dialect: PGDialect_asyncpg, node_name: str) -> None:
        self._address = address
        self._dialect = dialect
        self._node_name = node_name
        self.hosts = Hosts(address.shown, address.hosts)
        self._arrays: list[Any] | None = None

    def __repr__(self) -> str:
        return f"<Connector {self.hosts!r}>"

    async def writer(self) -> Link:
        """A link that may write. Raises DatabaseUnreachable, DatabaseRefused, DeadlinePassed."""
        return await self._connect(read_only=False)

    async def reader(self) -> Link:
        """A link whose transactions only read; to the same server."""
        return await self._connect(read_only=True)

    async def servers(self) -> list[dict[str, str]]:
        """What each server is at this moment."""
        return await self.hosts.look(partial(self._open, read_only=False), self._address.options.connect_timeout)

    async def _connect(self, *, read_only: bool) -> Link:
        context = current_or_none()
        remaining_s = context.remaining_s() if context is not None else None
        longest_s = self._address.options.connect_timeout
        limit_s = longest_s if remaining_s is None else min(longest_s, remaining_s)
        try:
            return await self.hosts.connect(partial(self._open, read_only=read_only), limit_s)
        except DatabaseUnreachable as cause:
            if isinstance(cause.__cause__, TimeoutError) and remaining_s is not None and remaining_s <= longest_s:
                raise DeadlinePassed(what=f"connecting to {self._address.shown}", limit_s=limit_s) from cause
            raise

    async def _open(self, host: Host, limit_s: float, *, read_only: bool) -> Link:
        """A new connection to one server, with our session settings."""
        options, shown = self._address.options, self._address.shown
        settings = {
            "application_name": session_name(self._node_name),
            # A backend that waits for a lock does not hear that its client is gone, gets the lock, and holds it for nobody.
            "client_connection_check_interval": "1s",
            "default_transaction_isolation": "read committed",
            "idle_in_transaction_session_timeout": milliseconds(options.idle_timeout),
            "lock_timeout": milliseconds(options.lock_timeout),
            "statement_timeout": milliseconds(options.statement_timeout),
            "timezone": "UTC",
        }
        if read_only:  # Nobody is told "off": that would override an operator who fences the server.
            settings["default_transaction_read_only"] = "on"
        driver: Any = None
        try:
            async with asyncio.timeout(limit_s):
                driver = await asyncpg.connect(host.dsn, server_settings=settings, timeout=options.connect_timeout)
                major = driver.get_server_version().major
                if major < VERSION_MIN:
                    raise DatabaseRefused(
                        url=shown, why=f"its version is {major}; Dujiang needs {VERSION_MIN} or later"
                    )
                # The very codecs that SQLAlchemy sets: its types then fit the rows of both ways into the database.
                untyped: Any = self._dialect
                await untyped.setup_asyncpg_json_codec(Carrier(driver))
                await untyped.setup_asyncpg_jsonb_codec(Carrier(driver))
                await self._teach_arrays(driver)
                return Link(driver, await driver.fetchrow(ABOUT.text), read_only=read_only)
        except BaseException as cause:
            if driver is not None:
                driver.terminate()
            if isinstance(cause, DatabaseRefused) or not isinstance(cause, Exception):
                raise
            raise unconnected(cause, url=shown) from cause

    async def _teach_arrays(self, driver: Any) -> None:
        """Tell the driver what arrays are made of.

        It would ask the catalog when a connection meets an array first: six round trips in the middle of a transaction that
        holds locks, on each new connection after a fault. The first connection asks, and the others are told.
        """
        if self._arrays is None:
            self._arrays, _ = await driver._introspect_types(ARRAYS, None)  # noqa: SLF001  (there is no public way)
        driver._protocol.get_settings().register_data_types(self._arrays)  # noqa: SLF001


class Carrier:
    """What SQLAlchemy's set-up of codecs expects: the driver's connection as `_connection`."""

    def __init__(self, driver: Any) -> None:
        self._connection = driver


def milliseconds(seconds: float) -> str:
    """Seconds as the server's settings want them."""
    return f"{max(1, round(seconds * 1000))}ms"
