"""Commit: what became of a COMMIT whose reply was lost.

    1. end the old server process, so that nothing is still under way    pg_terminate_backend, until it is gone
    2. look for what the transaction itself left                         settle(connection)
    3. ask the server's own record of the transaction                    pg_xact_status(xid), until not "in progress"

Step 1 comes first because "not there" of step 2 means nothing while the old process may still commit. The process is
known by its number and the instant at which it began: numbers come round again.

Step 3 has a trap. An id of a transaction that never reached the write-ahead log is given out again after a crash; its
record then tells of a stranger. So after a crash or restart (the link's `incarnation` differs) "committed" proves
nothing, while "aborted" and "not given out yet" still prove that ours is not there: a committed id is in the log and
never comes again. Only then, and only if step 2 cannot say either, OutcomeUnknown is raised.

tests/conformance/test_database_postgres.py loses the reply both ways.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dujiang.data.database import DatabaseRefused, DatabaseUnreachable, StatementFailed
from dujiang.data.sql import Sql
from dujiang.kernel.errors import DujiangError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dujiang.backends.postgres.connection import PostgresConnection
    from dujiang.backends.postgres.link import Link
    from dujiang.data.database import Settle
    from dujiang.kernel.clock import Clock

logger = logging.getLogger("dujiang.postgres")

XID = Sql("commit_xid", "SELECT pg_current_xact_id_if_assigned()::text", "Reads the id of a transaction that wrote.")
END_PROCESS = Sql(
    "commit_end_process",
    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
    " WHERE pid = $1 AND backend_start = $2 AND pid <> pg_backend_pid()",
    "Ends the server process whose reply was lost, and waits until it is gone.",
)
STATUS = Sql("commit_status", "SELECT pg_xact_status($1::text::xid8)", "Reads what became of a transaction.")

FUTURE_XID = "22023"
AGAIN = "again"
FIRST_WAIT_S, WAIT_S_MAX = 0.02, 0.5


async def outcome(
    lost: PostgresConnection,
    settle: Settle | None,
    connect: Callable[[], Awaitable[Link]],
    session: Callable[[Link], PostgresConnection],
    clock: Clock,
    limit_s: float,
) -> bool | None:
    """Whether the transaction of `lost` is committed; None when nothing can say within `limit_s` seconds.

    Args:
        lost: The transaction whose COMMIT got no reply; it wrote something, so its id is known.
        settle: Says it by what the transaction left behind.
        connect: Makes a link that is in no pool.
        session: Makes a connection on a link, each statement a transaction of its own.
        clock: The node's.
        limit_s: Seconds in all.
    """
    until = clock.monotonic() + limit_s
    wait_s = FIRST_WAIT_S
    while clock.monotonic() < until:
        verdict: bool | str | None = AGAIN
        try:
            link = await connect()
        except DatabaseRefused:
            return None
        except DujiangError:
            pass  # The server is starting, perhaps; that is what the time is for.
        else:
            try:
                verdict = await look(lost, settle, link, session)
            except DatabaseUnreachable:
                verdict = AGAIN
            finally:
                await link.close()
        if not isinstance(verdict, str):
            return verdict
        await clock.sleep(min(wait_s, max(0.0, until - clock.monotonic())))
        wait_s = min(wait_s * 2, WAIT_S_MAX)
    return None


async def look(
    lost: PostgresConnection, settle: Settle | None, link: Link, session: Callable[[Link], PostgresConnection]
) -> bool | str | None:
    """One look: the verdict, None when nothing can ever say, or AGAIN while the old process lives."""
    ended = await session(link).fetch(END_PROCESS, lost.link.pid, lost.link.began)
    gone = all(row[0] for row in ended)
    # A session of its own: a statement of `settle` that fails must not close the way to the record.
    left = await left_behind(settle, session(link)) if settle is not None else None
    if left or (left is False and gone):
        return left
    return await recorded(lost, link, session(link))


async def left_behind(settle: Settle, connection: PostgresConnection) -> bool | None:
    """What `settle` says; an error of it is "cannot say"."""
    try:
        return await settle(connection)
    except DatabaseUnreachable:
        raise
    except Exception:
        logger.exception("a lost COMMIT is settled by the server's record, because looking for its rows failed")
        return None


async def recorded(lost: PostgresConnection, link: Link, connection: PostgresConnection) -> bool | str | None:
    """What the server's record says."""
    try:
        status = (await connection.fetch(STATUS, lost.xid))[0][0]
    except StatementFailed as error:
        return False if error.sqlstate == FUTURE_XID else None
    if status == "in progress":
        return AGAIN
    if status == "committed":
        return True if link.incarnation == lost.link.incarnation else None
    return False if status == "aborted" else None
